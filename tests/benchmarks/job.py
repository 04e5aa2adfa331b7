"""What a contender's process is told and what it measures: a JSON job on standard input, a row as JSON on standard output.

The clock runs from the first event after `skip` to the last one that the contender has done. Nothing here knows a framework.
"""

import sys
import time
from pathlib import Path

import msgspec


class Job(msgspec.Struct):
    """What to do: `skip` events to warm up (or to fill states), then `count`; `model` is a folder, "" for no scoring.

    `serve`: run until the process is ended, for latency. `lists`: a file for the final lists (`limit` alone writes it).
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
    """Measures between two counts of events; `skip` and the end are counted over all that the process has done."""

    def __init__(self, job: Job) -> None:
        self.skip, self.end = job.skip, job.skip + job.count
        self.serve = job.serve
        self._begin: tuple[float, float, float] | None = None
        self.row: dict[str, float] | None = None

    def look(self, done: float) -> bool:
        """Takes the count of now; true once all is done."""
        if self.serve or self.row is not None or (self._begin is not None and done < self.end):
            return self.row is not None
        now = (time.perf_counter(), time.process_time(), done)
        if self._begin is None:
            if done > self.skip:
                self._begin = now
            return False
        seconds, cpu, events = (now[place] - self._begin[place] for place in range(3))
        if not events:
            raise ValueError("all events came at once: too few to be timed")
        self.row = {
            "events_per_s": events / seconds,
            "cpu_us_per_event": cpu / events * 1e6,
            "peak_rss_bytes": peak_rss_bytes(),
            "seconds": seconds,
        }
        return True

    def report(self) -> None:
        """Prints the row; call it once the process has stopped cleanly."""
        if self.row is None:
            raise SystemExit("the contender stopped before its last event")
        print(msgspec.json.encode(self.row).decode(), flush=True)


def peak_rss_bytes() -> int:
    """Of this process alone: `getrusage` would give the parent's where that is larger, for Linux hands it on through exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1_024
    raise OSError("/proc/self/status does not tell VmHWM")
