"""Converts tables to the events that would have arrived on the input topics. The tables have no times, so times are invented.

Purchase event n (in order of its id) happens at START + n hours, its eligibility list 1 ms before. Interactions that it lists and
no former event of the user did are spread evenly between that event and this one, in the order of `event_number`; before a user's
first event they are 40 minutes apart. So a purchase's example sees exactly what the tables list for it. Where a list does not
continue the former one (the authors left out old interactions), the user continues under a new name, with an empty history that
begins with one purchase of all that the user bought before, so that what the user owns stays known.
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
"""2010-01-01: the paper's 62,401 hours end in 2017, and events ahead of their record's timestamp are refused."""
PURCHASE_INTERVAL_MS: Final = 3_600_000
INTERACTION_INTERVAL_MS: Final = 40 * 60_000
STEP_MS: Final = 1_000
"""Between clicks and between sentences, where there is room."""
UNTAGGED: Final = "untagged"
"""The tag of a session without any tags: that it took place is information."""

_json: Final = msgspec.json.Encoder().encode
_msgpack: Final = msgspec.msgpack.Encoder().encode
InteractionId = tuple[str, str]
"""Modality and id of an interaction."""


class TableEvent(NamedTuple):
    """One event for one topic.

    Attributes:
        role: the topic's name in the settings' section `[topics]`.
        key: the user or item.
        value: the encoded event.
        at_ms: when it happens.
    """

    role: str
    key: str
    value: bytes
    at_ms: int


@dataclass(slots=True)
class _UserProgress:
    """What has been emitted for a user.

    Attributes:
        name: the user id in the events.
        interactions: so far, in order.
        has_filter: whether an eligibility list was emitted.
        purchase_ms: when the last purchase happened.
        names: how many names the user has had.
        bought: all items so far, under whatever name.
        is_new: whether nothing was emitted under this name yet.
    """

    name: str
    interactions: list[InteractionId] = field(default_factory=list)
    has_filter: bool = False
    purchase_ms: int | None = None
    names: int = 1
    bought: tuple[str, ...] = ()
    is_new: bool = True


class _Slot(NamedTuple):
    """The time of an interaction: it begins at `start_ms` and may last `room_ms`."""

    start_ms: int
    room_ms: int

    def step_ms(self, steps: int) -> int:
        return max(1, min(STEP_MS, self.room_ms // (steps + 1)))


def item_events(tables: Tables) -> Iterator[TableEvent]:
    """Yields the catalogue. Items are repeatable, because the tables' own post filter says what may be recommended."""
    for item, name in tables.items.items():
        yield TableEvent("items", item, _json(Item(item, name, tables.texts.get(item), repeatable=True)), START_MS)


def user_events(tables: Tables, purchase_events: int | None = None) -> Iterator[TableEvent]:
    """Yields the events of the first `purchase_events` (None: all), one purchase event after another, in order of time in each."""
    for events in events_by_purchase(tables, purchase_events):
        yield from events


def events_by_purchase(tables: Tables, purchase_events: int | None = None) -> Iterator[list[TableEvent]]:
    """Yields what `user_events` does, as one list for each purchase event with interactions."""
    rows: dict[int, list[InteractionRow]] = {}
    for row in tables.interactions:
        rows.setdefault(row.purchase_event_id, []).append(row)
    users: dict[str, _UserProgress] = {}
    for number, event in enumerate(sorted(tables.purchases)[:purchase_events]):
        listed = sorted(rows.get(event, []), key=lambda row: row.event_number)[-limits.WINDOW :]
        if listed:
            yield list(_purchase_event(tables, event, listed, users, START_MS + number * PURCHASE_INTERVAL_MS))


def _purchase_event(
    tables: Tables, event: int, listed: list[InteractionRow], users: dict[str, _UserProgress], bought_ms: int
) -> Iterator[TableEvent]:
    user, fresh = _advance_user(users, listed)
    began_ms = user.purchase_ms if user.purchase_ms is not None else bought_ms - (len(fresh) + 1) * INTERACTION_INTERVAL_MS
    room_ms = (bought_ms - began_ms) // (len(fresh) + 1)
    if user.is_new:
        user.is_new = False
        for start in range(0, len(user.bought), limits.ITEMS):
            yield _purchase(user.name, began_ms, user.bought[start : start + limits.ITEMS], f"o{event}-{start}")
    for number, interaction in enumerate(fresh, start=1):
        yield from _interaction(tables, user.name, interaction, _Slot(began_ms + number * room_ms, room_ms))
    user.purchase_ms = bought_ms
    allowed = tables.allowed.get(event)
    if allowed is not None or user.has_filter:  # without a filter anything may be offered, so a former filter must be replaced
        user.has_filter = True
        excluded = () if allowed is None else tuple(sorted(set(tables.items) - allowed))
        eligibility = Eligibility(user.name, bought_ms - 1, excluded, event_id=f"e{event}")
        yield TableEvent("eligibility", user.name, _json(eligibility), bought_ms - 1)
    items = tuple(dict.fromkeys(tables.purchases[event]))
    user.bought = tuple(dict.fromkeys((*user.bought, *items)))
    yield _purchase(user.name, bought_ms, items, f"p{event}")


