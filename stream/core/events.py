"""The events of the input topics and the one total way from bytes to them.

`parse` gives an event or a `Rejection` with a reason, never an exception: what a producer sends must not stop a partition. Error
texts name the field and what was expected, never a value: values are personal data.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from stream.core import limits
from stream.core.interactions import SEPARATOR
from stream.core.records import Source

NATIVE_FORMAT_HEADER: Final = "isthmus_form"
"""A record with this header has our field names, whatever its topic's mapping: an erasure of `isthmus erase`."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

Milliseconds = Annotated[int, Meta(ge=0, le=limits.LAST_TIME_MS, description="milliseconds since 1970-01-01T00:00:00Z")]
Timestamp = Annotated[datetime, Meta(tz=True)] | Milliseconds
UserId = Annotated[str, Meta(min_length=1, max_length=limits.USER_ID_BYTES)]
Id = Annotated[str, Meta(min_length=1, max_length=limits.ID_CHARACTERS)]
Tag = Annotated[str, Meta(min_length=1, max_length=limits.TAG_CHARACTERS)]
Items = Annotated[tuple[Id, ...], Meta(min_length=1, max_length=limits.ITEMS)]


class Reason(StrEnum):
    """Why an event could not be used. The words appear in dead letters, metrics and the operators' page."""

    EMPTY = "empty"
    NOT_JSON = "not_json"
    INVALID = "invalid"
    MISSING_KEY = "missing_key"
    KEY_MISMATCH = "key_mismatch"
    WRONG_PARTITION = "wrong_partition"
    TOO_FAR_AHEAD = "too_far_ahead"
    MAPPING = "mapping"
    POISON = "poison"


class Rejection(msgspec.Struct, frozen=True):
    """An event that could not be used: the reason and an explanation without personal data."""

    reason: Reason
    error: str


class Click(msgspec.Struct, frozen=True, gc=False):
    """One website action with its action tags. A new session begins after 30 minutes without one, or with a new `session_id`."""

    user_id: UserId
    occurred_at: Timestamp
    tags: Annotated[tuple[Tag, ...], Meta(min_length=1, max_length=limits.TAGS)]
    event_id: Id | None = None
    session_id: Id | None = None

    def __post_init__(self) -> None:
        if SEPARATOR in "".join(self.tags):
            raise ValueError("a tag holds the control character U+001F")


class Sentence(msgspec.Struct, frozen=True, gc=False):
    """One sentence of a call and who spoke it."""

    speaker: Literal["customer", "agent"]
    text: str
    at: Timestamp | None = None


class Transcript(msgspec.Struct, frozen=True):
    """A call, whole or piece by piece under one `conversation_id`."""

    user_id: UserId
    conversation_id: Id
    started_at: Timestamp
    sentences: Annotated[tuple[Sentence, ...], Meta(min_length=1, max_length=limits.SENTENCES)]
    event_id: Id | None = None
    ended_at: Timestamp | None = None
    piece: int | None = None
    final: bool | None = None


class Purchase(msgspec.Struct, frozen=True, gc=False):
    """Items bought together, or cancelled."""

    user_id: UserId
    occurred_at: Timestamp
    items: Items
    event_id: Id | None = None
    action: Literal["bought", "cancelled"] = "bought"


class Eligibility(msgspec.Struct, frozen=True, gc=False):
    """Items that the user may not be offered. Replaces the former list; the newest by `occurred_at` holds."""

    user_id: UserId
    occurred_at: Timestamp
    excluded: Annotated[tuple[Id, ...], Meta(max_length=limits.ITEMS)]
    event_id: Id | None = None


class Erasure(msgspec.Struct, frozen=True, gc=False):
    """The user's wish to be forgotten, up to `occurred_at`."""

    user_id: UserId
    occurred_at: Timestamp
    event_id: Id | None = None


class Item(msgspec.Struct, frozen=True, gc=False):
    """One entry of the catalogue (topic `items`, key = item id; a tombstone withdraws it)."""

    item_id: Id
    name: str
    text: str | None = None
    repeatable: bool = False
    offered_from: Timestamp | None = None
    offered_until: Timestamp | None = None


