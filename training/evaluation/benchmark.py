"""The paper's comparison (section 6): systems trained with several seeds on one data set and evaluated on its test part.

Every finished run is appended to a file with its result for each test event, so that an interrupted comparison resumes and
differences can be paired. This module does not know what a system is or how it is trained.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Final, NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from models.reliability import Reliability
from stream.core.outputs import TrainingExample
from stream.core.ranking import Ranker
from stream.errors import IsthmusError
from training.calibration import reliability
from training.evaluation.explanations import Faithfulness, InMind, faithfulness
from training.metrics import Evaluation, evaluate, metrics_by_type
from training.split import split

EVENT_TYPES: Final = ("conversation", "session", "both", "union")
BASELINE: Final = "late_fusion"
MIN_TEST: Final = 10
FLIPS: Final = 10_000
RESAMPLES: Final = 2_000
Key = TypeVar("Key")
_decode: Final = msgspec.json.Decoder


class TooSmallError(IsthmusError):
    """The data set leaves too little to learn from or to evaluate on."""


class Splits(NamedTuple):
    """A data set's examples in order of time, split as the paper does (`training.split`), and what users had in mind, if told."""

    training: Sequence[TrainingExample]
    validation: Sequence[TrainingExample]
    test: Sequence[TrainingExample]
    in_mind: InMind = MappingProxyType({})

    @property
    def types(self) -> NDArray[np.str_]:
        """The test events' types, (n,)."""
        return np.array([example.type for example in self.test], dtype=np.str_)


def split_examples(examples: Sequence[TrainingExample], in_mind: InMind = MappingProxyType({})) -> Splits:
    """Splits examples in order of time.

    Raises:
        TooSmallError: fewer than 10 test events.
    """
    splits = Splits(*split(examples), in_mind)
    if len(splits.test) < MIN_TEST:
        raise TooSmallError(
            f"{len(examples)} purchase events with interactions leave {len(splits.test)} to test on; at least {MIN_TEST} "
            f"({MIN_TEST * 10} purchase events) are needed for a meaningful number"
        )
    return splits


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One system trained with one seed.

    Attributes:
        data: the data set's fingerprint.
        code: the fingerprint of the code that trained and evaluated; "" in older files.
        system: its name.
        seed: of the training.
        train_s: how long training took.
        event_types: the first letter of each test event's type.
        hits: at 3, by test event.
        average_precisions: at 3, by test event.
        reliability: of the probabilities, on all test events; None in older files, and for systems without any.
        faithfulness: of the reasons, on the first test events; None in older files, and where no history is long enough.
        left_out: why there is no result; None where there is one.
        places: with unseen items, the place of the best of those bought, by test event; 0 where none was.
        hidden_precisions: with unseen items, the average precisions at 3 if these are not shown.
    """

    data: str
    code: str = ""
    system: str
    seed: int
    train_s: float = 0.0
    event_types: str = ""
    hits: tuple[float, ...] = ()
    average_precisions: tuple[float, ...] = ()
    reliability: Reliability | None = None
    faithfulness: Faithfulness | None = None
    left_out: str | None = None
    places: tuple[int, ...] = ()
    hidden_precisions: tuple[float, ...] = ()


def event_types_of(runs: Sequence[Run]) -> NDArray[np.str_]:
    """Returns the test events' types, (n,), as recorded in the runs of one data set."""
    letters = next((run.event_types for run in runs if run.event_types), "")
    return np.array([next(kind for kind in EVENT_TYPES if kind[0] == letter) for letter in letters], dtype=np.str_)


class ResultRow(msgspec.Struct, frozen=True):
    """One row of the results file."""

    system: str
    seed: int
    event_type: str
    events: int
    hr3: float
    map3: float
    train_s: float


def read_runs(path: Path) -> list[Run]:
    """Returns the runs in a file; skips lines that were cut short or do not have one result per event."""
    runs = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        try:
            run = _decode(Run).decode(line)
        except msgspec.MsgspecError:
            continue
        if len(run.hits) == len(run.average_precisions) == len(run.event_types) and (run.hits or run.left_out is not None):
            runs.append(run)
    return runs


class RunStore:
    """The finished runs of one data set and code, in a file of JSON lines; other runs in it are left alone."""

    def __init__(self, path: Path, data: str, code: str) -> None:
        self.data = data
        self.code = code
        self._path = path
        self._runs = {(run.system, run.seed): run for run in read_runs(path) if (run.data, run.code) == (data, code)}

    def get(self, system: str, seed: int) -> Run | None:
        return self._runs.get((system, seed))

    def add(self, run: Run) -> None:
        self._runs[run.system, run.seed] = run
        with self._path.open("ab") as file:
            if file.tell():
                file.write(b"" if self._path.read_bytes().endswith(b"\n") else b"\n")
            file.write(msgspec.json.encode(run) + b"\n")


Train = Callable[[str, int, Splits], Ranker]
"""(system, seed, splits) -> the trained ranker. Raises TooSmallError where the data lacks what the system learns from."""


def compare(
    systems: Sequence[str],
    seeds: Sequence[int],
    splits: Splits,
    train: Train,
    store: RunStore,
    say: Callable[[str], None] = lambda _: None,
) -> list[Run]:
    """Runs every system with every seed, seed by seed, so that an interrupted comparison has complete seeds."""
    runs = []
    for number, (seed, system) in enumerate(product(seeds, systems), start=1):
        label = f"[{number}/{len(systems) * len(seeds)}] {system}, seed {seed}"
        run = store.get(system, seed)
        if run is None or (run.left_out is None and len(run.hits) != len(splits.test)):
            say(f"{label} ...")
            run = _run(system, seed, splits, train, store)
            store.add(run)
        say(f"{label}: {_describe(run)}")
        runs.append(run)
    return runs


