"""Modality ablation: does a frequent modality help to learn from a rare one (the paper's section 6.2)?

Joint systems are trained with 0, 25, 50 and 100 % of the events of one type and evaluated on the events of the other.
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
EVALUATED_ON: Final[dict[EventType, EventType]] = {"session": "conversation", "conversation": "session"}
"""Ablated type -> type that the system is evaluated on."""
_SIGNIFICANT: Final = 0.05


class Variant(NamedTuple):
    """A system trained with `share` % of the events of type `ablated`."""

    system: str
    ablated: EventType
    share: int

    @property
    def name(self) -> str:
        """The key in the run file. All variants of 100 % are the system itself: nothing is removed."""
        return self.system if self.share == 100 else f"{self.system} with {self.share} % of {self.ablated}-only"


def variants_of(systems: Sequence[str], types: NDArray[np.str_]) -> list[Variant]:
    """Returns the variants that can be evaluated on test events of these `types` (n,)."""
    possible = [ablated for ablated, kind in EVALUATED_ON.items() if (types == kind).any()]
    return [Variant(system, ablated, share) for system in systems for ablated in possible for share in SHARES]


def ablate(splits: Splits, variant: Variant, seed: int) -> Splits:
    """Removes events of the ablated type from training and validation; the events kept at 25 % are among those kept at 50 %."""
    training, validation = (_ablate(part, variant, seed) for part in (splits.training, splits.validation))
    return splits._replace(training=training, validation=validation)


def _ablate(examples: Sequence[TrainingExample], variant: Variant, seed: int) -> list[TrainingExample]:
    ranks = np.random.default_rng(seed).permutation(len(examples))
    of_type = [index for index, example in enumerate(examples) if example.type == variant.ablated]
    kept = set(sorted(of_type, key=ranks.__getitem__)[: round(len(of_type) * variant.share / 100)])
    return [example for index, example in enumerate(examples) if example.type != variant.ablated or index in kept]


def variant_trainer(train: Train, systems: Sequence[str]) -> Train:
    """Returns a function like `train` that takes the name of a variant."""

    def train_variant(name: str, seed: int, splits: Splits) -> Ranker:
        variant = next(variant for variant in variants_of(systems, splits.types) if variant.name == name)
        return train(variant.system, seed, ablate(splits, variant, seed))

    return train_variant


class AblationRow(msgspec.Struct, frozen=True):
    """One row of the results file: a variant and seed on the events that it is evaluated on. `thinned` is the ablated type."""

    system: str
    seed: int
    thinned: str
    share: int
    event_type: str
    events: int
    map3: float
    train_s: float


class Point(NamedTuple):
    """A variant's MAP@3 over seeds, and its paired difference to the same system with none of the ablated events."""

    variant: Variant
    map3: Mean
    gain: PairedDifference | None


def ablation_rows(runs: Sequence[Run], systems: Sequence[str], types: NDArray[np.str_]) -> list[AblationRow]:
    """Returns a row per variant and seed."""
    rows = []
    for variant in variants_of(systems, types):
        chosen = types == EVALUATED_ON[variant.ablated]
        for run in runs:
            if run.system == variant.name and run.left_out is None:
                map3 = round(float(np.array(run.average_precisions)[chosen].mean()), 6)
                kind, events = EVALUATED_ON[variant.ablated], int(chosen.sum())
                rows.append(AblationRow(variant.system, run.seed, variant.ablated, variant.share, kind, events, map3, run.train_s))
    return rows


def points_of(runs: Sequence[Run], systems: Sequence[str], types: NDArray[np.str_]) -> list[Point]:
    """Returns a point per variant that has runs."""
    points = []
    for variant in variants_of(systems, types):
        chosen = types == EVALUATED_ON[variant.ablated]
        own, none = (_precisions(runs, name, chosen) for name in (variant.name, variant._replace(share=0).name))
        if not own:
            continue
        seeds = sorted(own.keys() & none.keys())
        paired = bool(seeds) and variant.share > 0 and chosen.sum() > 1
        gain = paired_difference(np.mean([own[seed] - none[seed] for seed in seeds], axis=0)) if paired else None
        points.append(Point(variant, mean_of([float(precisions.mean()) for precisions in own.values()]), gain))
    return points


