"""Feedback by HTTP: which items an event is about, who may send which action, and records for the topic `feedback`.

The topic always holds the items. A client that knows only what it was given names the list: by `served_id`, which states the items
itself, or by `recommendation_id`, if the list is still the user's last and was shown as it stands in the topic.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from stream.api.api_keys import Scope
from stream.api.callers import Caller
from stream.api.ingest import EVENTS, Clock, ahead_ms_of, check_sent_at, check_user_id
from stream.api.problems import ApiError
from stream.api.served_lists import ServedLists
from stream.api.user_tokens import UserToken
from stream.core import limits
from stream.core.events import Feedback, FeedbackAction, Id, ShownItems, Tag, Timestamp, UserId, to_milliseconds
from stream.core.outputs import Recommendation
from stream.core.ranking import Catalogue
from stream.kafka.cluster.event_sink import OutgoingEvent

ROLE: Final = "feedback"
_OF_WHOLE_LISTS: Final = frozenset({"shown", "dismissed"})
_OF_PAGES: Final = frozenset({"shown", "selected"})
_OF_USERS: Final = frozenset({"shown", "selected", "dismissed"})
ServedId = Annotated[str, Meta(min_length=1, max_length=32_768)]


class FeedbackEvent(msgspec.Struct, frozen=True):
    """What a user was shown, or how he answered.

    Attributes:
        user_id: The user.
        occurred_at: When it happened.
        channel: Where the user was met; one that `feedback.channels` does not declare counts as `other`.
        action: As in the topic `feedback`.
        items: Item ids; of what was shown, in shown order. May be left out of `shown` and `dismissed` if a list is named.
        served_id: Of the answer whose list was shown, if it had one.
        recommendation_id: Of the answer whose list was shown.
        placement: Where it was shown; default: that of `served_id`.
        model_version: The version that made the list, if no list is named that is still known and holds all items. Taken from
            secret keys alone.
        event_id: Names the event when it is sent again, with its time.
    """

    user_id: UserId
    occurred_at: Timestamp
    channel: Tag
    action: FeedbackAction
    items: ShownItems | None = None
    served_id: ServedId | None = None
    recommendation_id: Id | None = None
    placement: Id | None = None
    model_version: Id | None = None
    event_id: Id | None = None


class FeedbackBody(msgspec.Struct, frozen=True):
    """Feedback events of one request. One that is not valid refuses the request, and nothing is sent.

    Attributes:
        events: The events, in order.
        sent_at: As in `EventsBody`.
    """

    events: Annotated[tuple[FeedbackEvent, ...], Meta(min_length=1, max_length=EVENTS)]
    sent_at: Timestamp | None = None


class FeedbackResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one event.

    Attributes:
        status: `accepted` once Kafka has it; `failed`: send it again.
        event_id: Its id; absent: it has none, and is recognised by list, items, action, placement and minute.
        occurred_at: As in `EventResult`.
    """

    status: Literal["accepted", "failed"]
    event_id: str | None = None
    occurred_at: int | None = None


class FeedbackAnswer(msgspec.Struct, frozen=True):
    """What became of the events of one request.

    Attributes:
        results: One for each event, in order.
    """

    results: tuple[FeedbackResult, ...]


class Known(NamedTuple):
    """What the API knows about the users' lists.

    Attributes:
        lists: The last list of each user, where there is one.
        served: Reads served ids.
        catalogue: The items.
    """

    lists: dict[str, Recommendation]
    served: ServedLists
    catalogue: Catalogue


class _Shown(NamedTuple):
    """A list that an event names."""

    items: tuple[str, ...]
    model_version: str
    placement: str | None


def refuse_actions(caller: Caller | UserToken, events: Sequence[FeedbackEvent]) -> None:
    """Raises ApiError (403) for an event that the caller may not send. For whom a public key may send is not asked here."""
    for index, event in enumerate(events):
        if isinstance(caller, UserToken) and event.user_id != caller.user_id:
            raise ApiError(403, f"events[{index}]: this token is another user's")
        if event.action not in _allowed(caller, event.user_id):
            raise ApiError(403, f"events[{index}]: `{event.action}` needs a secret key with the scope `feedback`")


def _allowed(caller: Caller | UserToken, user_id: str) -> AbstractSet[str]:
    if isinstance(caller, UserToken) or (caller.is_public and caller.user_id == user_id):
        return _OF_USERS
    if caller.allows(Scope.FEEDBACK):
        return frozenset({*_OF_USERS, "accepted", "rejected"})
    return _OF_PAGES


