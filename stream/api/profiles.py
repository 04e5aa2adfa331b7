"""What the read side keeps of a user's state records: the post filter, counts, the time of an erasure, and when the last
interactions, purchases and answers were. No text and no vector, and clicks with their tags only where the deployment asks for them.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from stream.core.feedback import ACTIONS, SHOWN
from stream.core.interactions import Interaction, Session, TimedTags
from stream.core.limits import WINDOW
from stream.core.state import (
    decode_erasure_marker,
    decode_facts,
    decode_head,
    decode_user_feedback,
    facts_key,
    feedback_key,
    head_key,
)

NEWEST_CLICKS: Final = 16  # of each session, where clicks are kept
ANSWERS: Final = 16
PURCHASED_ITEMS: Final = 32  # of each purchase


class SeenInteraction(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of one interaction.

    Attributes:
        is_session: False for a conversation.
        started_at: When it began, ms.
        ended_at: When it ended, ms.
        size: Number of clicks in the state, or of sentences.
        clicks: The newest clicks, (ms, tags), where they are kept.
    """

    is_session: bool
    started_at: int
    ended_at: int
    size: int
    clicks: tuple[TimedTags, ...] = ()


class SeenPurchase(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a purchase or cancellation."""

    occurred_at: int
    bought: bool
    items: tuple[str, ...]


class SeenAnswer(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of an answer to an item: its time, the action's number and the item's hash, as in the state."""

    occurred_at: int
    action: int
    item: bytes


class HeadSummary(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a `Head`.

    Attributes:
        owned: Items that the user owns.
        excluded: Items that the user may not be offered.
        erased_at: Up to when the user was erased, ms; -1: never.
        newest_at: Time of the newest event, ms.
        sessions: Sessions that still grow.
        conversations: Conversations that still grow.
        model_version: Version that made the last list; "": none.
        growing: These interactions, encoded: lists read this record too, and do not need them.
    """

    owned: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    erased_at: int = -1
    newest_at: int = 0
    sessions: int = 0
    conversations: int = 0
    model_version: str = ""
    growing: bytes = b""


class MarkerSummary(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of `ErasureMarker`.

    Attributes:
        erased_at: Up to when the user was erased, ms.
        erasure_ids: As in `KnownErasures`.
    """

    erased_at: int
    erasure_ids: bytes = b""


class FactsSummary(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of `Facts`.

    Attributes:
        sessions: Sessions since the user's first event that no longer grow.
        conversations: Conversations, likewise.
        purchases: Purchases since the user's first event.
        last_interactions: The last of these sessions and conversations.
        last_purchases: The last purchases and cancellations.
    """

    sessions: int = 0
    conversations: int = 0
    purchases: int = 0
    last_interactions: tuple[SeenInteraction, ...] = ()
    last_purchases: tuple[SeenPurchase, ...] = ()


class FeedbackSummary(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of a user's feedback: of the items in it, how often each action is known.

    Attributes:
        items: Number of items.
        shown: Number of impressions.
        selected: Number of items selected.
        accepted: Number of items accepted.
        rejected: Number of items rejected.
        dismissed: Number of items dismissed.
        newest_at: Time of the newest, ms.
        oldest_at: Time of the oldest, ms.
        last_answers: The last of them that are no impressions.
    """

    items: int = 0
    shown: int = 0
    selected: int = 0
    accepted: int = 0
    rejected: int = 0
    dismissed: int = 0
    newest_at: int = 0
    oldest_at: int = 0
    last_answers: tuple[SeenAnswer, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
decode_head_summary = msgspec.msgpack.Decoder(HeadSummary).decode
_decode_marker = msgspec.msgpack.Decoder(int | MarkerSummary).decode
decode_facts_summary = msgspec.msgpack.Decoder(FactsSummary).decode
decode_feedback_summary = msgspec.msgpack.Decoder(FeedbackSummary).decode
_decode_interactions = msgspec.msgpack.Decoder(tuple[SeenInteraction, ...]).decode
HEAD, FACTS, MARKER, FEEDBACK = head_key(b""), facts_key(b""), b"m", feedback_key(b"")


def decode_marker_summary(value: bytes) -> MarkerSummary:
    """Returns what is kept of an erasure marker; an earlier version kept the time alone."""
    kept = _decode_marker(value)
    return MarkerSummary(kept) if isinstance(kept, int) else kept


def is_kept(key: bytes) -> bool:
    """Whether something of a state record of this key is kept."""
    return key[:1] in {HEAD, FACTS, MARKER, FEEDBACK}


def summary_of(key: bytes, value: bytes, *, keep_clicks: bool = False) -> bytes:
    """Returns what is kept of a state record; with `keep_clicks` the newest clicks of the last sessions too.

    Raises:
        StatesUnreadableError: the record is damaged, or a later version wrote it.
    """
    if key[:1] == MARKER:
        marker = decode_erasure_marker(value)
        return _encode(MarkerSummary(marker.erased_at, marker.erasure_ids))
    if key[:1] == FEEDBACK:
        return _encode(_feedback_summary(value))
    if key[:1] == HEAD:
        return _encode(_head_summary(value, keep_clicks=keep_clicks))
    return _encode(_facts_summary(value, keep_clicks=keep_clicks))


def last_interactions(head: HeadSummary, facts: FactsSummary) -> tuple[SeenInteraction, ...]:
    """The user's last 10 interactions, oldest first."""
    growing = _decode_interactions(head.growing) if head.growing else ()
    return tuple(sorted((*facts.last_interactions, *growing), key=lambda one: one.started_at)[-WINDOW:])


def _head_summary(value: bytes, *, keep_clicks: bool) -> HeadSummary:
    head = decode_head(value)
    sessions, conversations = _count(head.tail)
    version = "" if head.last_list is None else head.last_list.version
    growing = _encode(_seen(head.tail, keep_clicks=keep_clicks))
    return HeadSummary(head.owned, head.excluded, head.erased_at, head.newest_at, sessions, conversations, version, growing)


def _facts_summary(value: bytes, *, keep_clicks: bool) -> FactsSummary:
    facts = decode_facts(value)
    sessions, conversations = _count(facts.interactions)
    bought = sum(purchase.bought for purchase in facts.purchases)
    return FactsSummary(
        facts.evicted.sessions + sessions,
        facts.evicted.conversations + conversations,
        facts.evicted.purchases + bought,
        _seen(facts.interactions[-WINDOW:], keep_clicks=keep_clicks),
        tuple(SeenPurchase(one.occurred_at, one.bought, one.items[:PURCHASED_ITEMS]) for one in facts.purchases),
    )


def _seen(interactions: Sequence[Interaction], keep_clicks: bool) -> tuple[SeenInteraction, ...]:  # noqa: FBT001  (of `summary_of`)
    return tuple(
        SeenInteraction(
            True,
            one.started_at,
            one.ended_at,
            one.click_count,
            tuple(one.clicks()[-NEWEST_CLICKS:]) if keep_clicks else (),
        )
        if isinstance(one, Session)
        else SeenInteraction(False, one.started_at, one.ended_at, one.sentences)
        for one in interactions
    )


def _feedback_summary(value: bytes) -> FeedbackSummary:
    feedback = decode_user_feedback(value)
    counts = [sum(mark.action == action for mark in feedback.marks) for action in range(len(ACTIONS))]
    counts[SHOWN] += sum(feedback.older.values())
    items, times = {mark.item for mark in feedback.marks}, [mark.at_ms for mark in feedback.marks]
    answers = [SeenAnswer(mark.at_ms, mark.action, mark.item) for mark in feedback.marks if mark.action != SHOWN]
    shown, selected, accepted, rejected, dismissed = counts
    newest_at, oldest_at = max(times, default=0), min(times, default=0)
    known = (len(items), shown, selected, accepted, rejected, dismissed, newest_at, oldest_at)
    return FeedbackSummary(*known, tuple(answers[-ANSWERS:]))


def _count(interactions: Sequence[Interaction]) -> tuple[int, int]:
    sessions = sum(isinstance(interaction, Session) for interaction in interactions)
    return sessions, len(interactions) - sessions
