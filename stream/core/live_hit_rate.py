"""Live quality: was what the user bought among the first three that he had been shown last?

Only counters leave here; rates are for the query to make, over all workers. Popularity's first three, under the same post filter,
are judged on the same purchases. No causal claim: purchases may have been made because of the list, or without anyone looking at
it.
"""

from collections import Counter
from typing import Final

from stream.core.events import Purchase
from stream.core.examples import event_type
from stream.core.ranking import Catalogue, PostFilter, Ranker
from stream.core.recommend import interaction_counts
from stream.core.user_state import UserState

HIT_RATE_K: Final = 3  # HR@3, the paper's measure


def count_hits(
    user: UserState, purchase: Purchase, at: int, ranker: Ranker | None, catalogue: Catalogue, counts: Counter[tuple[str, ...]]
) -> None:
    """Counts a purchase, and whether the last list sent before it held one of its items. Called before the purchase is folded."""
    last = user.head.last_list
    counted = interaction_counts(user, ranker)
    kind = event_type(counted.session, counted.conversation) or "none"
    if last is None or last.as_of > at:
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
        popular = post_filter.top(ranker.prior[None, :], [blocked], HIT_RATE_K)[0]
        if bought.intersection(ranker.items[place] for place in popular):
            counts["popularity_hits", *labels] += 1
