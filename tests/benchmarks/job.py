"""The interface of a contender's process: a JSON job on standard input, a JSON row on standard output.

The clock runs from the first event after `skip` to the last one processed. Independent of any framework.
"""

import sys
import time
from pathlib import Path

import msgspec
import psutil


class Job(msgspec.Struct):
    """What a contender must do.

    Attributes:
        bootstrap, folder, partitions: where its topics and its state are.
        skip: events for warm-up, or to fill states.
        count: timed events.
        load, users: the kind of clicks (`load.py`) and the number of users.
        model: a model folder; "" for no scoring.
        name: names groups and topics.
        serve: run until stopped, to measure latency.
        lists: a file for the final lists; only `limit` writes it.
    """

    bootstrap: str
    folder: str
    partitions: int
    skip: int
    count: int
    load: str = "new users"
    users: int = 0
    model: str = ""
    name: str = ""
    serve: bool = False
    lists: str = ""


def read_job() -> Job:
    return msgspec.json.decode(sys.stdin.buffer.read(), type=Job)


class Clock:
    """Measures between two counts of processed events, `skip` and `skip` + `count`."""

    def __init__(self, job: Job) -> None:
        self.skip, self.end = job.skip, job.skip + job.count
        self.serve = job.serve
        self._begin: tuple[float, float, float] | None = None
        self.row: dict[str, float] | None = None

    def look(self, done: float) -> bool:
        """Takes the current count; returns whether everything is processed."""
        if self.serve or self.row is not None or (self._begin is not None and done < self.end):
            return self.row is not None
        now = (time.perf_counter(), time.process_time(), done)
        if self._begin is None:
            if done > self.skip:
                self._begin = now
            return False
        seconds, cpu, events = (now[place] - self._begin[place] for place in range(3))
        if not events:
            raise ValueError("all events arrived in one batch: too few to measure")
        self.row = {
            "events_per_s": events / seconds,
            "cpu_us_per_event": cpu / events * 1e6,
            "peak_rss_bytes": peak_rss_bytes(),
            "seconds": seconds,
        }
        return True

    def report(self) -> None:
        """Prints the row; called after the process has stopped cleanly."""
        if self.row is None:
            raise SystemExit("the contender stopped before its last event")
        print(msgspec.json.encode(self.row).decode(), flush=True)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, with all its threads."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def peak_rss_bytes() -> int:
    """Returns the peak of this process. `getrusage` may return the parent's, which Linux inherits through exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1_024
    raise OSError("/proc/self/status has no VmHWM")
