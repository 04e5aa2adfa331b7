"""Statistics of a data set: the numbers behind the tables and figures of the paper's section 3."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise
from typing import Final, NamedTuple

from training.datasets.tables.reader import InteractionRow, Tables

TYPES: Final = ("session", "conversation", "both")
MODALITIES: Final = ("session only", "conversation only", "both")
PARTS: Final = 10


class PurchaseEvent(NamedTuple):
    """A purchase event: its user, its interactions in order, and the items bought."""

    user_id: str
    interactions: tuple[InteractionRow, ...]
    items: tuple[str, ...]

    @property
    def sessions(self) -> int:
        return sum(row.session_id is not None for row in self.interactions)

    @property
    def type(self) -> str:
        return "session" if self.sessions == len(self.interactions) else "both" if self.sessions else "conversation"


def purchase_events(tables: Tables) -> list[PurchaseEvent]:
    """Returns the purchase events with interactions, in the order of their ids."""
    rows: dict[int, list[InteractionRow]] = {}
    for row in tables.interactions:
        rows.setdefault(row.purchase_event_id, []).append(row)
    return [
        PurchaseEvent(
            rows[event][0].user_id,
            tuple(sorted(rows[event], key=lambda row: row.event_number)),
            tuple(dict.fromkeys(tables.purchases[event])),
        )
        for event in sorted(rows)
    ]


def users_by_modality(events: Sequence[PurchaseEvent]) -> dict[str, int]:
    """Counts users by the modalities that they used before any of their purchases."""
    seen: dict[str, set[str]] = {}
    for event in events:
        seen.setdefault(event.user_id, set()).update({"session", "conversation"} if event.type == "both" else {event.type})
    counts = Counter("both" if len(kinds) == 2 else f"{min(kinds)} only" for kinds in seen.values())
    return {name: counts[name] for name in MODALITIES}


def events_by_type(events: Sequence[PurchaseEvent]) -> dict[str, int]:
    counts = Counter(event.type for event in events)
    return {kind: counts[kind] for kind in TYPES}


def interactions_per_event(events: Sequence[PurchaseEvent]) -> dict[str, Counter[int]]:
    """Counts purchase events by their number of interactions, by type."""
    counts: dict[str, Counter[int]] = {kind: Counter() for kind in TYPES}
    for event in events:
        counts[event.type][len(event.interactions)] += 1
    return counts


def actions_per_session(tables: Tables) -> Counter[int]:
    return Counter(len(actions) for actions in tables.sessions.values())


def sentences_per_conversation(tables: Tables) -> Counter[int]:
    if tables.encoded is not None:
        return Counter(conversation.sentences for conversation in tables.encoded.by_id.values())
    return Counter(len(sentences) for sentences in tables.conversations.values())


def tag_popularity(tables: Tables) -> Counter[str]:
    """Counts the sessions in which each tag occurs."""
    counts: Counter[str] = Counter()
    for actions in tables.sessions.values():
        counts.update({tag for tags in actions for tag in tags})
    return counts


def keyword_popularity(tables: Tables) -> Counter[str]:
    """Counts the conversations in which each keyword occurs, where the tables have keywords."""
    encoded = tables.encoded.by_id.values() if tables.encoded is not None else ()
    return Counter(keyword for conversation in encoded for keyword in conversation.keywords)


def item_popularity(events: Sequence[PurchaseEvent]) -> Counter[str]:
    """Counts the purchase events in which each item is bought."""
    return Counter(item for event in events for item in event.items)


def items_per_event(events: Sequence[PurchaseEvent]) -> Counter[int]:
    return Counter(len(event.items) for event in events)


def bought_together(events: Sequence[PurchaseEvent]) -> dict[tuple[str, str], float]:
    """Returns the lift of each pair of items bought together: how much more often than if they were independent."""
    single = item_popularity(events)
    pairs: Counter[tuple[str, str]] = Counter()
    for event in events:
        pairs.update(combinations(sorted(event.items), 2))
    return {pair: count * len(events) / (single[pair[0]] * single[pair[1]]) for pair, count in pairs.items()}


def tenths(events: Sequence[PurchaseEvent]) -> list[Sequence[PurchaseEvent]]:
    """Returns the events in ten parts, in order of time."""
    borders = [round(len(events) * part / PARTS) for part in range(PARTS + 1)]
    return [events[start:end] for start, end in pairwise(borders)]


def share(count: int, total: int) -> str:
    """Formats a count with its share.

    >>> share(1, 4)
    '1 (25.0 %)'
    """
    return f"{count:,} ({100 * count / max(total, 1):.1f} %)"


def mean(counts: Counter[int]) -> float:
    return sum(value * count for value, count in counts.items()) / max(sum(counts.values()), 1)


def summary_lines(tables: Tables) -> list[str]:
    """Returns a summary of the data set, one fact a line."""
    events = purchase_events(tables)
    total = len(events)
    conversations = len(tables.encoded.by_id) if tables.encoded is not None else len(tables.conversations)
    form = "without text, " + tables.encoded.text_model if tables.encoded is not None else "as text"
    actions, sentences = mean(actions_per_session(tables)), mean(sentences_per_conversation(tables))
    empty = len(tables.purchases) - total
    users = users_by_modality(events)
    unsold = [item for item in tables.items if item not in item_popularity(events)]
    lines = [
        f"{total:,} purchase events of {sum(users.values()):,} users, {len(tables.interactions):,} interactions before them"
        + (f"; {empty:,} more have none and are left out" if empty else ""),
        "users: " + ", ".join(f"{name} {share(count, sum(users.values()))}" for name, count in users.items()),
        "purchase events: " + ", ".join(f"{name} {share(count, total)}" for name, count in events_by_type(events).items()),
        f"{len(tables.sessions):,} sessions, {actions:.1f} actions each, {len(tag_popularity(tables)):,} tags",
        f"{conversations:,} conversations ({form}), {sentences:.1f} sentences each" if conversations else "no conversations",
        f"{len(tables.items):,} items" + (f", {len(unsold)} of them never bought" if unsold else "")
        + f"; {mean(items_per_event(events)):.2f} items bought at a purchase event",
    ]  # fmt: skip
    if len(tables.allowed) < len(tables.purchases):
        lines.append(
            f"{len(tables.purchases) - len(tables.allowed):,} purchase events without a post filter: anything may be offered"
        )
    return lines
