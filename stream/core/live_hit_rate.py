"""Live quality: whether a user bought one of the first three items of the last list sent, and what became of what was shown.

Only counters leave here; queries compute rates over all workers. Popularity's first three, under the same post filter, are counted
on the same purchases. The hit rate says nothing about causes: users may buy because of the list, or without anybody looking at it.

Where feedback comes in, items are counted as shown, selected, accepted, rejected, dismissed, and bought after they were shown. An
answer and a purchase count under the labels of the item's last impression before them.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from stream.core.events import Feedback, Purchase
from stream.core.examples import event_type
from stream.core.feedback import SHOWN, FeedbackConfig, Mark, UserFeedback, hash_item, name_of
from stream.core.outputs import Count
from stream.core.ranking import Catalogue, PostFilter, Ranker
from stream.core.recommend import list_support
from stream.core.user_state import UserState

HIT_RATE_K: Final = 3  # HR@3, the paper's measure
UNKNOWN: Final = "unknown"


def count_hits(
    user: UserState, purchase: Purchase, at_ms: int, ranker: Ranker | None, catalogue: Catalogue, counts: Counter[Count]
) -> None:
    """Counts a purchase that is about to be folded, and whether the last list sent before it contained one of its items."""
    last = user.head.last_list
    support = list_support(user, ranker)
    kind = event_type(support.session, support.conversation) or "none"
    if last is None or last.as_of > at_ms:
        counts["purchases", "0" if last is None else last.version, kind, "unserved"] += 1
        return
    labels = (last.version, kind, last.fallback or "none")
    counts["purchases", *labels] += 1
    bought = set(purchase.items)
    if bought.intersection(last.items[:HIT_RATE_K]):
        counts["hits", *labels] += 1
    if ranker is not None:
        blocked = catalogue.blocked(user.head.owned, user.head.excluded)
        post_filter = PostFilter(ranker.items, catalogue, user.broker_ms)
        popular = [ranker.items[position] for position in post_filter.top(ranker.prior[None, :], [blocked], HIT_RATE_K)[0]]
        if bought.intersection([*popular, *post_filter.fill(blocked, HIT_RATE_K - len(popular))]):
            counts["popularity_hits", *labels] += 1


@dataclass(frozen=True, slots=True)
class ExposureLabels:
    """What the labels of exposure depend on.

    Attributes:
        config: What is declared of feedback.
        list_length: Ranks beyond are `more`.
    """

    config: FeedbackConfig = field(default_factory=FeedbackConfig)
    list_length: int = 5

    def of(self, mark: Mark) -> tuple[str, str, str, str]:
        """Model version, placement, channel and rank of a mark."""
        rank = "more" if mark.rank > self.list_length else str(mark.rank or UNKNOWN)
        placement, channel = name_of(mark.placement, self.config.placements), name_of(mark.channel, self.config.channels)
        return mark.model_version or UNKNOWN, placement, channel, rank


def count_feedback(
    feedback: UserFeedback, event: Feedback, new: Sequence[Mark], labels: ExposureLabels, counts: Counter[Count]
) -> None:
    """Counts the items of an event that were not known. `feedback` contains them."""
    for mark in new:
        shown = mark if mark.action == SHOWN else feedback.last_shown(mark.item, mark.at_ms + 1)
        counts["feedback_items", event.action, *labels.of(shown or mark)] += 1


def count_bought(feedback: UserFeedback, items: Iterable[str], at_ms: int, labels: ExposureLabels, counts: Counter[Count]) -> None:
    """Counts the items of a purchase that were shown at most the time of attribution before it."""
    for item in items if feedback.marks else ():
        shown = feedback.last_shown(hash_item(item), at_ms)
        if shown is not None and shown.at_ms >= at_ms - labels.config.attribution_ms:
            counts["bought_after_shown", *labels.of(shown)] += 1
