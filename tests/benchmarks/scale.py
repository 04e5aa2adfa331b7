"""The simulation behind docs/results/scale.md: what 100 million users and 200,000 events/s need, from measured costs.

`python -m tests.benchmarks.scale` prints its figures. Bytes are counted in the step's outputs; CPU per event is from the newest
build/bench.json, else from README.md. Nothing is timed and random numbers are seeded, so two runs give the same figures.
"""

import json
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.artifact import load_ranker
from stream.core.events import Source
from stream.core.ranking import Ranker
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig, step
from tests.benchmarks.load import NOW_MS, Sent, after, at_the_bounds, new_users, to_the_bounds
from tests.benchmarks.network import write_network
from tests.world import Store

USERS: Final = 100_000_000
EVENTS_PER_S: Final = 200_000
PARTITIONS: Final = 256
WORKERS: Final = 32
ACTIVITY_SIGMA: Final = 1.5
"""Sigma of the lognormal distribution of user activity: the busiest hundredth produces a fifth of the events."""
CPU_US: Final = {"new users": 51.8, "at the bounds": 68.8}
"""From README.md's table of 2026-11-24; `AT_BOUNDS` is the share of events at the bounds."""
AT_BOUNDS: Final = 0.1
BATCH: Final = 1_000
FIXED_S: Final = 0.0015
"""Fixed cost of a batch: fetch, Faust's message, three sends. An assumption, which matters only below half load."""


@dataclass(frozen=True)
class Bytes:
    """Bytes per event (its record, lists sent, changelog) and per user (stored state)."""

    clicks: float
    lists: float
    changelog: float
    state: float


def bytes_of(ranker: Ranker, fill: Sequence[Sent], events: Sequence[Sent], together: int) -> Bytes:
    """Counts bytes over `events` in batches of `together`, in which no user occurs twice, as is typical at this scale."""
    from tests.benchmarks.contenders import CATALOGUE

    store, lists, changelog = Store(), 0, 0
    settings = StepConfig(partitions=1)
    records = [PlainRecord(number, NOW_MS, one.key.encode(), one.value) for number, one in enumerate([*fill, *events])]
    for start in range(0, len(records), together):
        batch = Batch(Source.CLICK, "web-clicks", 1, 0, records[start : start + together])
        outcome = step(batch, store, ranker, CATALOGUE, settings)
        timed = start >= len(fill)
        for key, value in outcome.writes.items():
            if value is not None:
                store.records[key] = value
                changelog += timed * (len(key) + len(value))
        lists += timed * sum(len(one.key) + len(one.value or b"") + _header_bytes(one.headers) for one in outcome.recommendations)
    users = sum(key.startswith(b"h") for key in store.records)
    state = sum(len(key) + len(value) for key, value in store.records.items()) / users
    clicks = sum(len(event.key) + len(event.value) for event in events) / len(events)
    return Bytes(clicks, lists / len(events), changelog / len(events), state)


def _header_bytes(headers: Sequence[tuple[str, bytes]]) -> int:
    return sum(len(name) + len(value) for name, value in headers)


def skew(users_per_partition: int, partitions: int, per_worker: int, rng: np.random.Generator) -> tuple[float, float]:
    """Returns the load of the busiest partition and worker relative to the mean: users spread by hash, lognormal activity."""
    loads: NDArray[np.float64] = np.array([rng.lognormal(0, ACTIVITY_SIGMA, users_per_partition).sum() for _ in range(partitions)])
    workers = loads.reshape(-1, per_worker).sum(axis=1)
    return float(loads.max() / loads.mean()), float(workers.max() / workers.mean())


