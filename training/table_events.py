"""Tables as events: what would have arrived on the input topics. The tables have no times; these are invented.

The rule: purchase event n (in order of its id) happens at START + n * 1 s; the interactions before it end before it, one every 40
minutes, in the order of `event_number`, clicks and sentences one a second; its eligibility list comes a moment before it. An
interaction shared by several purchase events of a user is told once, before the first. Ids become event ids, sessions keep
theirs, so a replay tells nothing twice.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from stream.core.events import Click, Eligibility, Item, Purchase, Sentence, Transcript
from training.tables import InteractionRow, Tables

START_MS: Final = 1_600_000_000_000
STEP_MS: Final = 1_000
APART_MS: Final = 40 * 60_000
_SPEAKERS: Final = {"user": "customer", "customer": "customer", "agent": "agent"}
_json: Final = msgspec.json.Encoder().encode


class TableEvent(NamedTuple):
    """One event for one topic: `role` is clicks, transcripts, purchases, eligibility or items (a setting of `[topics]`)."""

    role: str
    key: str
    value: bytes
    at_ms: int


def item_events(tables: Tables) -> Iterator[TableEvent]:
    """The catalogue. Repeatable, for the tables' own post filter says what may be recommended."""
    for item, name in tables.items.items():
        yield TableEvent("items", item, _json(Item(item, name, repeatable=True)), START_MS)


def user_events(tables: Tables, purchase_events: int | None = None) -> Iterator[TableEvent]:
    """The events of the first `purchase_events` (None: all), purchase event by purchase event, in order of their times in each."""
    rows: dict[int, list[InteractionRow]] = {}
    for row in tables.interactions:
        rows.setdefault(row.purchase_event_id, []).append(row)
    told: set[tuple[str, str]] = set()
    for number, event in enumerate(sorted(tables.purchases)[:purchase_events]):
        before = sorted(rows.get(event, []), key=lambda row: row.event_number)
        if not before:
            continue
        user = before[0].user_id
        bought_ms = START_MS + number * STEP_MS
        for place, row in enumerate(before):
            name = ("c", row.conversation_id) if row.conversation_id is not None else ("s", str(row.session_id))
            if name not in told:
                told.add(name)
                yield from _interaction(tables, row, bought_ms - (len(before) - place) * APART_MS)
        if event in tables.allowed:
            excluded = tuple(sorted(set(tables.items) - tables.allowed[event]))
            listed = Eligibility(user, bought_ms - 2, excluded, event_id=f"e{event}")
            yield TableEvent("eligibility", user, _json(listed), bought_ms - 2)
        purchase = Purchase(user, bought_ms, tuple(dict.fromkeys(tables.purchases[event])), event_id=f"p{event}")
        yield TableEvent("purchases", user, _json(purchase), bought_ms)


def _interaction(tables: Tables, row: InteractionRow, start_ms: int) -> Iterator[TableEvent]:
    user = row.user_id
    if row.session_id is not None:
        for number, tags in enumerate(tables.sessions[row.session_id]):
            at_ms = start_ms + number * STEP_MS
            click = Click(user, at_ms, tags[:16], event_id=f"s{row.session_id}-{number}", session_id=f"s{row.session_id}")
            yield TableEvent("clicks", user, _json(click), at_ms)
        return
    spoken = tables.conversations[str(row.conversation_id)]
    sentences = tuple(Sentence("agent" if _SPEAKERS[speaker] == "agent" else "customer", text) for speaker, text in spoken)
    name = f"c{row.conversation_id}"
    end_ms = start_ms + len(sentences) * STEP_MS
    yield TableEvent(
        "transcripts", user, _json(Transcript(user, name, start_ms, sentences, event_id=name, ended_at=end_ms)), end_ms
    )
