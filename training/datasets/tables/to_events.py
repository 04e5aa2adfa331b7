"""Tables as events: what would have arrived on the input topics. The tables have no times; these are invented.

The rule: purchase event n (in order of its id) happens at START + n hours, its eligibility list a moment before it. What it lists
and no former event of the user listed lies evenly between that event and this one, in the order of `event_number`; before a user's
first, 40 minutes apart. So a purchase's example sees what the tables list for it and nothing else. Where a list does not go on from
the former one (the authors left out what was too old), the user begins anew under a name of his own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final, NamedTuple

import msgspec

from stream.core import limits
from stream.core.events import Click, Eligibility, EncodedCall, Item, Purchase, Sentence, Transcript
from training.datasets.tables.conversations import SPEAKERS, EncodedConversation
from training.datasets.tables.reader import InteractionRow, Tables

START_MS: Final = 1_262_304_000_000
"""2010-01-01: the paper's 62,401 hours end in 2017, for an event ahead of its record's timestamp is refused."""
PURCHASES_APART_MS: Final = 3_600_000
APART_MS: Final = 40 * 60_000
WITHIN_MS: Final = 1_000
"""From click to click and from sentence to sentence, where there is room."""
UNTAGGED: Final = "untagged"
"""Stands for a session none of whose actions has a tag: that it took place says something."""

_json: Final = msgspec.json.Encoder().encode
_msgpack: Final = msgspec.msgpack.Encoder().encode
Name = tuple[str, str]
"""Modality and id of an interaction."""


class TableEvent(NamedTuple):
    """One event for one topic: `role` is clicks, transcripts, encoded_calls, purchases, eligibility or items (a setting of
    `[topics]`).
    """

    role: str
    key: str
    value: bytes
    at_ms: int


@dataclass(slots=True)
class _Told:
    """What has been told of a user: under which name, which interactions, whether a filter, and when his last purchase was."""

    name: str
    interactions: list[Name] = field(default_factory=list)
    filtered: bool = False
    purchase_ms: int | None = None
    lives: int = 1


class _Slot(NamedTuple):
    """An interaction's place in time: it begins at `start_ms` and has `room_ms`."""

    start_ms: int
    room_ms: int

    def step_ms(self, steps: int) -> int:
        return max(1, min(WITHIN_MS, self.room_ms // (steps + 1)))


def item_events(tables: Tables) -> Iterator[TableEvent]:
    """The catalogue. Repeatable, for the tables' own post filter says what may be recommended."""
    for item, name in tables.items.items():
        yield TableEvent("items", item, _json(Item(item, name, repeatable=True)), START_MS)


def user_events(tables: Tables, purchase_events: int | None = None) -> Iterator[TableEvent]:
    """The events of the first `purchase_events` (None: all), purchase event by purchase event, in order of their times in each."""
    for told in events_by_purchase(tables, purchase_events):
        yield from told


def events_by_purchase(tables: Tables, purchase_events: int | None = None) -> Iterator[list[TableEvent]]:
    """As `user_events`, one list for each purchase event with interactions."""
    rows: dict[int, list[InteractionRow]] = {}
    for row in tables.interactions:
        rows.setdefault(row.purchase_event_id, []).append(row)
    users: dict[str, _Told] = {}
    for number, event in enumerate(sorted(tables.purchases)[:purchase_events]):
        listed = sorted(rows.get(event, []), key=lambda row: row.event_number)[-limits.WINDOW :]
        if listed:
            yield list(_purchase_event(tables, event, listed, users, START_MS + number * PURCHASES_APART_MS))


def _purchase_event(
    tables: Tables, event: int, listed: list[InteractionRow], users: dict[str, _Told], bought_ms: int
) -> Iterator[TableEvent]:
    told, fresh = _going_on(users, listed)
    began_ms = told.purchase_ms if told.purchase_ms is not None else bought_ms - (len(fresh) + 1) * APART_MS
    room_ms = (bought_ms - began_ms) // (len(fresh) + 1)
    for place, name in enumerate(fresh, start=1):
        yield from _interaction(tables, told.name, name, _Slot(began_ms + place * room_ms, room_ms))
    told.purchase_ms = bought_ms
    allowed = tables.allowed.get(event)
    if allowed is not None or told.filtered:  # a former filter would hold for an event without one, which may be offered anything
        told.filtered = True
        excluded = () if allowed is None else tuple(sorted(set(tables.items) - allowed))
        filtered = Eligibility(told.name, bought_ms - 1, excluded, event_id=f"e{event}")
        yield TableEvent("eligibility", told.name, _json(filtered), bought_ms - 1)
    purchase = Purchase(told.name, bought_ms, tuple(dict.fromkeys(tables.purchases[event])), event_id=f"p{event}")
    yield TableEvent("purchases", told.name, _json(purchase), bought_ms)


def _going_on(users: dict[str, _Told], listed: list[InteractionRow]) -> tuple[_Told, list[Name]]:
    """What has been told of the user, and what this event adds. A new beginning where the list does not go on from the last."""
    user = listed[0].user_id
    names = list(dict.fromkeys(_name_of(row) for row in listed))
    told = users.setdefault(user, _Told(user))
    fresh = [name for name in names if name not in told.interactions]
    if (told.interactions + fresh)[-limits.WINDOW :] != names and told.interactions:
        told = users[user] = _Told(_short(f"{user}~{told.lives + 1}"), lives=told.lives + 1)
        fresh = names
    told.interactions.extend(fresh)
    return told, fresh


def _name_of(row: InteractionRow) -> Name:
    return ("session", row.session_id) if row.session_id is not None else ("conversation", str(row.conversation_id))


def _short(name: str) -> str:
    """An invented name, or a hash of it where it is longer than an id may be: the tables' own ids may be as long as one."""
    encoded = name.encode()
    return name if len(encoded) <= limits.USER_ID_BYTES else blake2b(encoded, digest_size=16).hexdigest()


def _interaction(tables: Tables, user: str, name: Name, slot: _Slot) -> Iterable[TableEvent]:
    modality, number = name
    if modality == "session":
        return _session(user, number, tables.sessions[number], slot)
    if tables.encoded is not None:
        return _encoded(user, number, tables.encoded.by_id[number], tables.encoded.text_model, slot)
    return _conversation(user, number, tables.conversations[number], slot)


def _session(user: str, number: str, actions: list[tuple[str, ...]], slot: _Slot) -> Iterator[TableEvent]:
    """Clicks; an action with more tags than a click may have becomes two at one time."""
    shown = [(place, tags) for place, tags in enumerate(actions) if tags] or [(0, (UNTAGGED,))]
    step_ms = slot.step_ms(len(actions))
    for place, tags in shown:
        at_ms = slot.start_ms + place * step_ms
        for start in range(0, len(tags), limits.TAGS):
            event_id = _short(f"{user}-s{number}-{place}-{start}")
            click = Click(user, at_ms, tags[start : start + limits.TAGS], event_id=event_id, session_id=_short(f"s{number}"))
            yield TableEvent("clicks", user, _json(click), at_ms)


def _conversation(user: str, number: str, spoken: list[tuple[str, str]], slot: _Slot) -> Iterator[TableEvent]:
    """One transcript; several pieces where it has more sentences than one may hold."""
    sentences = tuple(Sentence("agent" if SPEAKERS[speaker] == "agent" else "customer", text) for speaker, text in spoken)
    step_ms = slot.step_ms(len(sentences))
    for start in range(0, len(sentences), limits.SENTENCES):
        piece = sentences[start : start + limits.SENTENCES]
        began_ms, ended_ms = slot.start_ms + start * step_ms, slot.start_ms + (start + len(piece)) * step_ms
        event_id = _short(f"{user}-c{number}-{start}")
        call = Transcript(user, _short(f"c{number}"), began_ms, piece, event_id=event_id, ended_at=ended_ms)
        yield TableEvent("transcripts", user, _json(call), ended_ms)


def _encoded(user: str, number: str, said: EncodedConversation, text_model: str, slot: _Slot) -> Iterator[TableEvent]:
    """Encoded calls: one, or several parts where there are more keywords than one may hold; their mean vector is the call's."""
    parts = min(max(1, -(-len(said.keywords) // limits.KEYWORDS)), limits.PARTS, said.sentences)
    for part in range(parts):
        sentences = said.sentences * (part + 1) // parts - said.sentences * part // parts
        ended_ms = slot.start_ms + (part + 1) * slot.step_ms(parts)
        call = EncodedCall(
            user_id=user,
            conversation_id=_short(f"c{number}"),
            started_at=slot.start_ms,
            ended_at=ended_ms,
            event_id=_short(f"{user}-c{number}-{part}"),
            sentences=min(sentences, limits.SENTENCES),
            vector_sum=(said.vector_sum / said.sentences * min(sentences, limits.SENTENCES)).astype("<f4").tobytes(),
            keywords=said.keywords[part * limits.KEYWORDS : (part + 1) * limits.KEYWORDS],
            text_model=text_model,
            origin_topic="tables",
            origin_epoch=0,
            origin_partition=0,
            origin_offset=ended_ms,
        )
        yield TableEvent("encoded_calls", user, _msgpack(call), ended_ms)
