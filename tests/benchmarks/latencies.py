"""Latency of the contenders, one after the other, at 1,000 clicks/s and at 80 % of each one's throughput."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

from stream.errors import IsthmusError
from stream.kafka.cluster.local_broker import LocalKafka
from stream.kafka.cluster.topics import create_or_check
from stream.services.child_processes import ChildProcess
from tests.benchmarks.field import EXACT, FIELD, OTHERS, OURS, OWN, TOPICS, Contender, job_of, start

SECONDS, WARM_S = 10.0, 4.0
SLOW, SHARE = 1_000.0, 0.8


def rows(folder: Path, model: Path, sha256: str, capacity: Mapping[str, float], scale: float) -> Iterator[dict[str, Any]]:
    """Yields the rows. `capacity`: scored events/s of new users by contender; without it, only the slow rate is measured."""
    for contender in FIELD:
        full = capacity.get(contender.name, 0.0)
        rates = {f"{SLOW:,.0f} clicks/s": SLOW} if full == 0 or full * SHARE > SLOW else {}
        if full:
            rates[f"80 % of capacity, {full * SHARE:,.0f} clicks/s"] = full * SHARE
        for label, rate in rates.items():
            try:
                found = _one(folder / "turn", model, sha256, contender, rate, scale)
            except (TimeoutError, IsthmusError, OSError) as error:
                print(f"{contender.name}, {label}: no figures: {error}", file=sys.stderr, flush=True)
                continue
            row = {"contender": contender.name, "users": label, "scored": True, "rate": rate, **found}
            print(row, file=sys.stderr, flush=True)
            yield row


def _one(folder: Path, model: Path, sha256: str, contender: Contender, rate: float, scale: float) -> dict[str, float]:
    with serving(folder, model, sha256, contender) as (bootstrap, pid):
        return timed(bootstrap, pid, rate, SECONDS * scale, WARM_S * scale)


@contextmanager
def serving(folder: Path, model: Path, sha256: str, contender: Contender) -> Iterator[tuple[str, int]]:
    """Starts a contender on a new broker; yields the broker's address and the contender's process id."""
    start_contender = _worker if contender in {OURS, EXACT} else _contender
    try:
        with LocalKafka(folder / "kafka") as broker:
            psutil.Process(broker.pid).cpu_affinity(OTHERS)
            create_or_check(broker.bootstrap, TOPICS, dev=True)
            with start_contender(folder, broker.bootstrap, model, sha256, contender) as pid:
                yield broker.bootstrap, pid
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def timed(bootstrap: str, pid: int, rate: float, seconds: float, warm_s: float) -> dict[str, float]:
    """What `latency.measure` returns, from a process of its own.

    Raises:
        TimeoutError: as there.
    """
    load = {"bootstrap": bootstrap, "rate": rate, "partitions": TOPICS.partitions, "pid": pid}
    job = msgspec.json.encode({**load, "seconds": seconds, "warm_s": warm_s})
    done = subprocess.run([OWN, "-m", "tests.benchmarks.latency"], input=job, capture_output=True, check=False)
    if done.returncode:
        raise TimeoutError(done.stderr.decode().strip().splitlines()[-1])
    found: dict[str, float] = msgspec.json.decode(done.stdout)
    return found


@contextmanager
def _worker(folder: Path, bootstrap: str, model: Path, sha256: str, contender: Contender) -> Iterator[int]:
    """Starts the real worker process, with the model announced."""
    from stream.core.announcements import ModelAnnouncement
    from stream.kafka.cluster.compacted_topic import announce

    announcement = ModelAnnouncement(
        role="champion", name="latent_feature", version="1", uri=str(model), sha256=sha256, published_at=0
    )
    announce(bootstrap, TOPICS.models, announcement)
    environment = {
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        "ISTHMUS_TOPICS__PARTITIONS": str(TOPICS.partitions),
        "ISTHMUS_KAFKA__DEV": "true",
        "ISTHMUS_REGISTRY__FOLDER": str(model.parent),
        "ISTHMUS_DELIVERY__GUARANTEE": "exactly_once" if contender is EXACT else "at_least_once",
    }
    worker = ChildProcess(["worker", "--bootstrap", bootstrap, "--metrics-port", "0"], environment, folder / "worker.log")
    try:
        psutil.Process(worker.pid).cpu_affinity([0])
        yield worker.pid
    finally:
        worker.stop()


@contextmanager
def _contender(folder: Path, bootstrap: str, model: Path, _: str, contender: Contender) -> Iterator[int]:
    job = job_of(folder / "state", skip=0, count=0, model=str(model), name=contender.name, serve=True)
    process = start(contender, msgspec.structs.replace(job, bootstrap=bootstrap))
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()
