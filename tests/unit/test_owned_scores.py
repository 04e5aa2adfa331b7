"""What a user owns and is not eligible for changes the scores of other items at once, through the step."""

import json
from typing import Any

import numpy as np
import pytest

from stream.core.events import Click, Eligibility, Item, Purchase, Source, UserEvent
from stream.core.ranking import Catalogue, Ranker
from stream.core.state import HEAD_PREFIX, decode_head, head_key
from stream.sinks.audience import Audience
from tests.rankers import random_ranker
from tests.world import ITEMS, MINUTE, NOW, OrderRanker, Store, batch_of, catalogue, run, settings

BEGIN = NOW - 200 * MINUTE
Scores = dict[str, float]


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return random_ranker("isthmus", ITEMS, np.linspace(0.5, 0.1, len(ITEMS), dtype=np.float32))


class Worker:
    """Applies events of one user, and gives the list that follows each."""

    def __init__(self, ranker: Ranker, items: Catalogue | None = None) -> None:
        self.store, self.ranker = Store(), ranker
        self.catalogue = items or catalogue(item_1=True)
        self._offsets = dict.fromkeys(Source, -1)
        self.apply(Source.CLICK, Click("u", BEGIN, ("car", "price")))

    def apply(self, source: Source, event: UserEvent, **changes: object) -> dict[str, Any]:
        """The list, also where it is the same as the one before."""
        self._offsets[source] += 1
        batch = batch_of(source, [(self._offsets[source], event)])._replace(notified_users=set())
        outcome = run(self.store, batch, self.ranker, self.catalogue, settings(**changes))
        content: dict[str, Any] = json.loads(outcome.recommendations[-1].value or b"{}")
        return content

    def scores(self, source: Source, event: UserEvent) -> Scores:
        content = self.apply(source, event)
        return {item["item"]: item["score"] for item in [*content["items"], *content.get("reserve", ())]}

    def click(self) -> Scores:
        """A click that was there already but for its id: its tags are known."""
        return self.scores(Source.CLICK, Click("u", BEGIN, ("car", "price"), "again"))

    def buy(self, item: str, action: str = "bought", minute: int = 90) -> Scores:
        return self.scores(Source.PURCHASE, Purchase("u", BEGIN + minute * MINUTE, (item,), "p", action))  # type: ignore[arg-type]


def others(scores: Scores, *left_out: str) -> Scores:
    return {item: score for item, score in scores.items() if item not in left_out}


def test_a_purchase_and_its_cancellation_change_the_scores_of_other_items_at_once(ranker: Ranker) -> None:
    """The item itself is offered no more, and again. After the cancellation all scores are as before."""
    worker = Worker(ranker)
    before = worker.click()
    after = worker.buy("item-2")
    assert "item-2" not in after
    assert all(after[item] != score for item, score in others(before, "item-2").items())
    assert worker.buy("item-2", "cancelled", 91) == before


def test_the_purchase_of_a_repeatable_item_changes_the_scores_of_other_items_at_once(ranker: Ranker) -> None:
    """And its own: it is still offered."""
    worker = Worker(ranker)
    before = worker.click()
    after = worker.buy("item-1")
    assert after.keys() == before.keys()
    assert all(after[item] != score for item, score in before.items())


def test_an_eligibility_list_changes_the_scores_of_other_items_and_a_withdrawn_item_none(ranker: Ranker) -> None:
    """That an item is on offer to nobody says nothing of the user."""
    worker = Worker(ranker)
    before = worker.click()
    after = worker.scores(Source.ELIGIBILITY, Eligibility("u", BEGIN + MINUTE, ("item-2",)))
    assert all(after[item] != score for item, score in others(before, "item-2").items())
    withdrawn = Catalogue(Item(item, item) for item in ITEMS if item != "item-2")
    assert Worker(ranker, withdrawn).click() == others(before, "item-2")


def test_a_ranker_that_reads_no_holdings_gives_the_same_scores_whatever_is_owned() -> None:
    """One of the user's own, without the methods for them."""
    worker = Worker(OrderRanker())
    before = worker.click()
    assert worker.buy("item-1") == before


def test_the_cached_representation_does_not_depend_on_what_is_owned(ranker: Ranker) -> None:
    """What is owned is read from the head at each ranking: no state grows, and a purchase encodes nothing again."""
    prefixes = []
    for buys in (True, False):
        worker = Worker(ranker)
        if buys:
            worker.buy("item-1")
        worker.apply(Source.CLICK, Click("u", BEGIN + 190 * MINUTE, ("home",)))
        prefixes.append(decode_head(worker.store.records[head_key(b"u")]).prefix)
    owner, other = prefixes
    assert owner is not None
    assert owner == other
    assert len(owner.vector) == 4 * ranker.width


def test_reasons_and_audiences_rest_on_the_scores_of_lists(ranker: Ranker) -> None:
    """Also for a user who owns something."""
    worker = Worker(ranker)
    worker.buy("item-1")
    content = worker.apply(Source.CLICK, Click("u", BEGIN + 95 * MINUTE, ("home",)), explain=True)
    first = content["items"][0]
    assert {reason["score_with"] for reason in content["because"]} == {first["score"]}
    audience = Audience(first["item"], ranker, worker.catalogue, NOW)
    (member,) = audience.members([(HEAD_PREFIX + b"u", worker.store.records[head_key(b"u")])], worker.store)
    assert round(member.score, 4) == first["score"]
