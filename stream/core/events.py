"""The input topics: one declaration of each, and the types of their events.

`stream.core.parsing` reads them from bytes, `stream.core.event_times` says which times are plausible.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from stream.core import limits
from stream.core.tokens import SEPARATOR

NATIVE_FORMAT_HEADER: Final = "isthmus_form"
"""Marks a record that is JSON with our field names whatever mapping or format its topic has, such as an erasure sent by `isthmus
erase`.
"""
FIRST_RECEIVED_HEADER: Final = "isthmus_first_received_at"
"""On a replayed record, its original's Kafka timestamp in decimal ms: an erasure without a time reaches no further than that."""
ORIGIN_HEADER: Final = "isthmus_replayed_from"
"""On a replayed record, its dead letter's key: "topic/epoch/partition/offset"."""
FIRST_ORIGIN_HEADER: Final = "isthmus_first_origin"
"""On a replayed record, that key of its original, however often it was replayed: an event without an id is recognised by it."""

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)

_INT64: Final = 2**63 - 1
Milliseconds = Annotated[int, Meta(ge=-_INT64, le=_INT64, description="milliseconds since 1970-01-01T00:00:00Z")]
"""Negative before 1970. Which times are plausible depends on the topic; a value in another unit must get as far as that check."""
Timestamp = Annotated[datetime, Meta(tz=True)] | Milliseconds
UserId = Annotated[str, Meta(min_length=1, max_length=limits.USER_ID_BYTES)]
Id = Annotated[str, Meta(min_length=1, max_length=limits.ID_CHARACTERS)]
Tag = Annotated[str, Meta(min_length=1, max_length=limits.TAG_CHARACTERS)]
Items = Annotated[tuple[Id, ...], Meta(min_length=1, max_length=limits.ITEMS)]
ShownItems = Annotated[tuple[Id, ...], Meta(min_length=1, max_length=limits.SHOWN_ITEMS)]
FeedbackAction = Literal["shown", "selected", "accepted", "rejected", "dismissed"]


class Source(StrEnum):
    """What the step calls its inputs, in metrics and in `caused_by` of a recommendation.

    A user's state stores a source by its position here, so new sources go to the end.
    """

    CLICK = "click"
    CALL = "call"
    PURCHASE = "purchase"
    ELIGIBILITY = "eligibility"
    ERASURE = "erasure"
    FEEDBACK = "feedback"


class Reason(StrEnum):
    """Why an event could not be used. The values appear in dead letters, metrics and the runbook."""

    EMPTY = "empty"
    NOT_JSON = "not_json"
    INVALID = "invalid"
    MISSING_KEY = "missing_key"
    KEY_MISMATCH = "key_mismatch"
    WRONG_PARTITION = "wrong_partition"
    TOO_FAR_AHEAD = "too_far_ahead"
    IMPLAUSIBLE_TIME = "implausible_time"
    MAPPING = "mapping"
    POISON = "poison"
    UNREADABLE = "unreadable"
    UNDELIVERED = "undelivered"
    UNDECODABLE = "undecodable"
    UNKNOWN_SCHEMA = "unknown_schema"


class ValueFormat(StrEnum):
    """Formats of a topic's values. All but JSON are framed with the id of their schema in a registry."""

    JSON = "json"
    AVRO = "avro"
    JSON_SCHEMA = "json-schema"
    PROTOBUF = "protobuf"


class Rejection(msgspec.Struct, frozen=True):
    """Why an event could not be used.

    Attributes:
        reason: Category, as dead letters and metrics name it.
        error: Explanation without personal data.
    """

    reason: Reason
    error: str


class Click(msgspec.Struct, frozen=True, gc=False):
    """One action on the website.

    Attributes:
        user_id: The user; also the record's key.
        occurred_at: When it happened.
        tags: Action tags: section, object, type and the like.
        event_id: The producer's id. The same id and time again is a duplicate. Without it: a hash of the record's coordinates.
        session_id: Explicit session; without one a session ends after a gap without clicks (`step.session_gap_s`).
    """

    user_id: UserId
    occurred_at: Timestamp
    tags: Annotated[tuple[Tag, ...], Meta(min_length=1, max_length=limits.TAGS)]
    event_id: Id | None = None
    session_id: Id | None = None

    def __post_init__(self) -> None:
        if SEPARATOR in "".join(self.tags):
            raise ValueError("a tag holds the control character U+001F")


class Sentence(msgspec.Struct, frozen=True, gc=False):
    """One sentence of a call.

    Attributes:
        text: The words.
        speaker: Who said it, in the producer's words; not read.
        at: When it was said; read where the transcript has no `ended_at`.
    """

    text: str
    speaker: str | None = None
    at: Timestamp | None = None


