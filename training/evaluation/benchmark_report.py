"""Reports a comparison: Markdown, which the terminal shows too, and a plot. Every number is computed from the runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.evaluation.benchmark import (
    BASELINE,
    EVENT_TYPES,
    Mean,
    PairedDifference,
    ResultRow,
    Run,
    differences,
    holm,
    mean_of,
    result_rows,
)
from training.evaluation.trust_tables import trust_tables
from training.markdown import aligned
from training.plots import COLOURS, figure, panels, save, titled

TEST: Final = (
    "Differences are of AP@3, paired by purchase event (each event's mean over the seeds), ± their standard error over the events, "
    "with 95 % bootstrap intervals (2,000 samples); p is of a two-sided sign-flip test (10,000 draws), corrected for the number of "
    "comparisons in the table (Holm)."
)
_PURPOSE: Final = "HR@3 / MAP@3 with the post filter, mean over {seeds}; test part: {events}."
Means = Mapping[tuple[str, str], tuple[Mean, Mean]]


def means_of(rows: Sequence[ResultRow]) -> dict[tuple[str, str], tuple[Mean, Mean]]:
    """Returns (HR@3, MAP@3) over seeds, by system and event type."""
    by_key: dict[tuple[str, str], list[ResultRow]] = {}
    for row in rows:
        by_key.setdefault((row.system, row.event_type), []).append(row)
    return {key: (mean_of([row.hr3 for row in own]), mean_of([row.map3 for row in own])) for key, own in by_key.items()}


def markdown(runs: Sequence[Run], types: NDArray[np.str_], facts: Mapping[str, str]) -> str:
    """Returns the report: `facts` (data, command, versions ...), results, differences to Late fusion, systems left out."""
    rows = result_rows(runs, types)
    means = means_of(rows)
    systems = list(dict.fromkeys(run.system for run in runs))
    seeds = len({run.seed for run in runs})
    counts = ", ".join(f"{int((types == kind).sum())} {kind}" for kind in EVENT_TYPES[:3])
    lines = [f"- {name}: {fact}" for name, fact in facts.items()]
    purpose = _PURPOSE.format(
        seeds=f"{seeds} seeds ± standard error" if seeds > 1 else "1 seed", events=f"{len(types)} events ({counts})"
    )
    lines += ["", purpose, "", *_results(systems, means, rows)]
    compared = differences(runs, types)
    if compared:
        lines += ["", f"MAP@3 minus {BASELINE}'s:", "", *_differences(systems, compared), "", TEST]
    return "\n".join([*lines, *trust_tables(runs), *left_out(runs)]) + "\n"


def left_out(runs: Sequence[Run]) -> list[str]:
    """Returns a paragraph of the systems without a result and the reasons; nothing where all have one."""
    reasons = {run.system: run.left_out for run in runs if run.left_out is not None}
    return ["", *(f"Left out: {system} ({reason})." for system, reason in reasons.items())] if reasons else []


def _results(systems: Sequence[str], means: Means, rows: Sequence[ResultRow]) -> list[str]:
    table = [["system", *EVENT_TYPES, "train s"]]
    for system in systems:
        cells = [_cell(means.get((system, kind))) for kind in EVENT_TYPES]
        times = {row.seed: row.train_s for row in rows if row.system == system}
        table.append([system, *cells, f"{np.mean([*times.values()]):.1f}" if times else ""])
    return aligned(table)


def _cell(means: tuple[Mean, Mean] | None) -> str:
    if means is None:
        return ""
    return " / ".join(f"{mean.value:.3f}" + (f" ± {mean.error:.3f}" if mean.error is not None else "") for mean in means)


def _differences(systems: Sequence[str], compared: Mapping[tuple[str, str], PairedDifference]) -> list[str]:
    compared = holm(compared)
    table = [["system", *EVENT_TYPES]]
    with_difference = [system for system in systems if any((system, kind) in compared for kind in EVENT_TYPES)]
    table += [[system, *(difference_cell(compared.get((system, kind))) for kind in EVENT_TYPES)] for system in with_difference]
    return aligned(table)


def difference_cell(difference: PairedDifference | None) -> str:
    """Returns mean, error, interval and p as text; "" for None."""
    if difference is None:
        return ""
    p = "p < .001" if difference.p < 0.001 else f"p = {difference.p:.3f}".replace("0.", ".")
    interval = f"{difference.low:+.4f} to {difference.high:+.4f}"
    return f"{difference.mean:+.4f} ± {difference.error:.4f} ({interval}; {p})"


def plot(rows: Sequence[ResultRow], title: str, path: Path) -> None:
    """Plots MAP@3 by system, a panel for each event type; whiskers are standard errors over seeds, the line is Late fusion."""
    means = means_of(rows)
    systems = list(dict.fromkeys(row.system for row in rows))
    kinds = [kind for kind in EVENT_TYPES if any(key[1] == kind for key in means)]
    drawn = figure(3.1 * len(kinds) + 1.2, 0.34 * len(systems) + 1.5, title)
    for axes, kind in zip(panels(drawn, 1, len(kinds), share_y=True), kinds, strict=True):
        rows_and_means = [(row, means[system, kind]) for row, system in enumerate(systems) if (system, kind) in means]
        for row, (hr3, map3) in rows_and_means:
            axes.plot([hr3.value], [row], marker="|", color=COLOURS[kind], alpha=0.45, markersize=9)
            axes.errorbar([map3.value], [row], xerr=[map3.error or 0.0], fmt="o", color=COLOURS[kind], markersize=5, capsize=2.5)
            axes.annotate(f"{map3.value:.3f}", (map3.value, row), (0, 5), textcoords="offset points", ha="center", fontsize=6.5)
        if (BASELINE, kind) in means:
            axes.axvline(means[BASELINE, kind][1].value, color="#888888", linewidth=0.8, linestyle=":")
        axes.margins(x=0.12)  # room for the numbers
        axes.set_yticks(range(len(systems)), systems)
        axes.set_ylim(len(systems) - 0.5, -0.7)
        titled(axes, kind, x="MAP@3 (●) and HR@3 (|)")
    save(drawn, path)
