"""`make bench-replica`: memory and start-up time of a replica of the API with a million users.

    python -m tests.benchmarks.replica [--users 1000000]

Fills `recommendations` and the users' changelog on a local broker as compaction leaves them: list, head and facts of each user.
Then starts `isthmus api` three times: on empty topics (what a start costs without users), from an empty store, and from the
store that this one left. Writes build/replica.json and prints its rows.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.deployment import Deployment, deployment, say, used
from tests.benchmarks.exclusive import exclusive_run
from tests.benchmarks.users import States, fill, list_id, name_of, real_states

READY_S: Final = 900.0
CHECKED: Final = 1_000
"""Users whose lists are read after each start: as many as one request may name."""
OUT: Final = Path("build/replica.json")


def start(running: Deployment, store: Path, users: int, timeout_s: float = READY_S) -> dict[str, Any]:
    """Starts a replica, waits until it is ready, checks what it serves, and stops it. Its row begins with the process.

    Raises:
        ValueError: it serves another list than the topic's, or knows a user whom the topics do not.
    """
    log = running.folder / "api.log"
    log.unlink(missing_ok=True)
    began = time.perf_counter()
    api = running.start_api(ISTHMUS_API__STATE_DIR=str(store))
    running.wait_until_ready(timeout_s)
    row: dict[str, Any] = {"ready_s": round(time.perf_counter() - began, 2), **used(api)}
    row["partitions_read_whole"] = log.read_text().count("is read from its beginning")
    check_lists(running, users)
    row["resident_after_reads_mb"] = used(api)["resident_mb"]
    running.stop()
    row["store_mb"] = round(sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) / 1e6)
    return row


def check_lists(running: Deployment, users: int) -> None:
    """Reads lists of users spread over all, and of one more than there are."""
    asked = sorted({*range(0, users, max(1, users // (CHECKED - 2))), users} if users else {0})[-CHECKED:]
    answer = running.post("/v1/users/batch", {"users": [name_of(user) for user in asked]})
    found = {one["user_id"]: one.get("recommendation_id") for one in answer["lists"]}
    wanted = {name_of(user): list_id(user) if user < users else None for user in asked}
    if found != wanted:
        wrong = [user for user in wanted if found.get(user, "") != wanted[user]]
        raise ValueError(f"the replica serves other lists than the topic's: of {len(wrong)} users, such as {wrong[:3]}")


def measure(folder: Path, users: int, states: States) -> list[dict[str, Any]]:
    began = time.perf_counter()
    with deployment(folder) as running:
        rows = [{"store": "no users", "users": 0, **start(running, folder / "none", 0)}]
        say(began, f"filling the topics with {users:,} users")
        asyncio.run(fill(running.bootstrap, users, lambda user: say(began, f"{user:,} users"), states=states))
        for kind in ("empty", "kept"):
            say(began, f"starting from a store that is {kind}")
            rows.append({"store": kind, "users": users, **start(running, folder / "store", users)})
            say(began, str(rows[-1]))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    options = parser.parse_args()
    with exclusive_run(), tempfile.TemporaryDirectory(prefix="isthmus-replica-") as temporary:
        folder = Path(temporary)
        rows = measure(folder, options.users, real_states(folder / "model"))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
