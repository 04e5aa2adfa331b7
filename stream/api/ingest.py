"""Events by HTTP: the step's own types in, records for the input topics out.

An event without an id gets one that a retry of the same request repeats, so that the step drops what came twice.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Annotated, Final, Literal, NamedTuple
from uuid import uuid4

import msgspec
from msgspec import Meta

from stream.api.problems import ApiError
from stream.core import limits
from stream.core.event_times import TimeRule, TimeUnit, likely_unit, transcript_rejection
from stream.core.events import Click, Erasure, Purchase, Reason, Timestamp, Transcript, to_milliseconds
from stream.core.transcripts import transcript_problem
from stream.kafka.cluster.event_sink import OutgoingEvent

EVENTS: Final = 1_000


class ClickEvent(Click, frozen=True, gc=False, tag_field="type", tag="click"):
    __doc__ = Click.__doc__


class TranscriptEvent(Transcript, frozen=True, tag_field="type", tag="transcript"):
    __doc__ = Transcript.__doc__


class PurchaseEvent(Purchase, frozen=True, gc=False, tag_field="type", tag="purchase"):
    __doc__ = Purchase.__doc__


SentEvent = ClickEvent | TranscriptEvent | PurchaseEvent
_TYPES: Final[dict[type, tuple[str, type[msgspec.Struct]]]] = {
    ClickEvent: ("clicks", Click),
    TranscriptEvent: ("transcripts", Transcript),
    PurchaseEvent: ("purchases", Purchase),
}


class EventsBody(msgspec.Struct, frozen=True):
    """Events of one request. One that is not valid refuses the request, and nothing is sent.

    Attributes:
        events: The events, in order.
        sent_at: The sender's clock when it sent the request. If it is further ahead than an event may be (`step.max_ahead_s`),
            `occurred_at` of clicks and purchases is corrected by its error, and otherwise never.
    """

    events: Annotated[tuple[SentEvent, ...], Meta(min_length=1, max_length=EVENTS)]
    sent_at: Timestamp | None = None


class EventResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one event.

    Attributes:
        event_id: Its id, given or derived: name it when the event is sent again.
        status: `accepted` once Kafka has it; `failed`: send it again.
        occurred_at: Its corrected time, ms: name it when the event is sent again, without `sent_at`. Absent: as it was sent.
    """

    event_id: str
    status: Literal["accepted", "failed"]
    occurred_at: int | None = None


class EventsAnswer(msgspec.Struct, frozen=True):
    """What became of the events of one request.

    Attributes:
        results: One for each event, in order.
    """

    results: tuple[EventResult, ...]


class Clock(NamedTuple):
    """Which times are plausible now.

    Attributes:
        now_ms: The wall clock.
        max_ahead_ms: An event further ahead is refused.
        times: Plausible times by role of the topic.
    """

    now_ms: int
    max_ahead_ms: int
    times: Mapping[str, TimeRule]


def outgoing(body: EventsBody, idempotency_key: str | None, clock: Clock) -> list[OutgoingEvent]:
    """Returns the records of a request.

    Raises:
        ApiError: an event cannot be used as it is; the message names it.
    """
    check_sent_at(body.sent_at)
    request = idempotency_key or uuid4().hex
    ahead_ms = ahead_ms_of(body.sent_at, clock)
    return [_outgoing(event, index, request, ahead_ms, clock) for index, event in enumerate(body.events)]


def check_sent_at(sent_at: datetime | int | None) -> None:
    """Refuses a `sent_at` in another unit: times would be corrected by centuries, or never."""
    unit = None if sent_at is None else likely_unit(to_milliseconds(sent_at), TimeUnit.MILLISECONDS)
    if unit is not None:
        raise ApiError(400, f"sent_at: it looks like {unit}, and milliseconds are expected")


def ahead_ms_of(sent_at: datetime | int | None, clock: Clock) -> int:
    """How far ahead the sender's clock is certain to be wrong, ms; 0 if it may be right.

    A clock that is behind cannot be told from a right one whose request comes late, such as a retry. Correcting it would give each
    retry another time, and the step recognises an event by its id and time.
    """
    ahead_ms = 0 if sent_at is None else to_milliseconds(sent_at) - clock.now_ms
    return ahead_ms if ahead_ms > clock.max_ahead_ms else 0


def results_of(body: EventsBody, clock: Clock, sent: Sequence[OutgoingEvent], taken: Sequence[bool]) -> tuple[EventResult, ...]:
    """Returns what became of each event. `sent` and `clock` are those of `outgoing`."""
    ahead_ms = ahead_ms_of(body.sent_at, clock)
    return tuple(
        EventResult(record.event_id, "accepted" if took else "failed", _corrected_at(event, ahead_ms) if ahead_ms else None)
        for event, record, took in zip(body.events, sent, taken, strict=True)
    )


def _corrected_at(event: SentEvent, ahead_ms: int) -> int | None:
    return None if isinstance(event, Transcript) else to_milliseconds(event.occurred_at) - ahead_ms


def _outgoing(event: SentEvent, index: int, request: str, ahead_ms: int, clock: Clock) -> OutgoingEvent:
    role, kind = _TYPES[type(event)]
    fields = msgspec.structs.asdict(event)
    event_id = event.event_id or _derived_id(event, index, request)
    fields["event_id"] = event_id
    if not isinstance(event, Transcript):
        fields["occurred_at"] = _corrected_at(event, ahead_ms)
    _check(kind(**fields), index, role, clock)
    check_user_id(event.user_id, f"events[{index}].user_id")
    return OutgoingEvent(role, event.user_id, event_id, _encode(kind(**fields)))


def _derived_id(event: SentEvent, index: int, request: str) -> str:
    return blake2b(f"{request}|{index}|".encode() + _encode(event), digest_size=12).hexdigest()


def _check(event: msgspec.Struct, index: int, role: str, clock: Clock) -> None:
    rule = clock.times[role]
    if isinstance(event, Transcript):
        rejection = transcript_rejection(event, clock.now_ms, rule, clock.max_ahead_ms) or transcript_problem(event)
    else:
        assert isinstance(event, Click | Purchase)
        rejection = rule.rejection(to_milliseconds(event.occurred_at), clock.now_ms, clock.max_ahead_ms)
    if rejection is not None:
        advice = "; with sent_at a wrong clock is corrected" if rejection.reason is Reason.TOO_FAR_AHEAD else ""
        raise ApiError(400, f"events[{index}]: {rejection.error}{advice}")


def check_user_id(user_id: str, field: str) -> None:
    """Raises ApiError for an id that no record could have."""
    if not 1 <= len(user_id.encode("utf-8", "replace")) <= limits.USER_ID_BYTES:
        raise ApiError(400, f"{field} must have 1 to {limits.USER_ID_BYTES} bytes")


def erasure_event(user_id: str, idempotency_key: str | None) -> OutgoingEvent:
    """Without a time: the user is erased up to the record's Kafka timestamp, whatever this machine's clock says.

    Sent again with its key it has the same id, and the step drops it.
    """
    request = uuid4().hex if idempotency_key is None else idempotency_key
    event_id = blake2b(f"{request}|{user_id}".encode(), digest_size=12).hexdigest()
    return OutgoingEvent("erasures", user_id, event_id, _encode(Erasure(user_id, event_id=event_id)))


_encode: Final = msgspec.json.Encoder().encode


def content_tag(content: msgspec.Struct) -> str:
    """An ETag that names the content."""
    return f'"{blake2b(_encode(content), digest_size=12).hexdigest()}"'
