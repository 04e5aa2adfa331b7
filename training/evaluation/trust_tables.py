"""Tables of how true probabilities and reasons are, for the report of one data set and for the results page."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from training.evaluation.benchmark import Run
from training.markdown import aligned

CALIBRATION: Final = (
    "Probabilities of the first three items of each list, by tenths from the least probable to the most: mean probability and "
    "share bought; expected calibration error."
)
FAITHFULNESS: Final = (
    "Reasons: the first item's score after the first, second and third deletion of an interaction, as a share of the score before; "
    "the lower, the more faithful. Named: those that the reasons name, the strongest first. Random: as many in random order. "
    "Repeated: one interaction of the history, drawn at random, stands in it twice."
)
PLANTED: Final = (
    "The strongest reason is an interaction in which the user had the first item in mind: share of events, and share by chance."
)


def trust_tables(runs: Sequence[Run]) -> list[str]:
    """Returns the paragraphs and tables, means over seeds and draws; nothing where no system has probabilities or reasons."""
    by_system: dict[str, list[Run]] = {}
    for run in runs:
        by_system.setdefault(run.system, []).append(run)
    return [*_calibration(by_system), *_faithfulness(by_system)]


def _calibration(by_system: Mapping[str, Sequence[Run]]) -> list[str]:
    rows = []
    for system, runs in by_system.items():
        judged = [run.reliability for run in runs if run.reliability is not None]
        if judged:
            bins = zip(*(one.bins for one in judged), strict=False)  # a small test part has fewer bins
            curve = [f"{np.mean([one.predicted for one in at]):.3f} {np.mean([one.bought for one in at]):.3f}" for at in bins]
            rows.append([system, f"{np.mean([one.error for one in judged]):.4f}", *curve])
    if not rows:
        return []
    widest = max(map(len, rows))
    header = ["system", "error", *(f"tenth {number}" for number in range(1, widest - 1))]
    return ["", CALIBRATION, "", *aligned([header, *([*row, *[""] * (widest - len(row))] for row in rows)])]


def _faithfulness(by_system: Mapping[str, Sequence[Run]]) -> list[str]:
    table = [["system", "events", "named", "random", "repeated, named", "repeated, random"]]
    planted = [["system", "events", "strongest reason", "by chance"]]
    for system, runs in by_system.items():
        judged = [run.faithfulness for run in runs if run.faithfulness is not None]
        if judged:
            curves = ([one.named for one in judged], [one.random for one in judged])
            repeated = ([one.repeated_named for one in judged], [one.repeated_random for one in judged])
            table.append([system, str(sum(one.events for one in judged)), *map(_curve, (*curves, *repeated))])
        told = [one for one in judged if one.planted]
        if told:
            shares = (np.mean([one.found for one in told]), np.mean([one.found_by_chance for one in told]))
            planted.append([system, str(sum(one.planted for one in told)), *(f"{share:.3f}" for share in shares)])
    lines = ["", FAITHFULNESS, "", *aligned(table)] if len(table) > 1 else []
    return [*lines, "", PLANTED, "", *aligned(planted)] if len(planted) > 1 else lines


def _curve(curves: Sequence[Sequence[float]]) -> str:
    return " ".join(f"{share:.3f}" for share in np.mean(curves, axis=0))
