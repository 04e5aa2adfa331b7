"""Reports on a data set with the figures and tables of the paper's section 3, as plots and as Markdown."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes

from training.datasets import dataset_statistics as statistics
from training.datasets.dataset_statistics import TYPES, PurchaseEvent
from training.datasets.tables.reader import Tables
from training.markdown import aligned
from training.plots import COLOURS, SERIES, bars, figure, panels, save, titled

_MOST_TAGS: Final = 25
_MOST_ITEMS: Final = 30
_LONGEST: Final = 60  # characters of a name on a plot


def describe(tables: Tables, name: str, out: Path) -> str | None:
    """Draws all plots into `out`, writes `description.md` and returns its text.

    Returns None, and writes nothing, where no purchase event has interactions before it.
    """
    events = statistics.purchase_events(tables)
    if not events:
        return None
    _modalities(events, name, out / "modalities.png")
    _lengths(tables, events, name, out / "interactions.png")
    _popularity(tables, events, name, out / "popularity.png")
    _together(tables, events, name, out / "bought-together.png")
    _drift(tables, events, name, out / "drift.png")
    text = _text(tables, events, name)
    (out / "description.md").write_text(text)
    return text


def _modalities(events: Sequence[PurchaseEvent], name: str, path: Path) -> None:
    """Plots users and events by modality: most users use one channel only, which is the paper's motivation."""
    drawn = figure(9, 2.3, f"{name}: who uses which channel")
    left, right = panels(drawn, 1, 2)
    users, types = statistics.users_by_modality(events), statistics.events_by_type(events)
    for axes, counts, title in ((left, users, "users"), (right, types, "purchase events")):
        total = sum(counts.values())
        bars(axes, list(counts), [100 * count / total for count in counts.values()], [COLOURS[kind] for kind in TYPES])
        for row, count in enumerate(counts.values()):
            axes.annotate(f" {100 * count / total:.1f} % ({count:,})", (100 * count / total, row), va="center", fontsize=8)
        axes.set_xlim(0, 118)
        axes.set_xticks(range(0, 101, 25))
        titled(axes, f"{title} ({total:,})", x="%")
    save(drawn, path)


def _lengths(tables: Tables, events: Sequence[PurchaseEvent], name: str, path: Path) -> None:
    drawn = figure(11, 5.6, f"{name}: how long histories, sessions and conversations are")
    axes = panels(drawn, 2, 3)
    for panel, (kind, counts) in zip(axes, statistics.interactions_per_event(events).items(), strict=False):
        _histogram(panel, counts, 10, COLOURS[kind])
        titled(panel, f"{kind}: mean {statistics.mean(counts):.2f}", x="interactions before a purchase event", y="% of events")
    rest: tuple[tuple[str, str, Counter[int], int, str], ...] = (
        ("sessions", "actions in a session", statistics.actions_per_session(tables), 30, COLOURS["session"]),
        (
            "conversations",
            "sentences in a conversation",
            statistics.sentences_per_conversation(tables),
            60,
            COLOURS["conversation"],
        ),
        ("purchase events", "items bought", statistics.items_per_event(events), 8, COLOURS["union"]),
    )
    for panel, (total, what, counts, most, colour) in zip(axes[3:], rest, strict=True):
        _histogram(panel, counts, most, colour)
        titled(panel, f"{what}: mean {statistics.mean(counts):.2f}", x=what, y=f"% of {total}")
    save(drawn, path)


def _histogram(axes: Axes, counts: Counter[int], most: int, colour: str) -> None:
    """Plots the shares of 1, 2 ...; the last bar holds all values above `most` or above the 99.5th percentile."""
    total = sum(counts.values())
    if not total:
        axes.annotate("none", (0.5, 0.5), xycoords="axes fraction", ha="center", color="#888888")
        return
    ordered = sorted(counts.elements())
    last = max(3, min(most, ordered[int(0.995 * (total - 1))]))
    shares = [100 * sum(n for value, n in counts.items() if min(value, last) == height) / total for height in range(1, last + 1)]
    axes.bar(range(1, last + 1), shares, color=colour, width=0.85)
    ticks = range(1, last + 1) if last <= 10 else [1, *range(5, last - 1, 5), last]
    more = max(counts) > last
    axes.set_xticks([*ticks], [f"{tick}{'+' if more and tick == last else ''}" for tick in ticks])
    axes.grid(axis="x", visible=False)


def _popularity(tables: Tables, events: Sequence[PurchaseEvent], name: str, path: Path) -> None:
    tags, items = statistics.tag_popularity(tables), statistics.item_popularity(events)
    keywords = statistics.keyword_popularity(tables)
    lists: list[tuple[str, list[tuple[str, int]], int, str]] = [
        (f"items ({len(tables.items)})", _named(tables, items), len(events), "% of purchase events"),
        (f"tags ({len(tags)})", tags.most_common(_MOST_TAGS), len(tables.sessions), "% of sessions"),
    ]
    if keywords and tables.encoded is not None:
        lists.append(
            (f"keywords ({len(keywords)})", keywords.most_common(_MOST_TAGS), len(tables.encoded.by_id), "% of conversations")
        )
    height = 0.19 * max(len(entries) for _, entries, _, _ in lists) + 1.4
    drawn = figure(5.2 * len(lists), height, f"{name}: what is popular")
    for panel, colour, (title, entries, total, unit) in zip(panels(drawn, 1, len(lists)), SERIES, lists, strict=False):
        bars(panel, [word for word, _ in entries], [100 * count / max(total, 1) for _, count in entries], colour)
        panel.tick_params(labelsize=7)
        titled(panel, title + (f", the first {len(entries)}" if f"({len(entries)})" not in title else ""), x=unit)
    save(drawn, path)


