"""What a worker costs that stands ready: the CPU of its process at low rates and without any event, and its latency there."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.field import OURS
from tests.benchmarks.job import cpu_s
from tests.benchmarks.latencies import serving, timed

RATES: Final = (10.0, 1_000.0)
SECONDS, WARM_S, IDLE_S = 20.0, 5.0, 30.0


def rows(folder: Path, model: Path, sha256: str, scale: float) -> Iterator[dict[str, Any]]:
    """Yields a row per rate, and one of the worker that nothing comes for after the last rate."""
    for rate in RATES:
        with serving(folder / "turn", model, sha256, OURS) as (bootstrap, pid):
            yield _row(f"{rate:,.0f} clicks/s", timed(bootstrap, pid, rate, SECONDS * scale, WARM_S * scale))
            if rate == RATES[-1]:
                yield _row("idle", {"cores": _idle_cores(pid, IDLE_S * scale)})


def _row(load: str, found: dict[str, float]) -> dict[str, Any]:
    row = {"contender": OURS.name, "users": load, "scored": True, **found}
    print(row, file=sys.stderr, flush=True)
    return row


def _idle_cores(pid: int, seconds: float) -> float:
    time.sleep(min(2.0, seconds))  # what the last events leave to do
    before, began = cpu_s(pid), time.perf_counter()
    time.sleep(seconds)
    return (cpu_s(pid) - before) / (time.perf_counter() - began)
