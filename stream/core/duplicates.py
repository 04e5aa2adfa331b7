"""Whether a producer sent an event before.

The state knows an event for as long as it holds what the event brought, under an identity of its source:

- click: event id, time and session. The same id at another time is another click.
- part of a call: the event id, else the number of the piece, else times and number of sentences, within one conversation. The
  newest by start and end replaces the others.
- purchase, cancellation: event id, action and time. Records of one identity are one purchase, and their items unite.
- eligibility list: its time. Lists of one time are one list, and their items unite.
- feedback: per item the event id, action and time; without an id the recommendation, action, placement and minute. Of one identity
  the last counts.
- erasure: without a time, the event id. With one it needs no name: it covers nothing that a former one with the same or a later
  time left.

An identity includes the time, or the newest event replaces the others. So the history is the same in every order of arrival, also
with erasures in between.
"""

import msgspec
from msgspec import UNSET

from stream.core import history
from stream.core.events import Click, Eligibility, EncodedCall, Erasure, Feedback, Purchase, Source, UserEvent
from stream.core.feedback import FeedbackConfig, UserFeedback, marks_of
from stream.core.kept_interactions import NO_ID, KeptConversation, KeptSession, hash_id
from stream.core.records import Headers, original_id
from stream.core.state import KeptPurchase, former_event_id_hash
from stream.core.user_state import UserState

_FORMER_ID_BYTES = 8


def named_by_original(event: UserEvent, headers: Headers) -> UserEvent | None:
    """A replayed click or purchase that has no id, with that of its original; None for any other event.

    Its dead letter says that one application, at one time, could not use it. Another one that reads the same topic may have, and so
    may a worker that ended before the dead letter's offset was kept. Other sources need no id.
    """
    if event.event_id is not None or not isinstance(event, Click | Purchase):
        return None
    event_id = original_id(headers)
    return None if event_id is None else msgspec.structs.replace(event, event_id=event_id)


def is_original_known(user: UserState, event: UserEvent, at_ms: int, gap_ms: int) -> bool:
    """Whether the user's state holds what an event of `named_by_original` brings, from before its replay. A click without an id is
    kept without a name, so one of the same time and tags is taken for it.
    """
    if not isinstance(event, Click) or at_ms > user.head.newest_at:
        return False
    click = msgspec.structs.replace(click_of(event, at_ms), hashed_id=NO_ID)
    return any(click.tags in session.nameless_at(at_ms) for session in _sessions_that_may_hold(user, click, gap_ms))


def is_duplicate(user: UserState, source: Source, event: UserEvent, moment_ms: int, gap_ms: int) -> bool:
    """Whether the user's state holds what the event brings. `moment_ms` is its time (`fold.event_moment`)."""
    if user.head.event_ids and _is_known_from_former_version(user, source, event):
        return True
    match event:
        case Click():
            return moment_ms <= user.head.newest_at and _is_repeated_click(user, click_of(event, moment_ms), gap_ms)
        case EncodedCall():
            return _is_repeated_part(user, event)
        case Purchase():
            return event.event_id is not None and _is_repeated_purchase(user, event, moment_ms, event.event_id)
        case Eligibility():
            return history.holds_eligibility(user.load_facts().eligibility, moment_ms, event.excluded)
        case Erasure() | Feedback():  # of feedback, see is_repeated_feedback
            return isinstance(event, Erasure) and user.erasures is not None and user.erasures.contains(event)


def is_repeated_feedback(feedback: UserFeedback, event: Feedback, at_ms: int, declared: FeedbackConfig) -> bool:
    """Whether a user's feedback holds all items of an event."""
    return feedback.contains(marks_of(event, at_ms, declared))


def click_of(click: Click, at_ms: int) -> history.NewClick:
    hashed_id = NO_ID if click.event_id is None else hash_id(click.event_id)
    return history.NewClick(at_ms, click.tags, click.session_id or "", hashed_id)


def part_identity(call: EncodedCall) -> bytes:
    """Hash of what identifies a part within its conversation."""
    if call.has_event_id:
        return hash_id(f"event|{call.event_id}")
    if call.piece is not UNSET:
        return hash_id(f"piece|{call.piece}")
    return hash_id(f"times|{call.started_at}|{call.ended_at}|{call.sentences}")


def _is_repeated_click(user: UserState, click: history.NewClick, gap_ms: int) -> bool:
    if click.hashed_id == NO_ID:
        return False
    return any(session.has_click(click.at_ms, click.hashed_id) for session in _sessions_that_may_hold(user, click, gap_ms))


def _sessions_that_may_hold(user: UserState, click: history.NewClick, gap_ms: int) -> list[KeptSession]:
    """A repeated click belongs to the session that holds it. If it lies within one of the tail, no other can hold it.

    It may lie before one that would take it and be in another: since that one ended, a setting may have made the gap longer.
    """
    sessions = history.sessions_of(user.head.tail, click, gap_ms)
    if any(session.started_at <= click.at_ms for session in sessions):
        return sessions
    return history.sessions_of(user.load_interactions(), click, gap_ms)


def _is_repeated_part(user: UserState, call: EncodedCall) -> bool:
    conversation = find_conversation(user, call.conversation_id)
    kept = None if conversation is None else conversation.part_of(part_identity(call))
    return kept is not None and (kept.started_at, kept.ended_at) >= (call.started_at, call.ended_at)


def find_conversation(user: UserState, conversation_id: str) -> KeptConversation | None:
    """A call in the tail, or else in the facts."""
    for interactions in (user.head.tail, user.load_facts().interactions):
        index = history.conversation_index(interactions, conversation_id)
        if index is not None:
            return interactions[index]  # type: ignore[return-value]
    return None


def _is_repeated_purchase(user: UserState, purchase: Purchase, at_ms: int, purchase_id: str) -> bool:
    """Of a purchase that left the state, only an item that it does not account for is new."""
    facts, bought = user.load_facts(), purchase.action == "bought"
    for kept in facts.purchases:
        if (kept.occurred_at, kept.purchase_id, kept.bought) == (at_ms, purchase_id, bought):
            return set(purchase.items) <= set(kept.items)
    if bought and (at_ms, purchase_id) in facts.example_ids:
        new = KeptPurchase(at_ms, purchase_id, bought, purchase.items)
        return not any(history.is_newer_action(facts.owned_before, item, new) for item in purchase.items)
    return False


def _is_known_from_former_version(user: UserState, source: Source, event: UserEvent) -> bool:
    """Whether a state that an earlier version wrote knows the id. Its ids are forgotten one by one, as new ones replaced them."""
    if event.event_id is None or (isinstance(event, EncodedCall) and not event.has_event_id):
        return False
    known = user.head.event_ids
    if former_event_id_hash(source, event.event_id) in known:
        return True
    user.head.event_ids = known[_FORMER_ID_BYTES:]
    return False
