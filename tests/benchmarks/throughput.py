"""Events per second, CPU and memory of all contenders, in turns; ours and the limit also with states at their bounds."""

import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from stream.errors import IsthmusError
from tests.benchmarks.field import FIELD, LIMIT, OURS, Contender, Disagreement, in_memory, job_of, turn
from tests.benchmarks.job import Job
from tests.benchmarks.load import to_the_bounds

WARM, COUNT, OLD_USERS, OLD_COUNT = 20_000, 80_000, 800, 40_000

Trials = dict[tuple[str, str, bool], list[dict[str, float]]]


def rows(folder: Path, model: Path, rounds: int, scale: float) -> Iterator[dict[str, Any]]:
    """Yields one row per contender, load and model: medians over the rounds."""
    trials: Trials = {}
    for number in range(rounds):
        for scored in (False, True):
            for contender, job in _jobs(folder, str(model) if scored else "", scale, bounds=number == 0):
                _take(trials, contender, job, folder)
    for (contender_name, load, scored), found in trials.items():
        medians = {key: statistics.median(row[key] for row in found) for key in found[0]}
        yield {"contender": contender_name, "users": load, "scored": scored, "rounds": len(found), **medians}


def _jobs(folder: Path, model: str, scale: float, *, bounds: bool) -> Iterator[tuple[Contender, Job]]:
    for contender in (LIMIT, *FIELD):
        warm, count = (int(size * scale) // contender.size for size in (WARM, COUNT))
        yield contender, job_of(folder / "turn", skip=warm, count=count, model=model, name=contender.name)
    if bounds:
        users = max(10, int(OLD_USERS * scale))
        filling = sum(1 for _ in to_the_bounds(users))
        for contender in (LIMIT, OURS):
            more = {"load": "at the bounds", "users": users, "name": contender.name, "model": model}
            yield contender, job_of(folder / "turn", skip=filling, count=int(OLD_COUNT * scale), **more)


def _take(trials: Trials, contender: Contender, job: Job, folder: Path) -> None:
    try:
        row = in_memory(job) if contender is LIMIT else turn(contender, job, _wanted(job, folder))
    except (Disagreement, RuntimeError, IsthmusError, OSError, subprocess.SubprocessError) as error:
        print(f"{contender.name}, {job.load}: no figures: {error}", file=sys.stderr, flush=True)
        return
    finally:
        shutil.rmtree(job.folder, ignore_errors=True)
    trials.setdefault((contender.name, job.load, bool(job.model)), []).append(row)
    print(
        contender.name, job.load, bool(job.model), {key: round(value, 1) for key, value in row.items()}, file=sys.stderr, flush=True
    )


def _wanted(job: Job, folder: Path) -> Path:
    """Computes the expected final lists of a job with the step in memory, outside the timed part."""
    path = folder / f"lists-{job.load}-{bool(job.model)}-{job.skip}-{job.count}.json"
    if not path.exists():
        in_memory(msgspec.structs.replace(job, lists=str(path), folder=str(folder / "lists")))
    return path