def ages(utilisation: float, event_s: float, partitions: int, seconds: float, rng: np.random.Generator) -> tuple[float, float]:
    """Returns p50 and p99 in seconds from arrival to the end of the event's batch, for one worker with Poisson arrivals that takes
    its partitions in turn, everything waiting in one (at most 1,000) as a batch.
    """
    rate = utilisation / event_s
    count = rng.poisson(rate * seconds)
    arrivals = np.sort(rng.uniform(0, seconds, count))
    homes = rng.integers(partitions, size=count)
    queues: list[deque[float]] = [deque() for _ in range(partitions)]
    now, taken, turn, waiting = 0.0, 0, 0, 0
    found: list[float] = []
    while taken < count or waiting:
        if not waiting:
            now = max(now, arrivals[taken])
        while taken < count and arrivals[taken] <= now:
            queues[homes[taken]].append(arrivals[taken])
            taken, waiting = taken + 1, waiting + 1
        while not queues[turn % partitions]:
            turn += 1
        queue = queues[turn % partitions]
        turn += 1
        batch = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
        waiting -= len(batch)
        now += FIXED_S + event_s * len(batch)
        found += [now - arrival for arrival in batch]
    p50, p99 = np.quantile(found, [0.5, 0.99])
    return float(p50), float(p99)


def catch_up_s(utilisation: float, out_s: float, heirs: int) -> float:
    """Returns how long after a worker's failure its backlog is processed: its partitions stop for `out_s`, then move to `heirs`
    workers, which process them beside their own load. One heir stands for the restarted worker itself.
    """
    own = utilisation if heirs > 1 else 0.0
    spare = 1 - own - utilisation / heirs
    return utilisation * out_s / heirs / spare if spare > 0 else float("inf")


def cpu_us() -> dict[str, float]:
    """Returns CPU us per scored event of ours."""
    path = Path("build/bench.json")
    rows = json.loads(path.read_text()) if path.exists() else []
    measured = {
        row["users"]: row["cpu_us_per_event"]
        for row in rows
        if row.get("part") == "throughput" and row["contender"] == "ours" and row["scored"] and row["users"] in CPU_US
    }
    return {**CPU_US, **measured}


def figures(ranker: Ranker) -> Iterator[tuple[str, float]]:
    """Returns (name, value) in the order of docs/results/scale.md."""
    rng = np.random.default_rng(0)
    costs = cpu_us()
    event_us = (1 - AT_BOUNDS) * costs["new users"] + AT_BOUNDS * costs["at the bounds"]
    utilisation = EVENTS_PER_S * event_us / 1e6 / WORKERS
    yield "CPU us an event, one in ten at the bounds", event_us
    yield "cores busy at 200,000 events/s", EVENTS_PER_S * event_us / 1e6
    yield f"load of each of {WORKERS} workers", utilisation
    loads = {
        "new users": bytes_of(ranker, [], list(new_users(3_000)), 100),
        "2.4 sessions": bytes_of(ranker, list(after(22, 100, 0)), list(after(24, 100, 0))[2_200:], 100),
        "at the bounds": bytes_of(ranker, list(to_the_bounds(20)), list(at_the_bounds(20, 2_000)), 20),
    }
    for name, found in loads.items():
        yield f"bytes of a click, {name}", found.clicks
        yield f"bytes of lists an event, {name}", found.lists
        yield f"bytes of changelog an event, {name}", found.changelog
        yield f"bytes of state a user, {name}", found.state
    per_worker = PARTITIONS // WORKERS
    partition, worker = skew(USERS // PARTITIONS, 8 * per_worker, per_worker, rng)
    yield "busiest of 64 partitions over the mean", partition
    yield "busiest of 8 workers over the mean", worker
    for load in (0.3, 0.5, 0.7, 0.8, 0.9):
        p50, p99 = ages(load, event_us / 1e6, per_worker, 20.0, rng)
        yield f"p50 ms in the worker at load {load}", p50 * 1_000
        yield f"p99 ms in the worker at load {load}", p99 * 1_000
    for out_s in (5.0, 30.0, 90.0):
        yield f"seconds to do a backlog of {out_s:.0f} s, the worker restarted", catch_up_s(utilisation, out_s, 1)
        yield f"seconds to do a backlog of {out_s:.0f} s, {per_worker} heirs", catch_up_s(utilisation, out_s, per_worker)


def rows(model: Path) -> Iterator[dict[str, Any]]:
    for what, value in figures(load_ranker(str(model))):
        yield {"contender": "scale study", "users": what, "scored": True, "value": value}


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        model = Path(temporary) / "model"
        write_network(model)
        for row in rows(model):
            print(f"{row['users']}: {row['value']:,.2f}")


if __name__ == "__main__":
    main()
