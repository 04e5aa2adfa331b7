"""`make chaos-sinks`: faults of sinks on real Kafka, a real PostgreSQL and an endpoint; after each, writes its row to
build/chaos-sinks.json.

Lists and tombstones are published all the time, in transactions, some of which are aborted. At the end, database or receiver must
hold exactly the lists of the topic. `CASES="killed: endpoint"` runs the cases whose
names contain it; `SEED` varies the timing of the faults; `RATE` is in records/s, for a machine that is too busy for 300.
"""

import argparse
import logging
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from stream.errors import IsthmusError
from stream.kafka.cluster.local_broker import LocalKafka
from stream.kafka.cluster.topics import create_or_check
from stream.settings import TopicSettings
from tests.chaos.publisher import Publisher
from tests.chaos.rows import table, write
from tests.chaos.sink_targets import TARGETS, Target
from tests.published_lists import publish, said
from tests.sink_processes import Sinks

BUILD: Final = Path(__file__).parents[2] / "build"
OUT: Final = BUILD / "chaos-sinks.json"
TOPICS: Final = TopicSettings(partitions=4)
COLUMNS: Final = ("lists", "surplus", "missing", "other", "seconds", "ok")
RATE: Final = 300.0
HELD: Final = 5_000
"""Number of records in the topic at the start, which the first load reads."""
SETTLE_S: Final = 300.0
LATE_S: Final = 3.0
_POLL_S: Final = 0.5


@dataclass(frozen=True, kw_only=True)
class SinkCase:
    """A schedule of faults while lists flow.

    Attributes:
        name: Shown in the table.
        faults: Injects them.
        sinks: How many processes are started.
        targets: The names of what they fill; see `TARGETS`.
        variables: Settings of the processes, as environment variables.
    """

    name: str
    faults: Callable[["SinkStage"], None]
    sinks: int = 1
    targets: tuple[str, ...] = tuple(TARGETS)
    variables: Mapping[str, str] = field(default_factory=dict)


