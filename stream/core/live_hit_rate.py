"""Live quality: whether a user bought one of the first three items of the last list sent.

Only counters leave here; queries compute rates over all workers. Popularity's first three, under the same post filter, are counted
on the same purchases. This says nothing about causes: users may buy because of the list, or without anybody looking at it.
"""

from collections import Counter
from typing import Final

from stream.core.events import Purchase
from stream.core.examples import event_type
from stream.core.outputs import Count
from stream.core.ranking import Catalogue, PostFilter, Ranker
from stream.core.recommend import list_support
from stream.core.user_state import UserState

HIT_RATE_K: Final = 3  # HR@3, the paper's measure


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
