"""The contenders: how each is started on one core, and what one turn of it measures.

Each turn has its own broker on the other cores, the same clicks in the same topics, and ends with the check of `lists`.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil

from stream.kafka.cluster.local_broker import LocalKafka
from stream.kafka.cluster.topics import create_or_check
from stream.settings import TopicSettings
from tests.benchmarks.job import Job
from tests.benchmarks.lists import disagreement, final_lists, read_lists

TOPICS = TopicSettings(partitions=4)
OTHERS = list(range(1, os.cpu_count() or 1)) or [0]
"""All cores except core 0, which is the contender's: for broker and load."""
OWN = "build/bench/bin/python"
JARS = "build/kafka_streams"


class Contender(NamedTuple):
    """A contender. `command` reads a job from standard input; `size` divides the counts, as a slow one needs fewer events."""

    name: str
    command: tuple[str, ...]
    size: int = 1


OURS = Contender("ours", (sys.executable, "-m", "tests.benchmarks.contenders", "ours"))
EXACT = Contender("ours (exactly once)", (sys.executable, "-m", "tests.benchmarks.contenders", "exactly_once"))
LIMIT = Contender("limit", (sys.executable, "-m", "tests.benchmarks.contenders", "limit"))
FIELD = (
    OURS,
    EXACT,
    Contender("confluent-kafka loop, our step", (OWN, "-m", "tests.benchmarks.confluent_loop", "step")),
    Contender("confluent-kafka loop, bare fold", (OWN, "-m", "tests.benchmarks.confluent_loop", "bare")),
    Contender(
        "Kafka Streams",
        ("taskset", "-c", "0", "java", "-Xmx1g", "-cp", f"{JARS}/kafka-streams-contender-1.jar:{JARS}/libs/*", "isthmus.Contender"),
        2,
    ),
    Contender("Quix Streams", (OWN, "-m", "tests.benchmarks.quix"), 4),
    Contender("plain Faust agent", (sys.executable, "-m", "tests.benchmarks.contenders", "plain"), 16),
)


class Disagreement(Exception):  # noqa: N818  (named for what it reports)
    """A contender's lists differ from the step's, so its figures mean nothing."""


def start(contender: Contender, job: Job) -> "subprocess.Popen[bytes]":
    Path(job.folder).mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        contender.command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(job))
    process.stdin.close()
    return process


def finish(process: "subprocess.Popen[bytes]", timeout_s: float = 300.0) -> dict[str, float]:
    """Returns the row of a contender that exits when done."""
    assert process.stdout is not None
    try:
        process.wait(timeout_s)
    finally:
        if process.poll() is None:
            process.kill()
    lines = process.stdout.read().splitlines()
    if process.returncode or not lines:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode} and no row")
    row: dict[str, float] = msgspec.json.decode(lines[-1])
    return row


def fill(job: Job) -> None:
    """Sends the clicks of a job to its broker."""
    subprocess.run([OWN, "-m", "tests.benchmarks.fill"], input=msgspec.json.encode(job), check=True)


def turn(contender: Contender, job: Job, wanted: Path | None) -> dict[str, float]:
    """Runs one contender on a fresh broker that already has its clicks. `wanted` holds the expected final lists.

    Raises:
        Disagreement: its final lists differ.
    """
    folder = Path(job.folder)
    with LocalKafka(folder / "kafka") as broker:
        psutil.Process(broker.pid).cpu_affinity(OTHERS)
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        mine = msgspec.structs.replace(job, bootstrap=broker.bootstrap, folder=str(folder / "state"))
        fill(mine)
        row = finish(start(contender, mine))
        problem = (
            None if wanted is None else disagreement(final_lists(broker.bootstrap, TOPICS.recommendations), read_lists(wanted))
        )
        if problem is not None:
            raise Disagreement(f"{contender.name}: {problem}")
        return row


def in_memory(job: Job) -> dict[str, float]:
    return finish(start(LIMIT, job))


def job_of(folder: Path, **more: Any) -> Job:
    return Job(bootstrap="", folder=str(folder), partitions=TOPICS.partitions, **more)
