"""Renders the rows of build/bench.json as the tables of README.md and as a plot."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
COLUMNS = (
    ("events_per_s", "events/s", 1, 0),
    ("sentences_per_s", "sentences/s", 1, 0),
    ("speedup", "speed-up", 1, 2),
    ("cpu_us_per_sentence", "CPU us/sentence", 1, 0),
    ("ready_s", "ready after s", 1, 1),
    ("cpu_us_per_event", "CPU us/event", 1, 1),
    ("peak_rss_bytes", "peak MiB", 2**20, 0),
    ("cores", "% of a core", 0.01, 1),
    ("value", "value", 1, 2),
    ("disk_bytes_per_user", "disk B/user", 1, 0),
    ("ratio", "ratio to ours", 1, 2),
    ("p50_ms", "p50 ms", 1, 1),
    ("p99_ms", "p99 ms", 1, 1),
)


def with_ratios(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Adds to each throughput row its ratio to ours under the same load."""
    ours = {(row["part"], row["users"], row["scored"]): row["events_per_s"] for row in rows if _is_ours(row)}
    found = []
    for row in rows:
        own = ours.get((row["part"], row["users"], row["scored"])) if "events_per_s" in row else None
        found.append({**row, "ratio": row["events_per_s"] / own} if own else dict(row))
    return found


def _is_ours(row: Row) -> bool:
    return row["contender"] == "ours" and "events_per_s" in row


def as_tables(rows: Sequence[Row]) -> str:
    """Returns one Markdown table per part, with the columns of that part."""
    parts = dict.fromkeys(row["part"] for row in rows)
    return "\n\n".join(f"{part}\n\n{_as_table([row for row in rows if row['part'] == part])}" for part in parts)


def _as_table(rows: Sequence[Row]) -> str:
    columns = [column for column in COLUMNS if any(column[0] in row for row in rows)]
    heads = ["contender", "load", "scored", *(head for _, head, _, _ in columns)]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    for row in rows:
        cells = [f"{row[key] / scale:,.{digits}f}" if key in row else "" for key, _, scale, digits in columns]
        lines.append("| " + " | ".join([row["contender"], row["users"], "yes" if row["scored"] else "no", *cells]) + " |")
    return "\n".join(lines)


def plot(rows: Sequence[Row], path: Path) -> None:
    """Plots events/s of all contenders, with and without the model, on a logarithmic axis."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [row for row in rows if row["part"] == "throughput" and row["users"] == "new users"]
    names = list(dict.fromkeys(row["contender"] for row in shown))
    if not names:
        return
    figure, axes = plt.subplots(figsize=(9, 0.6 * len(names) + 1.5))
    for scored, offset, colour in ((False, -0.2, "#9ecae1"), (True, 0.2, "#3182bd")):
        found = {row["contender"]: row["events_per_s"] for row in shown if row["scored"] is scored}
        places = [names.index(name) + offset for name in found]
        bars = axes.barh(places, list(found.values()), 0.38, color=colour, label="served model" if scored else "no model")
        axes.bar_label(bars, [f"{value:,.0f}" for value in found.values()], padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("events/s on one core")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
