"""What the read side keeps of a user's state records: the post filter, counts and the time of an erasure, but no click, no tag and
no vector; of feedback, counts.
"""

from collections.abc import Sequence

import msgspec

from stream.core.feedback import ACTIONS, SHOWN
from stream.core.interactions import Interaction, Session
from stream.core.state import (
    decode_erasure_marker,
    decode_facts,
    decode_head,
    decode_user_feedback,
    facts_key,
    feedback_key,
    head_key,
)


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
    """

    owned: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    erased_at: int = -1
    newest_at: int = 0
    sessions: int = 0
    conversations: int = 0
    model_version: str = ""


class FactsSummary(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is kept of `Facts`: counts since the user's first event."""

    sessions: int = 0
    conversations: int = 0
    purchases: int = 0


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
    """

    items: int = 0
    shown: int = 0
    selected: int = 0
    accepted: int = 0
    rejected: int = 0
    dismissed: int = 0
    newest_at: int = 0
    oldest_at: int = 0


_encode = msgspec.msgpack.Encoder().encode
decode_head_summary = msgspec.msgpack.Decoder(HeadSummary).decode
decode_erased_at = msgspec.msgpack.Decoder(int).decode
decode_facts_summary = msgspec.msgpack.Decoder(FactsSummary).decode
decode_feedback_summary = msgspec.msgpack.Decoder(FeedbackSummary).decode
HEAD, FACTS, MARKER, FEEDBACK = head_key(b""), facts_key(b""), b"m", feedback_key(b"")


def is_kept(key: bytes) -> bool:
    """Whether something of a state record of this key is kept."""
    return key[:1] in {HEAD, FACTS, MARKER, FEEDBACK}


def summary_of(key: bytes, value: bytes) -> bytes:
    """Returns what is kept of a state record.

    Raises:
        StatesUnreadableError: the record is damaged, or a later version wrote it.
    """
    if key[:1] == MARKER:
        return _encode(decode_erasure_marker(value).erased_at)
    if key[:1] == FEEDBACK:
        return _encode(_feedback_summary(value))
    return _encode(_head_summary(value) if key[:1] == HEAD else _facts_summary(value))


def _head_summary(value: bytes) -> HeadSummary:
    head = decode_head(value)
    sessions, conversations = _count(head.tail)
    version = "" if head.last_list is None else head.last_list.version
    return HeadSummary(head.owned, head.excluded, head.erased_at, head.newest_at, sessions, conversations, version)


def _facts_summary(value: bytes) -> FactsSummary:
    facts = decode_facts(value)
    sessions, conversations = _count(facts.interactions)
    bought = sum(purchase.bought for purchase in facts.purchases)
    return FactsSummary(
        facts.evicted.sessions + sessions, facts.evicted.conversations + conversations, facts.evicted.purchases + bought
    )


def _feedback_summary(value: bytes) -> FeedbackSummary:
    feedback = decode_user_feedback(value)
    counts = [sum(mark.action == action for mark in feedback.marks) for action in range(len(ACTIONS))]
    counts[SHOWN] += sum(feedback.older.values())
    items, times = {mark.item for mark in feedback.marks}, [mark.at_ms for mark in feedback.marks]
    shown, selected, accepted, rejected, dismissed = counts
    newest_at, oldest_at = max(times, default=0), min(times, default=0)
    return FeedbackSummary(len(items), shown, selected, accepted, rejected, dismissed, newest_at, oldest_at)


def _count(interactions: Sequence[Interaction]) -> tuple[int, int]:
    sessions = sum(isinstance(interaction, Session) for interaction in interactions)
    return sessions, len(interactions) - sessions
