"""`make bench`: throughput of one worker on one core, beside a plain Faust agent and the compute-only limit, and latency; one
run, one machine.

Writes build/bench.json and prints the table of tests/benchmarks/README.md. Contenders take turns; the broker keeps to the other
cores.
"""

import asyncio
import fcntl
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from stream.broker.local import LocalKafka
from stream.broker.produce import produce
from stream.broker.topics import create_or_check
from stream.cli.processes import Child
from stream.settings import Topics
from tests.benchmarks import latency
from tests.benchmarks.load import Sent, at_the_bounds, new_users, to_the_bounds, write_network

TOPICS = Topics(partitions=4)
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "2"))
WARM, COUNT, PLAIN_COUNT, USERS, PLAIN_USERS = 20_000, 100_000, 6_000, 2_000, 60
OUT = Path("build/bench.json")
OTHERS = list(range(1, os.cpu_count() or 1)) or [0]
"""All cores but the contender's, 0: for broker and load."""

Trials = dict[tuple[str, str, bool], list[dict[str, float]]]


def contend(name: str, events: Iterable[Sent], job: dict[str, Any], folder: Path) -> dict[str, float]:
    """One contender on a fresh broker, its clicks there already."""
    with LocalKafka(folder / "kafka") as broker:
        psutil.Process(broker.pid).cpu_affinity(OTHERS)
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        asyncio.run(produce(broker.bootstrap, events, TOPICS.model_dump(), lambda _: None))
        return _child(name, {**job, "bootstrap": broker.bootstrap, "folder": str(folder / "state"), "partitions": 4})


def _child(name: str, job: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.contenders", name]
    Path(job["folder"]).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command, input=json.dumps(job).encode(), stdout=subprocess.PIPE, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def latency_row(model: Path, sha256: str, folder: Path, rate: int) -> dict[str, float]:
    """The real worker process with the model announced, at `rate` clicks a second."""
    from stream.core.announcements import ModelAnnouncement
    from training.example_topic import announce

    with LocalKafka(folder / "kafka") as broker:
        psutil.Process(broker.pid).cpu_affinity(OTHERS)
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        announcement = ModelAnnouncement(
            role="champion", name="latent_feature", version="1", uri=str(model), sha256=sha256, published_at=0
        )
        announce(broker.bootstrap, TOPICS.models, announcement)
        environment = {
            "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
            "ISTHMUS_TOPICS__PARTITIONS": "4",
            "ISTHMUS_KAFKA__DEV": "true",
        }
        worker = Child(["worker", "--bootstrap", broker.bootstrap, "--metrics-port", "0"], environment, folder / "worker.log")
        try:
            psutil.Process(worker.pid).cpu_affinity([0])
            return asyncio.run(latency.measure(broker.bootstrap, rate, 20.0, 10.0))
        finally:
            worker.stop()


@contextmanager
def alone() -> Iterator[None]:
    """Two runs on one machine would measure each other: the second ends here."""
    with (Path(tempfile.gettempdir()) / "isthmus-bench.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another benchmark is running on this machine: wait for its end")
        yield


def main() -> None:
    with alone():
        measure_all()


def measure_all() -> None:
    psutil.Process().cpu_affinity(OTHERS)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="isthmus-bench-") as temporary:
        folder = Path(temporary)
        model = folder / "model"
        sha256 = write_network(model)
        trials: Trials = {}
        for number in range(ROUNDS):
            for scored in (False, True):
                _one_round(folder / f"{number}-{scored}", str(model) if scored else "", trials)
        for (contender, users, scored), found in trials.items():
            medians = {key: statistics.median(row[key] for row in found) for key in found[0]}
            rows.append({"contender": contender, "users": users, "scored": scored, **medians})
        for rate in (1_000, 5_000):
            try:
                timed = latency_row(model, sha256, folder / f"latency-{rate}", rate)
            except TimeoutError as error:
                print(f"{rate} clicks/s: no figures: {error}", file=sys.stderr)
                continue
            rows.append({"contender": "ours", "users": f"{rate} clicks/s", "scored": True, **timed})
            print(rows[-1], file=sys.stderr, flush=True)
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=2))
    print(as_table(rows))


def _one_round(folder: Path, model: str, trials: Trials) -> None:
    """Every contender once, with one model ("" for none)."""
    scored = bool(model)
    in_memory = {"bootstrap": "", "folder": str(folder / "memory"), "partitions": TOPICS.partitions}
    job = {"skip": WARM, "count": COUNT, "model": model}
    _take(trials, ("ours", "new users", scored), contend("ours", new_users(WARM + COUNT), job, folder / "new"))
    _take(trials, ("limit", "new users", scored), _child("limit", {**job, **in_memory}))
    bounded = {"skip": filling(USERS), "count": COUNT // 2, "model": model, "bounds": USERS}
    events = [*to_the_bounds(USERS), *at_the_bounds(USERS, COUNT // 2)]
    _take(trials, ("ours", "at the bounds", scored), contend("ours", events, bounded, folder / "bounds"))
    _take(trials, ("limit", "at the bounds", scored), _child("limit", {**bounded, **in_memory}))
    short = {**job, "skip": 1_000, "count": PLAIN_COUNT}
    row = contend("plain", new_users(1_000 + PLAIN_COUNT), short, folder / "plain")
    _take(trials, ("plain Faust agent", "new users", scored), row)
    events = [*to_the_bounds(PLAIN_USERS), *at_the_bounds(PLAIN_USERS, PLAIN_COUNT)]
    row = contend("plain", events, {**short, "skip": filling(PLAIN_USERS)}, folder / "plain-bounds")
    _take(trials, ("plain Faust agent", "at the bounds", scored), row)


def filling(users: int) -> int:
    return sum(1 for _ in to_the_bounds(users))


def _take(trials: Trials, key: tuple[str, str, bool], row: dict[str, float]) -> None:
    trials.setdefault(key, []).append(row)
    print(*key, {name: round(value, 1) for name, value in row.items()}, file=sys.stderr, flush=True)


def as_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| contender | users | scored | events/s | CPU us/event | peak MiB | p50 ms | p99 ms |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [
            f"{row[key] / scale:,.{digits}f}" if key in row else ""
            for key, scale, digits in (
                ("events_per_s", 1, 0),
                ("cpu_us_per_event", 1, 1),
                ("peak_rss_bytes", 2**20, 0),
                ("p50_ms", 1, 1),
                ("p99_ms", 1, 1),
            )
        ]
        lines.append(f"| {row['contender']} | {row['users']} | {'yes' if row['scored'] else 'no'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
