"""Cost of an event with each system's network at its default size: the step in memory, clicks of new users."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.systems import SYSTEMS
from tests.benchmarks.field import in_memory, job_of
from tests.benchmarks.network import write_system
from tests.benchmarks.throughput import COUNT, WARM


def rows(folder: Path, scale: float) -> Iterator[dict[str, Any]]:
    for system in SYSTEMS:
        write_system(folder / system, system)
        job = job_of(folder / "turn", skip=int(WARM * scale), count=int(COUNT * scale), model=str(folder / system), name="limit")
        row = {"contender": "limit", "users": system, "scored": True, **in_memory(job)}
        shutil.rmtree(folder / system)
        print(row, file=sys.stderr, flush=True)
        yield row