def outgoing_feedback(
    body: FeedbackBody, request: str | None, clock: Clock, known: Known, *, is_trusted: bool
) -> list[OutgoingEvent]:
    """Returns the records of a request. `request` is its idempotency key; `is_trusted`: it came with a secret key.

    Raises:
        ApiError: an event cannot be used as it is; the message names it.
    """
    check_sent_at(body.sent_at)
    ahead_ms = ahead_ms_of(body.sent_at, clock)
    sent = []
    for index, event in enumerate(body.events):
        check_user_id(event.user_id, f"events[{index}].user_id")
        made = _with_items(event, index, clock, known, is_trusted=is_trusted)
        event_id = event.event_id if request is None else event.event_id or _derived_id(event, index, request)
        made = msgspec.structs.replace(made, event_id=event_id, occurred_at=to_milliseconds(event.occurred_at) - ahead_ms)
        _check_time(made, index, clock)
        sent.append(OutgoingEvent(ROLE, event.user_id, event_id or "", _encode(made)))
    return sent


def feedback_results(
    body: FeedbackBody, clock: Clock, sent: Sequence[OutgoingEvent], taken: Sequence[bool]
) -> tuple[FeedbackResult, ...]:
    """Returns what became of each event."""
    ahead_ms = ahead_ms_of(body.sent_at, clock)
    times = [to_milliseconds(event.occurred_at) - ahead_ms if ahead_ms else None for event in body.events]
    return tuple(
        FeedbackResult("accepted" if took else "failed", record.event_id or None, at_ms)
        for at_ms, record, took in zip(times, sent, taken, strict=True)
    )


def _with_items(event: FeedbackEvent, index: int, clock: Clock, known: Known, *, is_trusted: bool) -> Feedback:
    shown = _named_list(event, clock, known)
    if event.items is not None:
        _check_items(event, event.items, index, shown, clock, known)
        if shown is not None and not set(event.items) <= set(shown.items):
            shown = None  # it was another list that was shown: no model answers for this one
    version = shown.model_version if shown else event.model_version if is_trusted else None
    placement = event.placement or (shown.placement if shown else None)
    return Feedback(
        user_id=event.user_id,
        occurred_at=event.occurred_at,
        channel=event.channel,
        action=event.action,
        items=event.items or _left_out(event, index, shown),
        recommendation_id=event.recommendation_id,
        placement=placement or None,
        model_version=version or None,
    )


def _named_list(event: FeedbackEvent, clock: Clock, known: Known) -> _Shown | None:
    """The list that an event names, where it can be found; with a served id, that of the topic was not shown."""
    if event.served_id is not None:
        served = known.served.verify(event.served_id, event.user_id, clock.now_ms)
        return None if served is None else _Shown(served.items, served.model_version, served.placement)
    last = known.lists.get(event.user_id)
    if last is None or last.recommendation_id != event.recommendation_id:
        return None
    return _Shown(tuple(one.item for one in last.items), last.model.version, None)


def _left_out(event: FeedbackEvent, index: int, shown: _Shown | None) -> tuple[str, ...]:
    if event.action not in _OF_WHOLE_LISTS:
        raise ApiError(400, f"events[{index}]: `{event.action}` needs `items`: a list says what was shown, not which item is meant")
    if shown is None or not shown.items:
        raise ApiError(
            422,
            f"events[{index}]: send `items`: neither `served_id` nor `recommendation_id` leads to a list that this API still knows",
        )
    return shown.items[: limits.SHOWN_ITEMS]


def _check_items(event: FeedbackEvent, items: Sequence[str], index: int, shown: _Shown | None, clock: Clock, known: Known) -> None:
    """Raises ApiError (422) for an item that is neither on offer nor in a list of the user; without a catalogue, all may be."""
    if not known.catalogue.is_published:
        return
    last = known.lists.get(event.user_id)
    own = {*(shown.items if shown else ()), *([one.item for one in (*last.items, *last.reserve)] if last else ())}
    unknown = [items[position] for position in known.catalogue.positions_not_offered(items, clock.now_ms)]
    if not own.issuperset(unknown):
        raise ApiError(422, f"events[{index}].items: one is neither on offer nor in a list of this user")


def _check_time(event: Feedback, index: int, clock: Clock) -> None:
    rejection = clock.times[ROLE].rejection(to_milliseconds(event.occurred_at), clock.now_ms, clock.max_ahead_ms)
    if rejection is not None:
        raise ApiError(400, f"events[{index}]: {rejection.error}")


def _derived_id(event: FeedbackEvent, index: int, request: str) -> str:
    return blake2b(f"{request}|{index}|".encode() + _encode(event), digest_size=12).hexdigest()


_encode: Final = msgspec.json.Encoder().encode
