"""Which interactions are named as an item's reasons."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from stream.core.events import Click, Item, Source
from stream.core.explain import contributions
from stream.core.interactions import Interaction, Session
from stream.core.limits import HOUR_MS
from stream.core.ranking import Catalogue, Rows
from tests import world
from tests.world import NOW, OrderRanker, Store, batch_of, run

ITEMS = ("boat", "cat", "house")
CATALOGUE = Catalogue(Item(item, item) for item in ITEMS)


@dataclass
class TopicRanker(OrderRanker):
    """Scores an item .9 for users who ever clicked its tag and .1 for others. More of the same adds nothing; "no-boat" speaks
    against boats.
    """

    items: tuple[str, ...] = ITEMS
    width: int = 4

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        read = [[tag in one.tags for tag in (*ITEMS, "no-boat")] for one in interactions if isinstance(one, Session)]
        return np.maximum(representations, np.array(read, dtype=np.float32))

    def rank_many(self, representations: Rows) -> Rows:
        scores: Rows = 0.1 + 0.8 * representations[:, :3]
        scores[:, 0] -= 0.05 * representations[:, 3]
        return scores


def explained(*tags: str) -> dict[str, Any]:
    """The last list of a user with one session for each tag, an hour and more apart, the oldest first; reasons by item."""
    store = Store()
    clicks = [(number, Click("u", NOW - 2 * (len(tags) - number) * HOUR_MS, (tag,))) for number, tag in enumerate(tags)]
    run(store, batch_of(Source.CLICK, clicks), TopicRanker(), CATALOGUE, config=world.settings(explain=True))
    made = msgspec.json.decode(store.recommendations[b"u"] or b"")
    return {item["item"]: item["because"] for item in made["items"]}


def session(number: int, of: int) -> int:
    return NOW - 2 * (of - number) * HOUR_MS


def test_each_item_has_reasons_of_its_own() -> None:
    """The interaction about it, with the scores with it, without it, and of it alone; nothing that is about other items."""
    reasons = explained("boat", "help", "cat")
    (boat,), (cat,) = reasons["boat"], reasons["cat"]
    assert boat == {"modality": "session", "started_at": session(0, 3), "score_with": 0.9, "score_without": 0.1, "score_alone": 0.9}
    assert cat["started_at"] == session(2, 3)
    assert reasons["house"] == []


def test_two_interactions_that_say_the_same_are_both_named() -> None:
    """Without either one the score stays, so leaving out one at a time would name neither."""
    reasons = explained("boat", "cat", "boat")["boat"]
    assert [one["started_at"] for one in reasons] == [session(0, 3), session(2, 3)]
    assert {one["score_without"] for one in reasons} == {0.9}


def test_what_speaks_against_an_item_is_no_reason_for_it() -> None:
    reasons = explained("boat", "no-boat")["boat"]
    assert [one["started_at"] for one in reasons] == [session(0, 2)]


def test_contributions_are_shapley_values_of_two_interactions() -> None:
    """With two, the mean of first and last marginal contribution is the Shapley value, and these add up to the whole difference."""
    everything, nothing, without_first, without_second, first, second = 0.8, 0.1, 0.3, 0.6, 0.6, 0.3
    scores = np.array([everything, nothing, without_first, without_second, first, second])
    assert contributions(scores) == pytest.approx([0.5, 0.2])
    assert contributions(scores).sum() == pytest.approx(everything - nothing)
