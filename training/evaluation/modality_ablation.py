"""The paper's second finding put to the test (its section 6.2): does a frequent modality help to learn from a rare one?

Joint systems are trained with 0, 25, 50 and 100 % of the events of one type, and judged on the events of the other.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.core.outputs import EventType, TrainingExample
from stream.core.ranking import Ranker
from training.evaluation.benchmark import Mean, PairedDifference, Run, Splits, Train, mean_of, paired_difference
from training.evaluation.benchmark_report import left_out
from training.markdown import aligned
from training.plots import SERIES, figure, panels, save, titled

SHARES: Final = (0, 25, 50, 100)
JUDGED_ON: Final[dict[EventType, EventType]] = {"session": "conversation", "conversation": "session"}
"""Type that is thinned out -> type that is judged on."""
JOINT: Final = ("latent_feature", "keyword", "relative_representation", "isthmus")
_SURE: Final = 0.05


class Variant(NamedTuple):
    """A system trained with `share` % of the events of type `thinned`."""

    system: str
    thinned: EventType
    share: int

    @property
    def name(self) -> str:
        """All variants of 100 % are one: nothing is taken away."""
        return self.system if self.share == 100 else f"{self.system} with {self.share} % of {self.thinned}-only"


def variants_of(systems: Sequence[str], types: NDArray[np.str_]) -> list[Variant]:
    """Those that the test events, of these `types` (n,), can judge."""
    judged = [thinned for thinned, kind in JUDGED_ON.items() if (types == kind).any()]
    return [Variant(system, thinned, share) for system in systems for thinned in judged for share in SHARES]


def thinned(parts: Splits, variant: Variant, seed: int) -> Splits:
    """Training and validation with so many of the events of that type; those of 25 % are among those of 50 %."""
    return Splits(_thin(parts.training, variant, seed), _thin(parts.validation, variant, seed), parts.test)


def _thin(examples: Sequence[TrainingExample], variant: Variant, seed: int) -> list[TrainingExample]:
    ranks = np.random.default_rng(seed).permutation(len(examples))
    own = [place for place, example in enumerate(examples) if example.type == variant.thinned]
    kept = set(sorted(own, key=ranks.__getitem__)[: round(len(own) * variant.share / 100)])
    return [example for place, example in enumerate(examples) if example.type != variant.thinned or place in kept]


def trainer_of(train: Train, systems: Sequence[str]) -> Train:
    """As `train`, of variants by name."""

    def train_variant(name: str, seed: int, parts: Splits) -> Ranker:
        variant = next(one for one in variants_of(systems, parts.types) if one.name == name)
        return train(variant.system, seed, thinned(parts, variant, seed))

    return train_variant


class ThinRow(msgspec.Struct, frozen=True):
    """One row of the results file: a variant and seed on the events that it is judged on."""

    system: str
    seed: int
    thinned: str
    share: int
    event_type: str
    events: int
    map3: float
    train_s: float


class Point(NamedTuple):
    """A variant's MAP@3 over seeds, and its difference from the same system with none of the thinned events, paired by event."""

    variant: Variant
    map3: Mean
    gain: PairedDifference | None


def thin_rows(runs: Sequence[Run], systems: Sequence[str], types: NDArray[np.str_]) -> list[ThinRow]:
    rows = []
    for variant in variants_of(systems, types):
        judged = types == JUDGED_ON[variant.thinned]
        for run in runs:
            if run.system == variant.name and run.left_out is None:
                map3 = round(float(np.array(run.average_precisions)[judged].mean()), 6)
                kind, events = JUDGED_ON[variant.thinned], int(judged.sum())
                rows.append(ThinRow(variant.system, run.seed, variant.thinned, variant.share, kind, events, map3, run.train_s))
    return rows


