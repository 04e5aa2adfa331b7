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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from stream.core.events import Item, Source
from stream.core.outputs import Cause, Modalities, ModelName, RankedItem, Recommendation
from stream.core.partitioner import partition_of
from stream.core.state import FACTS_PREFIX, HEAD_PREFIX, Facts, Head, encode_state
from stream.kafka.cluster.clients import async_producer
from stream.kafka.cluster.producer import InputRecord, produce
from stream.kafka.cluster.topics import WORKER_GROUP, changelog_name
from stream.kafka.faust.changelog import term_headers
from tests.benchmarks.deployment import TOPICS, Deployment, deployment, say, used
from tests.benchmarks.exclusive import exclusive_run

ITEMS: Final = tuple(str(number) for number in range(1, 25))
LISTED, RESERVED = 5, 10
READY_S: Final = 900.0
CHECKED: Final = 1_000
"""Users whose lists are read after each start: as many as one request may name."""
SAY_EVERY: Final = 100_000
OUT: Final = Path("build/replica.json")
States = Sequence[Mapping[bytes, bytes]]
"""State records by key prefix (`h`, `f`), which users have in turn."""


class Filler:
    """Sends records in large batches of one partition each, which costs a fraction of sending them one by one."""

    def __init__(self, producer: Any, topic: str, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        self._producer = producer
        self._topic = topic
        self._headers = list(headers)
        self._filling: dict[int, Any] = {}
        self._sent: list[Any] = []

    async def add(self, number: int, key: bytes, value: bytes) -> None:
        batch = self._filling.setdefault(number, self._producer.create_batch())
        if batch.append(key=key, value=value, timestamp=None, headers=self._headers) is None:
            await self._close(number)
            await self.add(number, key, value)

    async def _close(self, number: int) -> None:
        batch = self._filling.pop(number)
        batch.close()
        self._sent.append(await self._producer.send_batch(batch, self._topic, partition=number))
        if len(self._sent) > 64:
            await self._acknowledged()

    async def finish(self) -> None:
        for number in list(self._filling):
            await self._close(number)
        await self._acknowledged()

    async def _acknowledged(self) -> None:
        await asyncio.gather(*self._sent)
        self._sent.clear()


def name_of(user: int) -> str:
    return f"user-{user:07}"


async def fill(bootstrap: str, users: int, states: States, progress: Callable[[int], None]) -> None:
    """Writes the catalogue, and each user's list and state."""
    records = [InputRecord("items", item, msgspec.json.encode(Item(item, f"Item {item}"))) for item in ITEMS]
    await produce(bootstrap, records, TOPICS.model_dump(), lambda _: None)
    producer = async_producer(bootstrap, max_batch_size=1 << 18)
    await producer.start()
    lists = Filler(producer, TOPICS.recommendations)
    changelog = Filler(producer, changelog_name(WORKER_GROUP), term_headers(1))
    try:
        for user, made in enumerate(_lists(users)):
            key = name_of(user).encode()
            number = partition_of(key, TOPICS.partitions)
            await lists.add(number, key, made)
            for prefix, value in states[user % len(states)].items():
                await changelog.add(number, prefix + key, value)
            if user % SAY_EVERY == 0:
                progress(user)
        await lists.finish()
        await changelog.finish()
    finally:
        await producer.stop()


def _lists(users: int) -> Iterator[bytes]:
    """Each user's list, as a worker sends it: five items and a reserve of ten."""
    encode = msgspec.json.Encoder().encode
    for user in range(users):
        chosen = [ITEMS[(user + rank) % len(ITEMS)] for rank in range(LISTED + RESERVED)]
        ranked = [RankedItem(item, rank, round(0.9 - rank / 100, 4)) for rank, item in enumerate(chosen, start=1)]
        yield encode(
            Recommendation(
                recommendation_id=f"{user:024x}",
                user_id=name_of(user),
                occurred_at=1_790_000_000_000,
                caused_by=Cause(f"e-{user}", Source.CLICK, 1_790_000_000_000),
                model=ModelName("isthmus", "7"),
                items=tuple(ranked[:LISTED]),
                reserve=tuple(ranked[LISTED:]),
                modalities=Modalities(2, 1),
            )
        )


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
    wanted = {name_of(user): f"{user:024x}" if user < users else None for user in asked}
    if found != wanted:
        wrong = [user for user in wanted if found.get(user, "") != wanted[user]]
        raise ValueError(f"the replica serves other lists than the topic's: of {len(wrong)} users, such as {wrong[:3]}")


def measure(folder: Path, users: int, states: States) -> list[dict[str, Any]]:
    began = time.perf_counter()
    with deployment(folder) as running:
        rows = [{"store": "no users", "users": 0, **start(running, folder / "none", 0)}]
        say(began, f"filling the topics with {users:,} users")
        asyncio.run(fill(running.bootstrap, users, states, lambda user: say(began, f"{user:,} users")))
        for kind in ("empty", "kept"):
            say(began, f"starting from a store that is {kind}")
            rows.append({"store": kind, "users": users, **start(running, folder / "store", users)})
            say(began, str(rows[-1]))
    return rows


def small_states() -> States:
    """States of users of whom nothing is known but that they are there."""
    return [{HEAD_PREFIX: encode_state(Head(owned=("item-3",))), FACTS_PREFIX: encode_state(Facts())}]


def real_states(folder: Path) -> States:
    """States of the size that the paper's users have, as `make bench-recovery` restores them."""
    from tests.benchmarks.network import write_network
    from tests.benchmarks.recovery import templates

    write_network(folder)
    return templates(str(folder))


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
