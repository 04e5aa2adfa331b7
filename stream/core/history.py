"""A user's history as a function of the *set* of the user's events: where a click, a part of a call and a purchase belong.

All lists are in history order (`Interaction.order`; purchases and eligibility lists by time). Within the bounds of `limits`, the
result does not depend on the order of arrival.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple, TypeVar

import msgspec

from stream.core import limits
from stream.core.interactions import Interaction, Part, Session, Tags
from stream.core.kept_interactions import (
    KeptConversation,
    KeptInteraction,
    KeptSession,
    kept_conversation_of,
    session_of_click,
)
from stream.core.state import EligibilityList, Evicted, KeptPurchase

_NO_ACTION: Final = (-(2**63), True)  # purchases may lie before 1970
AnyInteraction = TypeVar("AnyInteraction", bound=Interaction)


class NewClick(msgspec.Struct, frozen=True, gc=False):
    """A click on its way into the history.

    Attributes:
        at_ms: Its time, ms.
        tags: Its tags.
        session_id: Explicit session; "" without one.
        hashed_id: Hash of its event id, or `NO_ID`.
    """

    at_ms: int
    tags: Tags
    session_id: str
    hashed_id: bytes


class NewPart(NamedTuple):
    """A part of a call on its way into the history.

    Attributes:
        part: The part.
        conversation_id: The call.
        hashed_id: Hash of its identity, see `stream.core.duplicates`.
    """

    part: Part
    conversation_id: str
    hashed_id: bytes


class EligibilityLists(NamedTuple):
    """Eligibility lists, one for each time.

    Attributes:
        kept: Those of the last 4 times.
        evicted: Those before them.
        are_items_lost: Whether one had more items than are kept.
    """

    kept: list[EligibilityList]
    evicted: list[EligibilityList]
    are_items_lost: bool


def in_order(interactions: Iterable[AnyInteraction]) -> list[AnyInteraction]:
    return sorted(interactions, key=lambda interaction: interaction.order)


def with_click(
    interactions: Sequence[KeptInteraction], click: NewClick, gap_ms: int, evicted: Evicted
) -> list[KeptInteraction] | None:
    """The history with one more click: in its session, joining sessions that it connects, or in a new session.

    None if it may belong to an evicted session: alone, it would come back as another session and evict a kept interaction.
    """
    touched = sessions_of(interactions, click, gap_ms)
    is_before_others = not touched or bool(click.session_id and click.at_ms < touched[0].started_at)
    if is_before_others and click.at_ms <= evicted.newest_ended_at:
        return None
    if not touched:
        return in_order([*interactions, session_of_click(click.at_ms, click.tags, click.session_id, click.hashed_id)])
    joined = touched[0]
    for session in touched[1:]:
        joined = joined.joined(session)
    rest = [other for other in interactions if not any(other is session for session in touched)]
    return in_order([*rest, joined.with_click(click.at_ms, click.tags, click.hashed_id)])


def sessions_of(interactions: Iterable[KeptInteraction], click: NewClick, gap_ms: int) -> list[KeptSession]:
    """The sessions to which a click belongs: two if it closes the gap between them."""
    sessions = (other for other in interactions if isinstance(other, KeptSession))
    return [session for session in sessions if belongs(click.at_ms, click.session_id, session, gap_ms)]


def belongs(at_ms: int, session_id: str, session: Session, gap_ms: int) -> bool:
    """Whether a click at that time belongs to the session: by explicit id, or else by a gap under `gap_ms` on either side."""
    if session_id or session.session_id:
        return session_id == session.session_id
    return session.started_at - gap_ms < at_ms < session.ended_at + gap_ms


def with_part(interactions: Sequence[KeptInteraction], new: NewPart, evicted: Evicted) -> list[KeptInteraction] | None:
    """The history with one more part of a call; None if it may belong to an evicted call."""
    index = conversation_index(interactions, new.conversation_id)
    is_before_others = index is None or new.part.started_at < interactions[index].started_at
    if is_before_others and new.part.ended_at <= evicted.newest_ended_at:
        return None
    if index is None:
        return in_order([*interactions, kept_conversation_of([(new.part, new.hashed_id)], new.conversation_id)])
    conversation = interactions[index]
    assert isinstance(conversation, KeptConversation)
    return in_order([*interactions[:index], conversation.with_part(new.part, new.hashed_id), *interactions[index + 1 :]])


def conversation_index(interactions: Sequence[KeptInteraction], conversation_id: str) -> int | None:
    """Where a call is in the history."""
    for index, other in enumerate(interactions):
        if isinstance(other, KeptConversation) and other.conversation_id == conversation_id:
            return index
    return None


def with_purchase(purchases: Sequence[KeptPurchase], purchase: KeptPurchase) -> list[KeptPurchase]:
    """The purchases with one more record: united with that of the same id, action and time, or at its place."""
    same = purchase_index(purchases, purchase)
    if same is not None:
        items = tuple(dict.fromkeys((*purchases[same].items, *purchase.items)))
        return [*purchases[:same], msgspec.structs.replace(purchases[same], items=items), *purchases[same + 1 :]]
    return sorted([*purchases, purchase], key=_purchase_order)


def _purchase_order(purchase: KeptPurchase) -> tuple[int, bool, str]:
    """Sort key of purchases. At one time, a cancellation follows what it cancels."""
    return (purchase.occurred_at, not purchase.bought, purchase.purchase_id)


def purchase_index(purchases: Sequence[KeptPurchase], purchase: KeptPurchase) -> int | None:
    """Where the purchase of the same id, action and time is."""
    identity = (purchase.occurred_at, purchase.purchase_id, purchase.bought)
    for index, kept in enumerate(purchases):
        if (kept.occurred_at, kept.purchase_id, kept.bought) == identity:
            return index
    return None


def with_eligibility(lists: Iterable[EligibilityList], at_ms: int, excluded: Iterable[str]) -> EligibilityLists:
    """The lists with one more. Lists of one time unite, also those that an earlier version kept apart.

    Of more than 1,000 items, the first by name stay, whatever the order of arrival.
    """
    by_time = {at_ms: set(excluded)}
    for other in lists:
        by_time.setdefault(other.occurred_at, set()).update(other.excluded)
    united = [EligibilityList(at, tuple(sorted(items)[: limits.ITEMS])) for at, items in sorted(by_time.items())]
    are_items_lost = any(len(items) > limits.ITEMS for items in by_time.values())
    return EligibilityLists(united[-limits.ELIGIBILITY_LISTS :], united[: -limits.ELIGIBILITY_LISTS], are_items_lost)


def holds_eligibility(lists: Iterable[EligibilityList], at_ms: int, excluded: Iterable[str]) -> bool:
    """Whether the lists of that time exclude all these items already."""
    same = [kept.excluded for kept in lists if kept.occurred_at == at_ms]
    return bool(same) and set(excluded).issubset(chain(*same))


def before(interactions: Iterable[Interaction], moment_ms: int) -> list[Interaction]:
    """The last 10 interactions as they stood before `moment_ms`."""
    cut = (interaction.before(moment_ms) for interaction in interactions)
    return in_order(interaction for interaction in cut if interaction is not None)[-limits.WINDOW :]


def is_newer_action(owned_before: dict[str, tuple[int, bool]], item: str, purchase: KeptPurchase) -> bool:
    """Whether purchases that left the state did nothing to an item that counts more than `purchase`: nothing later, and no
    cancellation at its time.
    """
    at_ms, bought = owned_before.get(item, _NO_ACTION)
    return (purchase.occurred_at, not purchase.bought) > (at_ms, not bought)


def owned_at(
    owned_before: dict[str, tuple[int, bool]], purchases: Sequence[KeptPurchase], moment_ms: int | None = None
) -> tuple[str, ...]:
    """The items owned just before `moment_ms` (None: now), sorted: bought and not cancelled afterwards."""
    owned = {item: bought for item, (at_ms, bought) in owned_before.items() if moment_ms is None or at_ms < moment_ms}
    end = len(purchases) if moment_ms is None else bisect_left(purchases, moment_ms, key=lambda other: other.occurred_at)
    for purchase in purchases[:end]:
        owned.update(dict.fromkeys(purchase.items, purchase.bought))
    return tuple(sorted(item for item, bought in owned.items() if bought))


def excluded_at(lists: Sequence[EligibilityList], moment_ms: int | None = None) -> tuple[str, ...]:
    """The items of the newest eligibility list before `moment_ms` (None: of all). Of one time, earlier versions kept several."""
    end = len(lists) if moment_ms is None else bisect_left(lists, moment_ms, key=lambda other: other.occurred_at)
    if end < 2 or lists[end - 2].occurred_at != lists[end - 1].occurred_at:
        return lists[end - 1].excluded if end else ()
    newest_at = lists[end - 1].occurred_at
    return tuple(dict.fromkeys(item for other in lists[:end] if other.occurred_at == newest_at for item in other.excluded))


def count_growing(interactions: Sequence[Interaction], newest_at: int, gap_ms: int) -> int:
    """How many of the last interactions may still grow: those active within the gap, at least 1 and at most 3."""
    count = min(1, len(interactions))
    while count < min(limits.TAIL, len(interactions)) and interactions[-count - 1].ended_at + gap_ms > newest_at:
        count += 1
    return count
