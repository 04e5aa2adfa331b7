"""A user's history as a function of the *set* of the user's events: where a click, a part of a call and a purchase belong.

All lists are in history order (`Interaction.order`; purchases and eligibility lists by time). Within the bounds of `limits`, the
result does not depend on the order of arrival.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

from stream.core import limits
from stream.core.interactions import (
    Conversation,
    Interaction,
    Part,
    Session,
    Tags,
    conversation_of,
)
from stream.core.state import EligibilityList, KeptPurchase


def in_order(interactions: Iterable[Interaction]) -> list[Interaction]:
    return sorted(interactions, key=lambda interaction: interaction.order)


def with_click(interactions: Sequence[Interaction], at: int, tags: Tags, session_id: str, gap_ms: int) -> list[Interaction]:
    """The history with one more click: in its session, joining sessions that it connects, or in a new session."""
    touched = [other for other in interactions if isinstance(other, Session) and belongs(at, session_id, other, gap_ms)]
    if not touched:
        return in_order([*interactions, Session(at, at, session_id, "", b"", b"").with_click(at, tags)])
    joined = touched[0]
    for session in touched[1:]:
        joined = joined.joined(session)
    rest = [other for other in interactions if not any(other is session for session in touched)]
    return in_order([*rest, joined.with_click(at, tags)])


def belongs(at: int, session_id: str, session: Session, gap_ms: int) -> bool:
    """Whether a click at that time belongs to the session: by explicit id, or else by a gap under `gap_ms` on either side."""
    if session_id or session.session_id:
        return session_id == session.session_id
    return session.started_at - gap_ms < at < session.ended_at + gap_ms


def with_part(interactions: Sequence[Interaction], part: Part, conversation_id: str) -> list[Interaction]:
    """The history with one more part of a call."""
    for index, other in enumerate(interactions):
        if isinstance(other, Conversation) and other.conversation_id == conversation_id:
            return in_order([*interactions[:index], other.with_part(part), *interactions[index + 1 :]])
    return in_order([*interactions, conversation_of([part], conversation_id)])


def with_purchase(purchases: Sequence[KeptPurchase], purchase: KeptPurchase) -> list[KeptPurchase]:
    index = bisect_right(purchases, purchase.occurred_at, key=lambda other: other.occurred_at)
    return [*purchases[:index], purchase, *purchases[index:]]


def with_eligibility(lists: Sequence[EligibilityList], new: EligibilityList) -> list[EligibilityList]:
    """The last 4 lists by time; lists with the same time stay in order of arrival."""
    index = bisect_right(lists, new.occurred_at, key=lambda other: other.occurred_at)
    return [*lists[:index], new, *lists[index:]][-limits.ELIGIBILITY_LISTS :]


def before(interactions: Iterable[Interaction], moment: int) -> list[Interaction]:
    """The last 10 interactions as they stood before `moment`."""
    cut = (interaction.before(moment) for interaction in interactions)
    return in_order(interaction for interaction in cut if interaction is not None)[-limits.WINDOW :]


def owned_at(
    owned_before: dict[str, tuple[int, bool]], purchases: Sequence[KeptPurchase], moment: int | None = None
) -> tuple[str, ...]:
    """The items owned just before `moment` (None: now), sorted: bought and not cancelled afterwards."""
    owned = {item: bought for item, (at, bought) in owned_before.items() if moment is None or at < moment}
    end = len(purchases) if moment is None else bisect_left(purchases, moment, key=lambda other: other.occurred_at)
    for purchase in purchases[:end]:
        owned.update(dict.fromkeys(purchase.items, purchase.bought))
    return tuple(sorted(item for item, bought in owned.items() if bought))


def excluded_at(lists: Sequence[EligibilityList], moment: int | None = None) -> tuple[str, ...]:
    """The items of the newest eligibility list before `moment` (None: of all)."""
    end = len(lists) if moment is None else bisect_left(lists, moment, key=lambda other: other.occurred_at)
    return lists[end - 1].excluded if end else ()


def growing(interactions: Sequence[Interaction], newest_at: int, gap_ms: int) -> int:
    """How many of the last interactions may still grow: those active within the gap, at least 1 and at most 3."""
    count = min(1, len(interactions))
    while count < min(limits.TAIL, len(interactions)) and interactions[-count - 1].ended_at + gap_ms > newest_at:
        count += 1
    return count