def points_of(runs: Sequence[Run], systems: Sequence[str], types: NDArray[np.str_]) -> list[Point]:
    found = []
    for variant in variants_of(systems, types):
        judged = types == JUDGED_ON[variant.thinned]
        own, none = (_scores(runs, name, judged) for name in (variant.name, variant._replace(share=0).name))
        if not own:
            continue
        seeds = sorted(own.keys() & none.keys())
        paired = bool(seeds) and variant.share > 0 and judged.sum() > 1
        gain = paired_difference(np.mean([own[seed] - none[seed] for seed in seeds], axis=0)) if paired else None
        found.append(Point(variant, mean_of([float(scores.mean()) for scores in own.values()]), gain))
    return found


def _scores(runs: Sequence[Run], name: str, judged: NDArray[np.bool_]) -> dict[int, NDArray[np.float64]]:
    return {run.seed: np.array(run.average_precisions)[judged] for run in runs if run.system == name and run.left_out is None}


def verdict(points: Sequence[Point]) -> list[str]:
    """A sentence for each system and direction, from the difference between all and none of the thinned events."""
    sentences = []
    for point in points:
        if point.variant.share != 100 or point.gain is None:
            continue
        gain, variant = point.gain, point.variant
        word = "changes nothing that can be told from chance for"
        if gain.p < _SURE:
            word = "helps" if gain.mean > 0 else "harms"
        sentences.append(
            f"{variant.system}: having the {variant.thinned}-only events {word} the {JUDGED_ON[variant.thinned]}-only events "
            f"(MAP@3 {gain.mean:+.4f} ± {gain.error:.4f}, p = {gain.p:.4f})."
        )
    return sentences


def report(points: Sequence[Point], runs: Sequence[Run], facts: Mapping[str, str]) -> str:
    """Markdown: MAP@3 by share, the verdict in words, and which of the `runs` were left out."""
    table = [["system", "thinned", "judged on", *(f"{share} %" for share in SHARES)]]
    by_line: dict[tuple[str, EventType], dict[int, str]] = {}
    for point in points:
        gain = "" if point.gain is None else f" ({point.gain.mean:+.4f} ± {point.gain.error:.4f})"
        by_line.setdefault(point.variant[:2], {})[point.variant.share] = f"{point.map3.value:.3f}{gain}"
    for (system, kind), cells in by_line.items():
        table.append([system, f"{kind}-only", f"{JUDGED_ON[kind]}-only", *(cells.get(share, "") for share in SHARES)])
    purpose = (
        "MAP@3 by share of the thinned events in training and validation; in brackets the difference from 0 %, paired by event."
    )
    lines = [*(f"- {name}: {fact}" for name, fact in facts.items()), "", purpose, "", *aligned(table), ""]
    return "\n".join([*lines, *(f"- {sentence}" for sentence in verdict(points)), *left_out(runs)]) + "\n"


def plot(points: Sequence[Point], title: str, path: Path) -> None:
    """MAP@3 by share, a panel for each direction that was judged; whiskers: standard error of the difference from 0 %, paired by
    event. After as many systems as there are colours, lines are dashed.
    """
    systems = list(dict.fromkeys(point.variant.system for point in points))
    directions = list(dict.fromkeys(point.variant.thinned for point in points))
    drawn = figure(4.75 * len(directions), 4.0, title)
    for axes, thinned_type in zip(panels(drawn, 1, len(directions)), directions, strict=True):
        for place, system in enumerate(systems):
            colour, line = SERIES[place % len(SERIES)], "-" if place < len(SERIES) else "--"
            own = [point for point in points if (point.variant.system, point.variant.thinned) == (system, thinned_type)]
            shares = [point.variant.share for point in own]
            errors = [point.gain.error if point.gain else 0.0 for point in own]
            values = [point.map3.value for point in own]
            axes.errorbar(shares, values, errors, marker="o", markersize=4, capsize=3, color=colour, linestyle=line, label=system)
        axes.set_xticks(SHARES)
        titled(
            axes, f"judged on {JUDGED_ON[thinned_type]}-only events", f"% of the {thinned_type}-only events in training", "MAP@3"
        )
    drawn.axes[0].legend(fontsize=8, frameon=False)
    save(drawn, path)