def _named(tables: Tables, items: Mapping[str, int]) -> list[tuple[str, int]]:
    ordered = sorted(tables.items, key=lambda item: -items.get(item, 0))[:_MOST_ITEMS]
    return [(_label(tables, item), items.get(item, 0)) for item in ordered]


def _label(tables: Tables, item: str) -> str:
    name = tables.items[item]
    return item if name == item else f"{item} {name}"[:_LONGEST]


def _together(tables: Tables, events: Sequence[PurchaseEvent], name: str, path: Path) -> None:
    """Plots the lift of each pair on a logarithmic scale; grey where two items were never bought together."""
    lifts = statistics.bought_together(events)
    items = [item for item in tables.items if any(item in pair for pair in lifts)][:_MOST_ITEMS]
    drawn = figure(0.27 * len(items) + 3.2, 0.27 * len(items) + 1.2, f"{name}: what is bought together")
    (axes,) = panels(drawn, 1, 1)
    axes.grid(visible=False)
    axes.set_facecolor("#eeeeee")
    if not items:
        axes.annotate("never more than one item", (0.5, 0.5), xycoords="axes fraction", ha="center", color="#888888")
        save(drawn, path)
        return
    indices = {item: index for index, item in enumerate(items)}
    grid = np.full((len(items), len(items)), np.nan)
    for (one, other), lift in lifts.items():
        if one in indices and other in indices:
            grid[indices[one], indices[other]] = grid[indices[other], indices[one]] = np.log2(lift)
    shown = axes.imshow(grid, cmap="RdBu_r", vmin=-4, vmax=4)
    axes.set_xticks(range(len(items)), items, rotation=90, fontsize=7)
    axes.set_yticks(range(len(items)), [_label(tables, item) for item in items], fontsize=7)
    bar = drawn.colorbar(shown, ax=axes, shrink=0.7, ticks=[-4, -2, 0, 2, 4])
    bar.set_ticklabels(["1/16", "1/4", "1", "4", "16"], fontsize=7)
    bar.set_label("times as often as by chance (grey: never)", fontsize=8)
    save(drawn, path)


def _drift(tables: Tables, events: Sequence[PurchaseEvent], name: str, path: Path) -> None:
    """Plots shares by tenth of the purchase events; the test part is the last tenth."""
    drawn = figure(10, 3.6, f"{name}: drift over time")
    left, right = panels(drawn, 1, 2)
    parts = [part for part in statistics.tenths(events) if part]
    at = range(1, len(parts) + 1)
    for kind in TYPES:
        shares = [100 * sum(event.type == kind for event in part) / len(part) for part in parts]
        left.plot(at, shares, "o-", ms=3, color=COLOURS[kind], label=kind)
    titled(left, "types of purchase events", x="tenth of the purchase events, in order of time", y="% of events")
    for colour, (item, _) in zip(SERIES, _moving(parts), strict=False):
        shares = [100 * sum(item in event.items for event in part) / len(part) for part in parts]
        right.plot(at, shares, "o-", ms=3, color=colour, label=_label(tables, item))
    titled(right, "the six items whose share moves most", x="tenth of the purchase events, in order of time", y="% of events")
    for axes in (left, right):
        axes.set_ylim(0, None)
        axes.set_xticks([*at])
        axes.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    save(drawn, path)


def _moving(parts: Sequence[Sequence[PurchaseEvent]]) -> list[tuple[str, float]]:
    """Returns the six items whose share changes most from the first third of the time to the last, with the change."""
    third = max(1, len(parts) // 3)
    early, late = ([event for part in thirds for event in part] for thirds in (parts[:third], parts[-third:]))
    shares = [{item: count / len(events) for item, count in statistics.item_popularity(events).items()} for events in (early, late)]
    changes = {item: abs(shares[0].get(item, 0) - shares[1].get(item, 0)) for item in {*shares[0], *shares[1]}}
    return sorted(changes.items(), key=lambda entry: (-entry[1], entry[0]))[: len(SERIES)]


def _text(tables: Tables, events: Sequence[PurchaseEvent], name: str) -> str:
    sections = [f"# {name}", "", *(f"- {fact}" for fact in statistics.summary_lines(tables)), ""]
    sections += [
        "![channels](modalities.png)",
        "",
        "![lengths](interactions.png)",
        "",
        "Interactions before a purchase event, % of events:",
    ]
    most = 6
    table = [["type", "mean", *(str(number) for number in range(1, most)), f"{most}+"]]
    for kind, counts in statistics.interactions_per_event(events).items():
        total = max(sum(counts.values()), 1)
        cells = [sum(n for value, n in counts.items() if min(value, most) == number) for number in range(1, most + 1)]
        table.append([kind, f"{statistics.mean(counts):.2f}", *(f"{100 * cell / total:.1f}" for cell in cells)])
    sections += ["", *aligned(table), "", "![popularity](popularity.png)", "", "![bought together](bought-together.png)", ""]
    lifts = sorted(statistics.bought_together(events).items(), key=lambda entry: (-entry[1], entry[0]))
    single = statistics.item_popularity(events)
    frequent = [(pair, lift) for pair, lift in lifts if min(single[item] for item in pair) >= len(events) / 200][:5]
    if frequent:
        named = ", ".join(f"{_label(tables, one)} with {_label(tables, other)} ({lift:.1f} x)" for (one, other), lift in frequent)
        sections += [f"Of items in at least 0.5 % of the purchase events, bought together most beyond chance: {named}.", ""]
    sections += ["![drift](drift.png)", ""]
    return "\n".join(sections)