class Transcript(msgspec.Struct, frozen=True):
    """A call, whole or in pieces that share a `conversation_id`.

    Attributes:
        user_id: The user; also the record's key.
        conversation_id: The call.
        started_at: When the call, or this piece, began.
        sentences: What was said, in order.
        event_id: The producer's id. Of one id in a conversation, the newest counts. Without it: a hash of the record's coordinates.
        ended_at: When it ended; without it: the last sentence's time, or else `started_at`.
        piece: Number of the piece within the call: identifies it if there is no `event_id`.
    """

    user_id: UserId
    conversation_id: Id
    started_at: Timestamp
    sentences: Annotated[tuple[Sentence, ...], Meta(min_length=1, max_length=limits.SENTENCES)]
    event_id: Id | None = None
    ended_at: Timestamp | None = None
    piece: int | None = None


class Purchase(msgspec.Struct, frozen=True, gc=False):
    """Items bought together, or cancelled.

    Attributes:
        user_id: The user; also the record's key.
        occurred_at: When it happened.
        items: Item ids.
        event_id: The producer's id. Items of one id, action and time unite. Without it: a hash of the record's coordinates.
        action: What happened to the items; a cancelled item is no longer owned.
    """

    user_id: UserId
    occurred_at: Timestamp
    items: Items
    event_id: Id | None = None
    action: Literal["bought", "cancelled"] = "bought"


class Eligibility(msgspec.Struct, frozen=True, gc=False):
    """Items that the user may not be offered. The list that is newest by `occurred_at` replaces all others. Lists of
    one time are one list, whose items unite.

    Attributes:
        user_id: The user; also the record's key.
        occurred_at: When the list became valid.
        excluded: Item ids.
        event_id: The producer's id. Without it: a hash of the record's coordinates. The time alone names the list.
    """

    user_id: UserId
    occurred_at: Timestamp
    excluded: Annotated[tuple[Id, ...], Meta(max_length=limits.ITEMS)]
    event_id: Id | None = None


class Erasure(msgspec.Struct, frozen=True, gc=False):
    """A request to forget a user.

    Attributes:
        user_id: The user; also the record's key.
        occurred_at: Everything up to this time is forgotten; without it: up to the record's Kafka timestamp.
        event_id: The producer's id. Without one: a hash of the record's coordinates. Without `occurred_at`, the same id again is a
            duplicate: a new request needs a new id.
    """

    user_id: UserId
    occurred_at: Timestamp | None = None
    event_id: Id | None = None


class Feedback(msgspec.Struct, frozen=True, gc=False):
    """What a user was shown, or how he answered.

    Attributes:
        user_id: The user; also the record's key.
        occurred_at: When it happened.
        channel: Where the user was met, such as web or phone; one that `feedback.channels` does not declare counts as `other`.
        action: `shown`: the items were in sight; `selected`: clicked, or asked about; `accepted`, `rejected`: the user's answer to
            an offer; `dismissed`: closed, without an answer.
        items: Item ids; of what was shown, in shown order.
        event_id: The producer's id. The same id, item, action and time again is a repetition. Without it: the same
            recommendation, item, action, placement and minute.
        recommendation_id: The list that was shown.
        placement: Where on the site; one that `feedback.placements` does not declare counts as `other`.
        model_version: The model version that made the list.
    """

    user_id: UserId
    occurred_at: Timestamp
    channel: Tag
    action: FeedbackAction
    items: ShownItems
    event_id: Id | None = None
    recommendation_id: Id | None = None
    placement: Id | None = None
    model_version: Id | None = None


class Item(msgspec.Struct, frozen=True, gc=False):
    """One item of the catalogue (topic `items`, key = item id; a tombstone withdraws it).

    Attributes:
        item_id: The item; also the record's key.
        name: For people.
        text: Description; its words go into the stand-in keyword list.
        repeatable: Whether a user who owns it may be offered it again.
        offered_from: Start of the offer; None: always.
        offered_until: End of the offer, exclusive; None: never.
    """

    item_id: Id
    name: str
    text: str | None = None
    repeatable: bool = False
    offered_from: Timestamp | None = None
    offered_until: Timestamp | None = None