def _precisions(runs: Sequence[Run], name: str, chosen: NDArray[np.bool_]) -> dict[int, NDArray[np.float64]]:
    return {run.seed: np.array(run.average_precisions)[chosen] for run in runs if run.system == name and run.left_out is None}


def verdict(points: Sequence[Point]) -> list[str]:
    """Returns a sentence for each system and direction, from the difference between all and none of the ablated events."""
    sentences = []
    for point in points:
        if point.variant.share != 100 or point.gain is None:
            continue
        gain, variant = point.gain, point.variant
        effect = "has no significant effect on"
        if gain.p < _SIGNIFICANT:
            effect = "helps" if gain.mean > 0 else "harms"
        sentences.append(
            f"{variant.system}: having the {variant.ablated}-only events {effect} the {EVALUATED_ON[variant.ablated]}-only events "
            f"(MAP@3 {gain.mean:+.4f} ± {gain.error:.4f}, p = {gain.p:.4f})."
        )
    return sentences


def report(points: Sequence[Point], runs: Sequence[Run], facts: Mapping[str, str]) -> str:
    """Returns the report in Markdown: MAP@3 by share, the verdict in words, and which of the `runs` were left out."""
    table = [["system", "thinned", "evaluated on", *(f"{share} %" for share in SHARES)]]
    by_line: dict[tuple[str, EventType], dict[int, str]] = {}
    for point in points:
        gain = "" if point.gain is None else f" ({point.gain.mean:+.4f} ± {point.gain.error:.4f})"
        by_line.setdefault(point.variant[:2], {})[point.variant.share] = f"{point.map3.value:.3f}{gain}"
    for (system, kind), cells in by_line.items():
        table.append([system, f"{kind}-only", f"{EVALUATED_ON[kind]}-only", *(cells.get(share, "") for share in SHARES)])
    purpose = "MAP@3 by share of the thinned events in training and validation; in brackets the difference to 0 %, paired by event."
    lines = [*(f"- {name}: {fact}" for name, fact in facts.items()), "", purpose, "", *aligned(table), ""]
    return "\n".join([*lines, *(f"- {sentence}" for sentence in verdict(points)), *left_out(runs)]) + "\n"


def plot(points: Sequence[Point], title: str, path: Path) -> None:
    """Plots MAP@3 by share, a panel for each evaluated direction.

    Whiskers are the standard error of the difference to 0 %, paired by event. Lines are dashed once the colours repeat.
    """
    systems = list(dict.fromkeys(point.variant.system for point in points))
    directions = list(dict.fromkeys(point.variant.ablated for point in points))
    drawn = figure(4.75 * len(directions), 4.0, title)
    for axes, ablated in zip(panels(drawn, 1, len(directions)), directions, strict=True):
        for index, system in enumerate(systems):
            colour, line = SERIES[index % len(SERIES)], "-" if index < len(SERIES) else "--"
            own = [point for point in points if (point.variant.system, point.variant.ablated) == (system, ablated)]
            shares = [point.variant.share for point in own]
            errors = [point.gain.error if point.gain else 0.0 for point in own]
            values = [point.map3.value for point in own]
            axes.errorbar(shares, values, errors, marker="o", markersize=4, capsize=3, color=colour, linestyle=line, label=system)
        axes.set_xticks(SHARES)
        titled(axes, f"evaluated on {EVALUATED_ON[ablated]}-only events", f"% of the {ablated}-only events in training", "MAP@3")
    drawn.axes[0].legend(fontsize=8, frameon=False)
    save(drawn, path)