class SinkStage:
    """What the faults of a case may use. `rng` decides their timing."""

    def __init__(self, case: SinkCase, broker: LocalKafka, target: Target, folder: Path, seed: int, rate: float) -> None:
        self.broker = broker
        self.bootstrap = broker.bootstrap
        self.target = target
        self.rng = random.Random(seed)
        self.notes: list[str] = []
        self.variables = {**target.variables(self.bootstrap, TOPICS.partitions), **case.variables}
        self.sinks = Sinks(target.kind, self.variables, folder)
        self.rate = rate
        self.publisher = Publisher(self.bootstrap, TOPICS, seed, rate, first=HELD)

    def wait(self, seconds: float) -> None:
        self.until(lambda: False, seconds, "", must=False)

    def pause(self, shortest_s: float, longest_s: float) -> None:
        """Waits for a random time."""
        self.wait(self.rng.uniform(shortest_s, longest_s))

    def until(self, condition: Callable[[], bool], seconds: float, what: str, *, must: bool = True) -> bool:
        """Waits for `condition`, and returns whether it became true.

        Raises:
            AssertionError: it did not, and `must` is set.
            IsthmusError: a sink ended by itself: it must wait for what is away.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            for child in self.sinks.running:
                child.check()
            if time.monotonic() > deadline:
                assert not must, f"{what} did not happen within {seconds:.0f} s"
                return False
            time.sleep(min(_POLL_S, max(0.0, deadline - time.monotonic())))
        return True

    def wait_for_progress(self) -> None:
        before = self.target.progress()
        self.until(lambda: self.target.progress() > before, SETTLE_S, "the work of the sinks on more lists")

    def wait_until_ready(self) -> None:
        self.until(self.sinks.are_ready, SETTLE_S, "the readiness of the sinks")


def run_case(case: SinkCase, target: str, folder: Path, seed: int, rate: float) -> dict[str, Any]:
    """Runs a case on one target and returns its row. The folder is kept if the case failed."""
    began = time.monotonic()
    row: dict[str, Any] = {"case": f"{case.name}: {target}", "seed": seed, "ok": False}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    broker, filled = LocalKafka(folder / "kafka"), TARGETS[target]()
    broker.properties["log.cleaner.backoff.ms"] = "500"
    stage = None
    try:
        with broker:
            stage = SinkStage(case, broker, filled, folder, seed, rate)
            row |= play(stage, case)
            row["notes"] = [*stage.notes, *filled.wrong_meanwhile()[:5], *tracebacks(folder)]
            row["ok"] = not (row["surplus"] or row["missing"] or row["other"] or filled.wrong_meanwhile() or tracebacks(folder))
    except (AssertionError, IsthmusError, subprocess.CalledProcessError) as error:
        row["error"] = f"{type(error).__name__}: {error}"
    finally:
        filled.close()
    row["seconds"] = round(time.monotonic() - began, 1)
    if row["ok"]:
        shutil.rmtree(folder, ignore_errors=True)
    return row


def play(stage: SinkStage, case: SinkCase) -> dict[str, Any]:
    """Starts sinks on a topic with lists, injects faults while more lists arrive, and compares the target with the topic."""
    create_or_check(stage.bootstrap, TOPICS, dev=True)
    publish(stage.bootstrap, TOPICS, stage.rng, HELD)
    try:
        for _ in range(case.sinks):
            stage.sinks.start()
        stage.publisher.start()
        stage.wait_for_progress()
        case.faults(stage)
        stage.publisher.stop()
        wanted = said(stage.bootstrap, TOPICS)
        stage.until(lambda: stage.target.standing() == wanted, SETTLE_S, "what the topic says", must=False)
        stage.wait(LATE_S)  # a late writer would show
    finally:
        stage.publisher.stop()
        stage.sinks.stop_all()
    return {"lists": len(wanted), **differences(stage.target.standing(), wanted)}


def differences(standing: Mapping[str, list[str]], wanted: Mapping[str, list[str]]) -> dict[str, Any]:
    """Counts users who are surplus, missing, or have another list than in the topic, and names up to five of each."""
    names = {
        "surplus": sorted(standing.keys() - wanted.keys()),
        "missing": sorted(wanted.keys() - standing.keys()),
        "other": sorted(user for user in wanted.keys() & standing.keys() if wanted[user] != standing[user]),
    }
    counts = {kind: len(users) for kind, users in names.items()}
    return {**counts, "examples_of": {kind: users[:5] for kind, users in names.items() if users}}


def tracebacks(folder: Path) -> list[str]:
    """Lists the logs of sinks with an uncaught error."""
    return [f"a traceback in {log.name}" for log in folder.glob("sink-*.log") if "Traceback" in log.read_text(errors="replace")]


def main() -> int:
    from tests.chaos.sink_cases import CASES

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds the context managers, which stop brokers and sinks
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="", help="comma-separated: run cases whose names contain one of these (default: all)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=RATE, help="records/s (default: 300)")
    given = parser.parse_args()
    words = [word.strip() for word in given.cases.split(",") if word.strip()]
    named = {f"{case.name}: {target}": (case, target) for case in CASES for target in case.targets}
    chosen = {name: one for name, one in named.items() if not words or any(word in name for word in words)}
    if not chosen:
        print("no such case; choose from:", *named, sep="\n  ", file=sys.stderr)
        return 2
    (BUILD / "chaos").mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=BUILD / "chaos" / "clients.log", level=logging.WARNING)
    rows: list[dict[str, Any]] = []
    for number, (name, (case, target)) in enumerate(chosen.items(), 1):
        print(f"[{number}/{len(chosen)}] {name} ...", flush=True)
        folder = BUILD / "chaos" / name.replace(": ", "-").replace(" ", "-")
        rows.append(run_case(case, target, folder, given.seed, given.rate))
        print(table(rows[-1:], COLUMNS), flush=True)
        write(rows[-1], OUT, keep=number > 1 or bool(words))
    if len(rows) > 1:
        print(table(rows, COLUMNS))
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