class EncodedCall(msgspec.Struct, frozen=True):
    """One part of a conversation as the encoder sends it: features of the text, not the text.

    The `origin_*` coordinates are those of the transcript; a user's state keeps them as the applied offset of calls.

    Attributes:
        user_id: The user; also the record's key.
        conversation_id: The call.
        started_at: Start of the part.
        ended_at: End of the part.
        event_id: The transcript's id, or a hash of its coordinates.
        sentences: Number of sentences with text.
        vector_sum: Sum of the sentence vectors, little-endian float32 of the text encoder's width.
        keywords: Listed keywords that occur in the text.
        text_model: Hash of the text encoder and keyword list.
        origin_topic: Topic of the transcript.
        origin_epoch: Epoch of that topic.
        origin_partition: Partition of the transcript.
        origin_offset: Offset of the transcript.
        has_event_id: Whether the producer gave the transcript its id.
        piece: As in the transcript; absent without one.
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
    piece: int | UnsetType = UNSET

    def __post_init__(self) -> None:
        if SEPARATOR in "".join(self.keywords):
            raise ValueError("a keyword holds the control character U+001F")


UserEvent = Click | EncodedCall | Purchase | Eligibility | Erasure | Feedback
"""The events of the step; `stream.core.fold` says what each does to a user."""

FieldMapper = Callable[[Any], Any]
"""Turns a producer's own JSON object into one with our field names; raises ValueError where it cannot."""


ToJson = Callable[[bytes], bytes]
"""Turns a value in the format of its topic into JSON; raises UndecodableError where it cannot."""


class UndecodableError(Exception):
    """A value that is not in the format of its topic.

    Attributes:
        reason: Category, as dead letters name it.
        error: Explanation without personal data.
    """

    def __init__(self, error: str, reason: Reason = Reason.UNDECODABLE) -> None:
        super().__init__(error)
        self.reason = reason
        self.error = error


class MappingError(ValueError):
    """A mapping that fails on an event. Its text names our field, and quotes no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTopic:
    """One topic of events keyed by user.

    Attributes:
        role: Key of the topic's name in `[topics]`, of its field mapping in `[mapping]`, and of its AsyncAPI channel.
        default_name: Name of the topic unless a setting changes it.
        event_type: Type of its records.
        source: What the step calls it.
        is_step_input: Whether the step reads it; the encoder reads the other.
        is_derived: Whether a stage of ours writes it. Then it has no field mapping and is never replayed.
        content_type: `JSON` or `MSGPACK`.
        record_bytes: Largest record; None: the broker's default.
        earliest: Events before this day (UTC) are implausible, unless a setting changes it.
        carries_text: Whether its records hold what people said, or features of it. Then its dead letters hold coordinates only.
    """

    role: str
    default_name: str
    event_type: type[msgspec.Struct]
    source: Source
    is_step_input: bool = True
    is_derived: bool = False
    content_type: str = JSON
    record_bytes: int | None = None
    earliest: date = date(2000, 1, 1)
    carries_text: bool = False


_CENTURY: Final = date(1900, 1, 1)  # contracts and decisions are older than websites
INPUTS: Final = (
    InputTopic(role="clicks", default_name="web-clicks", event_type=Click, source=Source.CLICK),
    InputTopic(
        role="transcripts",
        default_name="call-transcripts",
        event_type=Transcript,
        source=Source.CALL,
        is_step_input=False,
        record_bytes=limits.TRANSCRIPT_BYTES,
        carries_text=True,
    ),
    InputTopic(
        role="encoded_calls",
        default_name="encoded-calls",
        event_type=EncodedCall,
        source=Source.CALL,
        is_derived=True,
        content_type=MSGPACK,
        carries_text=True,
    ),
    InputTopic(role="purchases", default_name="purchases", event_type=Purchase, source=Source.PURCHASE, earliest=_CENTURY),
    InputTopic(
        role="eligibility", default_name="eligibility", event_type=Eligibility, source=Source.ELIGIBILITY, earliest=_CENTURY
    ),
    InputTopic(role="erasures", default_name="erasures", event_type=Erasure, source=Source.ERASURE, earliest=_CENTURY),
    InputTopic(role="feedback", default_name="feedback", event_type=Feedback, source=Source.FEEDBACK),
)
"""Every input topic, declared once. Settings, topics, decoders, field mappings, replay and the reference pages follow from it."""

STEP_INPUTS: Final = tuple(row for row in INPUTS if row.is_step_input)
TEXT_SOURCES: Final = frozenset(row.source for row in INPUTS if row.carries_text)
"""Sources whose dead letters hold no original."""


def to_milliseconds(moment: datetime | int) -> int:
    """A time as integer milliseconds since 1970; RFC 3339 times are truncated to the millisecond."""
    return moment if type(moment) is int else (moment - _EPOCH) // _MILLISECOND  # type: ignore[operator]