def _run(system: str, seed: int, splits: Splits, train: Train, store: RunStore) -> Run:
    began = perf_counter()
    try:
        ranker = train(system, seed, splits)
    except TooSmallError as error:
        return Run(data=store.data, code=store.code, system=system, seed=seed, left_out=str(error))
    train_s = round(perf_counter() - began, 3)
    evaluation = evaluate(ranker, splits.test)
    return Run(
        data=store.data,
        code=store.code,
        system=system,
        seed=seed,
        train_s=train_s,
        event_types="".join(kind[0] for kind in evaluation.types),
        hits=tuple(evaluation.hits.tolist()),
        average_precisions=tuple(evaluation.average_precisions.tolist()),
        reliability=reliability(ranker, splits.test),
        faithfulness=faithfulness(ranker, splits.test, splits.in_mind) if ranker.width else None,
    )


def _describe(run: Run) -> str:
    if run.left_out is not None:
        return f"left out: {run.left_out}"
    return f"HR@3 {np.mean(run.hits):.3f}  MAP@3 {np.mean(run.average_precisions):.3f}  ({run.train_s:.1f} s)"


def result_rows(runs: Sequence[Run], types: NDArray[np.str_]) -> list[ResultRow]:
    """Returns a row per system, seed and event type that occurs; none for a system that was left out."""
    rows = []
    for run in runs:
        if run.left_out is None:
            judged = Evaluation(types, np.array(run.hits), np.array(run.average_precisions))
            rows += [
                ResultRow(run.system, run.seed, row.event_type, row.events, round(row.hr3, 6), round(row.map3, 6), run.train_s)
                for row in metrics_by_type(judged)
                if row.events
            ]
    return rows


class Mean(NamedTuple):
    """A mean over seeds and its standard error, which is None for a single seed."""

    value: float
    error: float | None


def mean_of(values: Sequence[float]) -> Mean:
    """Returns mean and standard error.

    >>> mean_of([0.5, 0.7]).value, round(mean_of([0.5, 0.7]).error, 3), mean_of([0.5]).error
    (0.6, 0.1, None)
    """
    error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else None
    return Mean(float(np.mean(values)), error)


class PairedDifference(NamedTuple):
    """A system's average precision minus the baseline's, paired by purchase event (each a mean over the seeds that both have).

    Attributes:
        mean: over the events.
        error: standard error over the events.
        p: of a two-sided sign-flip test.
        low: of the 95 % bootstrap interval of the mean.
        high: likewise.
    """

    mean: float
    error: float
    p: float
    low: float
    high: float


def differences(runs: Sequence[Run], types: NDArray[np.str_], baseline: str = BASELINE) -> dict[tuple[str, str], PairedDifference]:
    """Returns the differences to the baseline by system and event type; none where the baseline has no run."""
    scores: dict[str, dict[int, NDArray[np.float64]]] = {}
    for run in runs:
        if run.left_out is None:
            scores.setdefault(run.system, {})[run.seed] = np.array(run.average_precisions)
    by_system_and_type = {}
    for system, own in scores.items():
        seeds = sorted(own.keys() & scores.get(baseline, {}).keys())
        if system == baseline or not seeds:
            continue
        paired = np.mean([own[seed] - scores[baseline][seed] for seed in seeds], axis=0)
        for kind in EVENT_TYPES:
            chosen = paired if kind == "union" else paired[types == kind]
            if len(chosen) > 1:
                by_system_and_type[system, kind] = paired_difference(chosen)
    return by_system_and_type


def paired_difference(paired: NDArray[np.float64], flips: int = FLIPS) -> PairedDifference:
    """Returns the statistics of differences (n,); p is how often random signs (10,000 draws, seed 0) give as extreme a mean.

    >>> paired_difference(np.array([0.1, 0.2, 0.1, 0.2] * 5)).p
    0.0001
    """
    rng = np.random.default_rng(0)
    nonzero = paired[paired != 0]
    signs = rng.integers(0, 2, (flips, len(nonzero)), dtype=np.int8) * 2 - 1
    sums = np.abs(signs.astype(np.float32) @ nonzero.astype(np.float32))
    extreme = int((sums >= abs(nonzero.sum()) * (1 - 1e-5) - 1e-9).sum())
    error = float(np.std(paired, ddof=1) / np.sqrt(len(paired)))
    low, high = np.quantile(_resampled_means(paired), [0.025, 0.975])
    return PairedDifference(float(paired.mean()), error, round((extreme + 1) / (flips + 1), 4), float(low), float(high))


def _resampled_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the means of 2,000 samples of the values with replacement, seed 0; one at a time, for memory."""
    rng = np.random.default_rng(0)
    return np.array([values[rng.integers(len(values), size=len(values))].mean() for _ in range(RESAMPLES)])


def holm(compared: Mapping[Key, PairedDifference]) -> dict[Key, PairedDifference]:
    """Returns the differences with p corrected for their number (Holm 1979).

    >>> found = {name: PairedDifference(0.0, 0.0, p, 0.0, 0.0) for name, p in (("a", 0.01), ("b", 0.04), ("c", 0.03))}
    >>> [round(one.p, 4) for one in holm(found).values()]
    [0.03, 0.06, 0.06]
    """
    corrected, least = {}, 0.0
    for rank, key in enumerate(sorted(compared, key=lambda one: compared[one].p)):
        least = max(least, min(1.0, compared[key].p * (len(compared) - rank)))
        corrected[key] = compared[key]._replace(p=least)
    return {key: corrected[key] for key in compared}
