"""`make soak`: runs worker and encoder at 70 % of capacity for `SECONDS` (1,800); memory and file descriptors must stay flat.

Capacity is the rate at which both process a burst, measured first on the same machine. Writes build/soak.json and build/soak.png.
The first third is warm-up, while caches, memtables and the garbage collector reach their steady state. Growth compares the mean of
the last tenth with the mean of the first tenth after the warm-up.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import psutil

from stream.core.step import StepConfig
from stream.kafka.cluster.topics import create_or_check
from tests.chaos.champion import publish_champion
from tests.chaos.check import judge
from tests.chaos.cluster import Cluster
from tests.chaos.observe import observe
from tests.chaos.stage import BUILD, SETTLE_S, TOPICS, Case, Stage

SHARE: Final = 0.7
MOST_GROWTH: Final = 0.05
MOST_DESCRIPTORS: Final = 8
"""File descriptors that may be gained: RocksDB opens and closes files as it compacts."""
BURST: Final = 4_000
SAMPLES: Final = 240
JUDGED: Final = 0
"""The partition whose users are checked: millions of events do not fit in memory at once."""


class Sample(NamedTuple):
    """A sample of one process: seconds since the start, resident bytes, open file descriptors."""

    at_s: float
    name: str
    resident: int
    descriptors: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1_800.0)
    parser.add_argument("--rate", type=float, help="events/s; default: 70 %% of the measured capacity")
    given = parser.parse_args()
    folder = BUILD / "chaos" / "soak"
    shutil.rmtree(folder, ignore_errors=True)
    case = Case(name="soak", faults=lambda _: None, rate=0.0)
    with Cluster(folder) as cluster:
        stage = Stage(case, cluster, folder, 1)
        samples, rate, exact = soak(stage, given.seconds, given.rate)
    grown = {name: growth(samples, name) for name in stage.processes}
    report = {"seconds": given.seconds, "rate": round(rate), "exact": exact, "processes": grown, "samples": samples}
    (BUILD / "soak.json").write_text(json.dumps(report, indent=1))
    draw(samples, BUILD / "soak.png")
    flat = all(found["resident"] <= MOST_GROWTH and found["descriptors"] <= MOST_DESCRIPTORS for found in grown.values())
    for name, found in grown.items():
        print(f"{name}: memory {found['resident']:+.1%}, file descriptors {found['descriptors']:+.0f} after warm-up")
    print(f"{rate:.0f} events/s for {given.seconds:.0f} s; {'exact' if exact else 'NOT exact'}; {'flat' if flat else 'NOT flat'}")
    return 0 if flat and exact else 1


def soak(stage: Stage, seconds: float, rate: float | None) -> tuple[list[Sample], float, bool]:
    """Returns the samples, the rate, and whether the users of one partition were processed exactly."""
    create_or_check(stage.bootstrap, TOPICS, dev=True)
    ranker = publish_champion(stage.bootstrap, TOPICS.models, stage.folder / "model")
    try:
        stage.add("worker", "worker-1")
        stage.add("encoder", "encoder-1")
        stage.sender.start()
        rate = rate or SHARE * capacity(stage)
        stage.sender.rate = rate
        stage.wait_for_progress(1_000)  # both are running
        samples: list[Sample] = []
        began = time.monotonic()
        while (at_s := time.monotonic() - began) < seconds:
            samples += [take_sample(stage, name, at_s) for name in stage.processes]
            print(f"\r{at_s:6.0f} s of {seconds:.0f}, {stage.sender.sent} events", end="", file=sys.stderr, flush=True)
            stage.wait(max(0.5, seconds / SAMPLES))
        print(file=sys.stderr)
        stage.sender.stop()
        stage.until(stage.is_settled, SETTLE_S, "the folding of all events")
    finally:
        for process in stage.processes.values():
            if process.is_running:
                process.stop()
    print(f"checking the users of partition {JUDGED} of {TOPICS.partitions}", flush=True)
    observed = observe(stage.bootstrap, TOPICS, {}, numbers={JUDGED})
    verdict = judge(observed, ranker, StepConfig(partitions=TOPICS.partitions))
    if not verdict.is_exact:
        print(verdict, file=sys.stderr)
    return samples, rate, verdict.is_exact


def capacity(stage: Stage) -> float:
    """Returns the events/s of a burst, from first to last commit, after a smaller burst that warms up both processes."""
    for burst in (BURST // 4, BURST):
        before = stage.sender.sent
        stage.sender.rate = 20_000.0
        began = time.monotonic()
        stage.until(lambda: stage.sender.sent >= before + burst, 60, "the sending of a burst")  # noqa: B023
        stage.drain()
        found = (stage.sender.sent - before) / (time.monotonic() - began)
    return found


def take_sample(stage: Stage, name: str, at_s: float) -> Sample:
    process = psutil.Process(stage[name].child.pid)
    return Sample(round(at_s, 1), name, process.memory_info().rss, process.num_fds())


def growth(samples: Sequence[Sample], name: str) -> dict[str, float]:
    """Returns the growth after the warm-up: of resident memory as a share, of file descriptors as a count."""
    own = [one for one in samples if one.name == name]
    warm = own[len(own) // 3 :]
    tenth = max(1, len(warm) // 10)
    first, final = warm[:tenth], warm[-tenth:]
    return {
        "resident": float(np.mean([one.resident for one in final]) / np.mean([one.resident for one in first]) - 1),
        "descriptors": float(np.mean([one.descriptors for one in final]) - np.mean([one.descriptors for one in first])),
    }


def draw(samples: Sequence[Sample], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(9, 6), layout="constrained")
    for name in sorted({one.name for one in samples}):
        own = [one for one in samples if one.name == name]
        above.plot([one.at_s for one in own], [one.resident / 2**20 for one in own], label=name)
        below.plot([one.at_s for one in own], [one.descriptors for one in own], label=name)
    above.set_ylabel("resident memory, MiB")
    below.set_ylabel("file descriptors")
    below.set_xlabel("seconds")
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