class EncodedCall(msgspec.Struct, frozen=True):
    """One part of a conversation as the encoder sends it (msgpack): no text, but what the text says.

    `vector_sum` is the sum of the sentence vectors, little-endian float32 of the text encoder's width. The origin's coordinates are
    those of the transcript event; they are the applied offset that a user's state keeps for calls.
    """

    user_id: UserId
    conversation_id: Id
    started_at: Milliseconds
    ended_at: Milliseconds
    event_id: Id
    sentences: Annotated[int, Meta(ge=1, le=limits.SENTENCES)]
    vector_sum: Annotated[bytes, Meta(min_length=4, max_length=4 * 4_096)]
    keywords: Annotated[tuple[Annotated[str, Meta(max_length=limits.TAG_CHARACTERS)], ...], Meta(max_length=limits.KEYWORDS)]
    text_model: Annotated[str, Meta(max_length=64)]
    origin_topic: str
    origin_epoch: int
    origin_partition: int
    origin_offset: Annotated[int, Meta(ge=0)]
    has_event_id: bool = True

    def __post_init__(self) -> None:
        if SEPARATOR in "".join(self.keywords):
            raise ValueError("a keyword holds the control character U+001F")


UserEvent = Click | EncodedCall | Purchase | Eligibility | Erasure
FieldMapper = Callable[[Any], Any]
"""Turns a producer's own JSON object into one with our field names; raises ValueError where it cannot."""

_EVENT_TYPES: Final[dict[Source, type[UserEvent]]] = {
    Source.CLICK: Click,
    Source.CALL: EncodedCall,
    Source.PURCHASE: Purchase,
    Source.ELIGIBILITY: Eligibility,
    Source.ERASURE: Erasure,
}
_DECODE: Final[dict[Source, Callable[[bytes], UserEvent]]] = {
    source: (msgspec.msgpack.Decoder(EncodedCall).decode if source is Source.CALL else msgspec.json.Decoder(event_type).decode)
    for source, event_type in _EVENT_TYPES.items()
}
_QUOTED: Final = re.compile(r"""['"].*['"]""", re.DOTALL)  # from the first quote to the last: a value may hold some itself
_UNUSABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)

AnyStruct = TypeVar("AnyStruct", bound=msgspec.Struct)


def to_milliseconds(moment: datetime | int) -> int:
    """A moment as integer milliseconds since 1970 (RFC 3339 times are cut to the millisecond)."""
    return moment if type(moment) is int else (moment - _EPOCH) // _MILLISECOND  # type: ignore[operator]


def parse(source: Source, value: bytes | None, adapter: FieldMapper | None = None) -> UserEvent | Rejection:
    """The event in a record's value, or why there is none. Unknown fields are ignored."""
    if not value:
        return Rejection(Reason.EMPTY, "the record has no value: a tombstone is not an event of this topic")
    if adapter is None:
        try:
            return _DECODE[source](value)
        except _UNUSABLE as error:
            return rejection_of(error)
    return parse_mapped(value, _EVENT_TYPES[source], adapter)


def parse_mapped(value: bytes, event_type: type[AnyStruct], adapter: FieldMapper) -> AnyStruct | Rejection:
    """As `parse`, through a producer's mapping (JSON only)."""
    try:
        fields = adapter(msgspec.json.decode(value))
    except _UNUSABLE as error:
        rejection = rejection_of(error)
        return rejection if rejection.reason is Reason.NOT_JSON else Rejection(Reason.MAPPING, rejection.error)
    try:
        return msgspec.convert(fields, event_type)
    except _UNUSABLE as error:
        return rejection_of(error)


def rejection_of(error: Exception) -> Rejection:
    """A decoder's error as a rejection; what it quotes of the value is left out."""
    if isinstance(error, msgspec.ValidationError):
        return Rejection(Reason.INVALID, _QUOTED.sub("'...'", str(error)))
    if isinstance(error, RecursionError):
        return Rejection(Reason.NOT_JSON, "nested too deeply")
    if isinstance(error, msgspec.DecodeError):
        return Rejection(Reason.NOT_JSON, _QUOTED.sub("'...'", str(error)))
    return Rejection(Reason.INVALID, f"could not be read ({type(error).__name__})")
