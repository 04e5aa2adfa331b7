"""A user's history as a function of the *set* of his events: where a click, a part of a call and a purchase belong.

Lists in, lists out, all in history order (`Interaction.order`; purchases and eligibility lists by time). Whatever the order of
arrival, the result is the same, within the bounds of `limits`.
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
    """The history and one click more: in its session, joining two into one, or beginning one of its own."""
    own = [other for other in interactions if isinstance(other, Session) and belongs(at, session_id, other, gap_ms)]
    if not own:
        return in_order([*interactions, Session(at, at, session_id, "", b"", b"").with_click(at, tags)])
    joined = own[0]
    for other in own[1:]:
        joined = joined.joined(other)
    rest = [other for other in interactions if not any(other is one for one in own)]
    return in_order([*rest, joined.with_click(at, tags)])


def belongs(at: int, session_id: str, session: Session, gap_ms: int) -> bool:
    """Whether a click at that time is the session's: by explicit id, else by a gap under `gap_ms` on either side."""
    if session_id or session.session_id:
        return session_id == session.session_id
    return session.started_at - gap_ms < at < session.ended_at + gap_ms


def with_part(interactions: Sequence[Interaction], part: Part, conversation_id: str) -> list[Interaction]:
    """The history and one part of a call more."""
    for place, other in enumerate(interactions):
        if isinstance(other, Conversation) and other.conversation_id == conversation_id:
            return in_order([*interactions[:place], other.with_part(part), *interactions[place + 1 :]])
    return in_order([*interactions, conversation_of([part], conversation_id)])


def with_purchase(purchases: Sequence[KeptPurchase], purchase: KeptPurchase) -> list[KeptPurchase]:
    place = bisect_right(purchases, purchase.occurred_at, key=lambda other: other.occurred_at)
    return [*purchases[:place], purchase, *purchases[place:]]


def with_eligibility(lists: Sequence[EligibilityList], new: EligibilityList) -> list[EligibilityList]:
    """The last 4 lists by time; of two at one time the later arrival is the later one."""
    place = bisect_right(lists, new.occurred_at, key=lambda other: other.occurred_at)
    return [*lists[:place], new, *lists[place:]][-limits.ELIGIBILITY_LISTS :]


def before(interactions: Iterable[Interaction], moment: int) -> list[Interaction]:
    """The last 10 interactions as they stood before `moment`."""
    cut = (interaction.before(moment) for interaction in interactions)
    return in_order(interaction for interaction in cut if interaction is not None)[-limits.WINDOW :]


def owned_at(
    owned_before: dict[str, tuple[int, bool]], purchases: Sequence[KeptPurchase], moment: int | None = None
) -> tuple[str, ...]:
    """The items owned just before `moment` (None: now), sorted: bought, and not cancelled since."""
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
    """How many interactions at the end may still grow: at least the last, at most 3, those active within the gap."""
    count = min(1, len(interactions))
    while count < min(limits.TAIL, len(interactions)) and interactions[-count - 1].ended_at + gap_ms > newest_at:
        count += 1
    return count
