"""Who a user is, as an answer: counts, and what is kept of the last interactions, purchases and answers, with names of items."""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from stream.api.profiles import (
    FactsSummary,
    FeedbackSummary,
    HeadSummary,
    SeenAnswer,
    SeenInteraction,
    SeenPurchase,
    last_interactions,
)
from stream.core.events import FeedbackAction, Item
from stream.core.feedback import ACTIONS
from stream.core.interactions import Modality
from stream.core.outputs import Modalities

OWNED_ITEMS: Final = 100


class NamedItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An item.

    Attributes:
        item: Item id.
        name: The catalogue's name of it; absent where it is not in the catalogue.
    """

    item: str
    name: str | None = None


class ProfileClick(msgspec.Struct, frozen=True):
    """A click.

    Attributes:
        occurred_at: Its time, ms.
        tags: Its action tags.
    """

    occurred_at: int
    tags: tuple[str, ...]


class ProfileInteraction(msgspec.Struct, frozen=True, omit_defaults=True):
    """A session or a conversation.

    Attributes:
        modality: Which of them.
        started_at: When it began, ms.
        ended_at: When it ended, ms.
        clicks: Of a session: its clicks, of which a state keeps 64.
        sentences: Of a conversation: its sentences.
        newest_clicks: Of a session: its last clicks, oldest first, where the setting `api.keep_clicks` is on.
    """

    modality: Modality
    started_at: int
    ended_at: int
    clicks: int | None = None
    sentences: int | None = None
    newest_clicks: tuple[ProfileClick, ...] = ()


class ProfilePurchase(msgspec.Struct, frozen=True):
    """A purchase, or a cancellation.

    Attributes:
        occurred_at: Its time, ms.
        action: Which of them.
        items: Its items.
    """

    occurred_at: int
    action: Literal["bought", "cancelled"]
    items: tuple[NamedItem, ...]


class ProfileAnswer(msgspec.Struct, frozen=True):
    """An answer to an item.

    Attributes:
        occurred_at: Its time, ms.
        action: What was answered.
        item: The item.
    """

    occurred_at: int
    action: FeedbackAction
    item: NamedItem


class FeedbackCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of what a user was shown and answered, within the bounds of the state.

    Attributes:
        items: Number of items.
        shown: Number of impressions.
        selected: How often an item was selected.
        accepted: How often an item was accepted.
        rejected: How often an item was rejected.
        dismissed: How often an item was dismissed.
        newest_at: Time of the newest, ms.
    """

    items: int
    shown: int
    selected: int
    accepted: int
    rejected: int
    dismissed: int
    newest_at: int


class Profile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a user: counts, and the last things that happened, oldest first, as far as they are kept.

    Attributes:
        user_id: The user.
        interactions: Sessions and conversations since the user's first event.
        modalities: The same by modality.
        purchases: Purchases since the user's first event.
        owned: Items that the user owns.
        newest_at: Time of the newest event, ms.
        age_s: Seconds since the store was last known to be complete.
        model_version: Version that made the last list.
        feedback: What is known of what the user was shown and answered; absent: nothing.
        last_interactions: The last 10 sessions and conversations.
        last_purchases: The last 8 purchases and cancellations, with up to 32 items each.
        last_answers: The last 16 answers, to items that the catalogue still has.
        owned_items: Up to 100 of the items that the user owns.
    """

    user_id: str
    interactions: int
    modalities: Modalities
    purchases: int
    owned: int
    newest_at: int
    age_s: float
    model_version: str | None = None
    feedback: FeedbackCounts | None = None
    last_interactions: tuple[ProfileInteraction, ...] = ()
    last_purchases: tuple[ProfilePurchase, ...] = ()
    last_answers: tuple[ProfileAnswer, ...] = ()
    owned_items: tuple[NamedItem, ...] = ()


def profile_of(
    user_id: str,
    head: HeadSummary,
    facts: FactsSummary,
    feedback: FeedbackSummary | None,
    age_s: float,
    items: Mapping[str, Item],
    by_hash: Mapping[bytes, Item],
) -> Profile:
    """Returns the profile of one user; `items` are the catalogue's, `by_hash` the same by their hash in feedback."""
    sessions, conversations = head.sessions + facts.sessions, head.conversations + facts.conversations
    answers = () if feedback is None else feedback.last_answers
    return Profile(
        user_id=user_id,
        interactions=sessions + conversations,
        modalities=Modalities(sessions, conversations),
        purchases=facts.purchases,
        owned=len(head.owned),
        newest_at=head.newest_at,
        age_s=age_s,
        model_version=head.model_version or None,
        feedback=None if feedback is None else _counts(feedback),
        last_interactions=tuple(_interaction(one) for one in last_interactions(head, facts)),
        last_purchases=tuple(_purchase(one, items) for one in facts.last_purchases),
        last_answers=tuple(_answer(one, by_hash) for one in answers if one.item in by_hash),
        owned_items=tuple(_named(item, items) for item in head.owned[:OWNED_ITEMS]),
    )


def _counts(feedback: FeedbackSummary) -> FeedbackCounts:
    return FeedbackCounts(**{name: getattr(feedback, name) for name in FeedbackCounts.__struct_fields__})


def _interaction(seen: SeenInteraction) -> ProfileInteraction:
    if not seen.is_session:
        return ProfileInteraction("conversation", seen.started_at, seen.ended_at, sentences=seen.size)
    clicks = tuple(ProfileClick(at_ms, tags) for at_ms, tags in seen.clicks)
    return ProfileInteraction("session", seen.started_at, seen.ended_at, clicks=seen.size, newest_clicks=clicks)


def _purchase(seen: SeenPurchase, items: Mapping[str, Item]) -> ProfilePurchase:
    named = tuple(_named(item, items) for item in seen.items)
    return ProfilePurchase(seen.occurred_at, "bought" if seen.bought else "cancelled", named)


def _answer(seen: SeenAnswer, by_hash: Mapping[bytes, Item]) -> ProfileAnswer:
    item = by_hash[seen.item]
    return ProfileAnswer(seen.occurred_at, ACTIONS[seen.action], NamedItem(item.item_id, item.name))


def _named(item: str, items: Mapping[str, Item]) -> NamedItem:
    return NamedItem(item, items[item].name if item in items else None)