def _purchase(user: str, at_ms: int, items: tuple[str, ...], event_id: str) -> TableEvent:
    return TableEvent("purchases", user, _json(Purchase(user, at_ms, items, event_id=event_id)), at_ms)


def _advance_user(users: dict[str, _UserProgress], listed: list[InteractionRow]) -> tuple[_UserProgress, list[InteractionId]]:
    """Returns the user's progress and the interactions that this event adds.

    The user gets a new name where the list does not continue the former one.
    """
    user_id = listed[0].user_id
    interactions = list(dict.fromkeys(_interaction_id(row) for row in listed))
    user = users.setdefault(user_id, _UserProgress(user_id))
    fresh = [interaction for interaction in interactions if interaction not in user.interactions]
    if (user.interactions + fresh)[-limits.WINDOW :] != interactions and user.interactions:
        name = _short(f"{user_id}~{user.names + 1}")
        user = users[user_id] = _UserProgress(name, names=user.names + 1, bought=user.bought)
        fresh = interactions
    user.interactions.extend(fresh)
    return user, fresh


def _interaction_id(row: InteractionRow) -> InteractionId:
    return ("session", row.session_id) if row.session_id is not None else ("conversation", str(row.conversation_id))


def _short(name: str) -> str:
    """Returns an invented id, hashed if it is too long: the tables' own ids may already have the maximum length."""
    encoded = name.encode()
    return name if len(encoded) <= limits.USER_ID_BYTES else blake2b(encoded, digest_size=16).hexdigest()


def _interaction(tables: Tables, user: str, interaction: InteractionId, slot: _Slot) -> Iterable[TableEvent]:
    modality, number = interaction
    if modality == "session":
        return _session(user, number, tables.sessions[number], slot)
    if tables.encoded is not None:
        return _encoded(user, number, tables.encoded.by_id[number], tables.encoded.text_model, slot)
    return _conversation(user, number, tables.conversations[number], slot)


def _session(user: str, number: str, actions: list[tuple[str, ...]], slot: _Slot) -> Iterator[TableEvent]:
    """Yields clicks; an action with more tags than a click may have becomes several at the same time."""
    tagged = [(index, tags) for index, tags in enumerate(actions) if tags] or [(0, (UNTAGGED,))]
    step_ms = slot.step_ms(len(actions))
    for index, tags in tagged:
        at_ms = slot.start_ms + index * step_ms
        for start in range(0, len(tags), limits.TAGS):
            event_id = _short(f"{user}-s{number}-{index}-{start}")
            click = Click(user, at_ms, tags[start : start + limits.TAGS], event_id=event_id, session_id=_short(f"s{number}"))
            yield TableEvent("clicks", user, _json(click), at_ms)


def _conversation(user: str, number: str, lines: list[tuple[str, str]], slot: _Slot) -> Iterator[TableEvent]:
    """Yields one transcript, or several pieces where it has more sentences than one may hold."""
    sentences = tuple(Sentence(text, "agent" if SPEAKERS[speaker] == "agent" else "customer") for speaker, text in lines)
    step_ms = slot.step_ms(len(sentences))
    for start in range(0, len(sentences), limits.SENTENCES):
        piece = sentences[start : start + limits.SENTENCES]
        began_ms, ended_ms = slot.start_ms + start * step_ms, slot.start_ms + (start + len(piece)) * step_ms
        event_id = _short(f"{user}-c{number}-{start}")
        call = Transcript(user, _short(f"c{number}"), began_ms, piece, event_id=event_id, ended_at=ended_ms)
        yield TableEvent("transcripts", user, _json(call), ended_ms)


def _encoded(user: str, number: str, conversation: EncodedConversation, text_model: str, slot: _Slot) -> Iterator[TableEvent]:
    """Yields one encoded call, or several parts with the same mean vector where there are more keywords than one may hold."""
    parts = min(max(1, -(-len(conversation.keywords) // limits.KEYWORDS)), limits.PARTS, conversation.sentences)
    for part in range(parts):
        sentences = conversation.sentences * (part + 1) // parts - conversation.sentences * part // parts
        ended_ms = slot.start_ms + (part + 1) * slot.step_ms(parts)
        call = EncodedCall(
            user_id=user,
            conversation_id=_short(f"c{number}"),
            started_at=slot.start_ms,
            ended_at=ended_ms,
            event_id=_short(f"{user}-c{number}-{part}"),
            sentences=min(sentences, limits.SENTENCES),
            vector_sum=(conversation.vector_sum / conversation.sentences * min(sentences, limits.SENTENCES))
            .astype("<f4")
            .tobytes(),
            keywords=conversation.keywords[part * limits.KEYWORDS : (part + 1) * limits.KEYWORDS],
            text_model=text_model,
            origin_topic="tables",
            origin_epoch=0,
            origin_partition=0,
            origin_offset=ended_ms,
        )
        yield TableEvent("encoded_calls", user, _msgpack(call), ended_ms)
