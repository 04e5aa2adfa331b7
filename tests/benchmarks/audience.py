"""`make bench-audience`: `isthmus audience` over a million users: seconds, CPU and memory of the whole command.

    python -m tests.benchmarks.audience [--users 1000000]

Fills the users' changelog on a local broker with states of the size that `make bench-recovery` restores. The command then scores
all users twice: with the champion that made the states, whose representations it reads from them, and with a new champion, for
which it reads every history again. Writes build/audience.json and prints it.
"""

import argparse
import asyncio
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from stream.core.announcements import ModelAnnouncement
from stream.kafka.cluster.compacted_topic import announce
from stream.kafka.cluster.local_broker import LocalKafka
from stream.kafka.cluster.topics import create_or_check
from tests.benchmarks.deployment import TOPICS, say, used
from tests.benchmarks.exclusive import exclusive_run
from tests.benchmarks.network import write_system
from tests.benchmarks.recovery import templates
from tests.benchmarks.users import fill

OUT: Final = Path("build/audience.json")
ITEM: Final = "7"
TOP: Final = 10_000
CHAMPIONS: Final = {"of the states": "1", "new": "2"}


def measure(bootstrap: str, folder: Path, users: int) -> list[dict[str, Any]]:
    """Fills empty topics, and runs the command with each champion."""
    began = time.perf_counter()
    hashes = {version: write_system(folder / version, "isthmus", version) for version in CHAMPIONS.values()}
    states = templates(str(folder / CHAMPIONS["of the states"]))
    say(began, f"{len(states)} states are made by the step")
    asyncio.run(
        fill(bootstrap, users, lambda user: say(began, f"{user:,} users stand in the changelog"), lists=False, states=states)
    )
    rows = []
    for champion, version in CHAMPIONS.items():
        announced = ModelAnnouncement(
            role="champion", name="isthmus", version=version, uri=str(folder / version), sha256=hashes[version], published_at=1
        )
        announce(bootstrap, TOPICS.models, announced)
        say(began, f"all users are scored; the champion: {champion}")
        rows.append({"champion": champion, "users": users, **run(bootstrap, folder, users)})
    return rows


def run(bootstrap: str, folder: Path, users: int) -> dict[str, Any]:
    """Runs the command as a process. Its progress goes to standard error.

    Raises:
        ValueError: it ended with an error, or lists other than as many users as it should, best first, each once.
    """
    out = folder / "audience.csv"
    command = [sys.executable, "-m", "stream.cli.main", "audience", ITEM, "--top", str(TOP), "--out", str(out)]
    own = {"ISTHMUS_TOPICS__PARTITIONS": str(TOPICS.partitions), "ISTHMUS_REGISTRY__FOLDER": str(folder), "TMPDIR": str(folder)}
    environment = {**os.environ, **own}
    began, resources = time.perf_counter(), {}
    process = subprocess.Popen([*command, "--bootstrap", bootstrap], env=environment)
    while process.poll() is None:
        with suppress(psutil.Error, StopIteration):  # it ends meanwhile
            resources = used(process)
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise ValueError(f"`isthmus audience` ended with code {process.returncode}")
    found = read_audience(out)
    if len(found) != min(TOP, users):
        raise ValueError(f"the audience has {len(found)} users instead of {min(TOP, users)}")
    return {"seconds": round(seconds, 2), "cpu_s": resources["cpu_s"], "peak_mb": resources["peak_mb"]}


def read_audience(path: Path) -> dict[str, float]:
    """User -> score.

    Raises:
        ValueError: a user is there twice, or the order is not that of the scores.
    """
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {row["user_id"]: float(row["score"]) for row in rows}
    if len(found) != len(rows) or list(found.values()) != sorted(found.values(), reverse=True):
        raise ValueError("the audience is not in order, or names a user twice")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    given = parser.parse_args()
    with exclusive_run(), tempfile.TemporaryDirectory(prefix="isthmus-audience-bench-") as temporary:
        folder = Path(temporary)
        with LocalKafka(folder / "kafka") as broker:
            create_or_check(broker.bootstrap, TOPICS, dev=True)
            rows = measure(broker.bootstrap, folder, given.users)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=1))
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
