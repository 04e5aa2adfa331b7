"""Figures: one style for all, drawn without a display and saved as PNG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

rcParams["text.parse_math"] = False  # names come from data: text between two $ is not a formula
INK: Final = "#222222"
FAINT: Final = "#d9d9d9"
COLOURS: Final = {"conversation": "#d1495b", "session": "#2e6f95", "both": "#8a5a9e", "union": "#444444"}
"""By modality or event type."""
SERIES: Final = ("#2e6f95", "#d1495b", "#3a8f5c", "#e09f3e", "#8a5a9e", "#555555")


def figure(width: float, height: float, title: str) -> Figure:
    """Returns a figure of this size in inches."""
    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    drawn.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return drawn


def panels(drawn: Figure, rows: int, columns: int, *, share_y: bool = False) -> list[Axes]:
    """Returns the axes of a grid, row by row."""
    all_axes = [axes for row in drawn.subplots(rows, columns, squeeze=False, sharey=share_y) for axes in row]
    for axes in all_axes:
        plain(axes)
    return all_axes


def plain(axes: Axes) -> None:
    """Removes the box and draws a faint grid behind the marks."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#999999")
    axes.tick_params(colors=INK, labelsize=8, length=3)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def titled(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, fontsize=9.5, loc="left", color=INK)
    axes.set_xlabel(x, fontsize=8, color=INK)
    axes.set_ylabel(y, fontsize=8, color=INK)


def bars(axes: Axes, names: Sequence[str], values: Sequence[float], colours: str | Sequence[str] = SERIES[0]) -> None:
    """Draws horizontal bars, the first on top."""
    positions = range(len(names))
    axes.barh(positions, values, color=colours, height=0.72)
    axes.set_yticks(positions, names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)


def save(drawn: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.savefig(path, dpi=150)
