"""One worker compared with two on the same clicks. Each worker gets four tenths of core 0, in turns; the rest get the others.

The broker therefore gets the same CPU in both cases, even on a machine with two cores, and the difference is the cost of sharing.
"""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
from kafka import KafkaConsumer, TopicPartition

from stream.kafka.cluster.local_broker import LocalKafka
from stream.kafka.cluster.topics import create_or_check
from tests.benchmarks.field import OTHERS, OURS, TOPICS, fill, job_of, start
from tests.benchmarks.job import Job

COUNT, WARM = 240_000, 8_000
FROM, TO = 0.2, 0.95
"""The range of the clicks over which the rate is measured: it excludes the start and the end of a worker's last partition."""
PATIENCE_S: Final = 180.0
SETTLE_S: Final = 10.0  # the second worker joins within seconds of its start; until then the first has all partitions
SHARE, PERIOD_S = 0.4, 0.02


def rows(folder: Path, model: Path, scale: float) -> Iterator[dict[str, Any]]:
    for workers in (1, 2):
        job = job_of(folder / "turn", skip=0, count=int(COUNT * scale), model=str(model), name="ours", serve=True)
        row = {"contender": "ours", "users": f"{workers} worker{'s' * (workers > 1)}", "scored": True, **_one(job, workers)}
        shutil.rmtree(job.folder)
        print(row, file=sys.stderr, flush=True)
        yield row


def _one(job: Job, workers: int) -> dict[str, float]:
    """Measures once; the workers share the partitions before the timed clicks are sent."""
    folder = Path(job.folder)
    with LocalKafka(folder / "kafka") as broker:
        psutil.Process(broker.pid).cpu_affinity(OTHERS)
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        job = msgspec.structs.replace(job, bootstrap=broker.bootstrap)
        serving = [start(OURS, msgspec.structs.replace(job, folder=str(folder / f"state-{number}"))) for number in range(workers)]
        offsets = Committed(broker.bootstrap)
        try:
            warm = msgspec.structs.replace(job, count=max(WARM, 100))
            fill(warm)
            offsets.reach(warm.count)
            time.sleep(SETTLE_S)
            with in_turns([process.pid for process in serving]):
                return _timed(job, offsets, [psutil.Process(process.pid) for process in serving], warm.count)
        finally:
            offsets.close()
            for process in serving:
                process.kill()
                process.wait()


def _timed(job: Job, offsets: "Committed", processes: list[Any], before: int) -> dict[str, float]:
    fill(job)
    first, cpu_first = offsets.reach(before + int(FROM * job.count)), _cpu_s(processes)
    last, cpu_last = offsets.reach(before + int(TO * job.count)), _cpu_s(processes)
    events = last[1] - first[1]
    return {"events_per_s": events / (last[0] - first[0]), "cpu_us_per_event": (cpu_last - cpu_first) / events * 1e6}


@contextmanager
def in_turns(pids: list[int]) -> Iterator[None]:
    """Lets processes run in turn, each for its share of every period, and pauses them in between."""
    over = threading.Event()
    thread = threading.Thread(target=_take_turns, args=(pids, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _take_turns(pids: list[int], over: threading.Event) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    while not over.is_set():
        began = time.perf_counter()
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
            time.sleep(SHARE * PERIOD_S)
            os.kill(pid, signal.SIGSTOP)
        time.sleep(max(0.0, began + PERIOD_S - time.perf_counter()))


class Committed:
    """The group's committed offsets over all partitions of the clicks topic, read without joining the group."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer: Any = KafkaConsumer(bootstrap_servers=bootstrap, group_id="isthmus-profiles", enable_auto_commit=False)
        self._partitions = [TopicPartition(TOPICS.clicks, number) for number in range(TOPICS.partitions)]

    def reach(self, events: int) -> tuple[float, int]:
        """Waits for this many committed events; returns the time and the count at that time."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            committed = sum(self._consumer.committed(partition) or 0 for partition in self._partitions)
            if committed >= events:
                return time.perf_counter(), committed
            time.sleep(0.05)
        raise TimeoutError(f"the workers did not commit {events} events within {PATIENCE_S:.0f} s")

    def close(self) -> None:
        self._consumer.close()


def _cpu_s(processes: list[Any]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)
