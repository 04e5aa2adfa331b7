"""What a list holds and says it rests on where the model knows no item that may be offered, or reads nothing of the user."""

from typing import Any

import msgspec
import numpy as np
import pytest

from models.popular import Popular
from stream.core.catalogue_records import ItemTable
from stream.core.events import Click, Eligibility, Erasure, Item, Purchase, Source
from stream.core.interactions import Session
from stream.core.ranking import Catalogue, Ranker, Rows
from stream.core.records import PlainRecord
from stream.core.state import Prefix, decode_head, encode_state, head_key
from tests import world
from tests.world import MINUTE, NOW, OrderRanker, Store, batch_of, call, run

SESSIONS_ONLY: dict[str, Any] = {"text_model": None, "reads_sessions": True}
CALLS_ONLY: dict[str, Any] = {"reads_sessions": False}
OTHERS = Catalogue(Item(f"other-{number}", "O") for number in range(9))


def clicked(store: Store, ranker: Ranker | None = None, items: Catalogue | None = None, *, offset: int = 0) -> dict[str, Any]:
    run(store, batch_of(Source.CLICK, [(offset, Click("u", NOW - MINUTE + offset, ("home",)))]), ranker, items)
    return sent(store)


def called(store: Store, ranker: Ranker | None = None, items: Catalogue | None = None, *, offset: int = 0) -> dict[str, Any]:
    run(store, batch_of(Source.CALL, [(offset, call(f"c{offset}", NOW - MINUTE, NOW, offset=offset))]), ranker, items)
    return sent(store)


def sent(store: Store) -> dict[str, Any]:
    recommendation: dict[str, Any] = msgspec.json.decode(store.recommendations[b"u"] or b"")
    return recommendation


def names(recommendation: dict[str, Any], key: str = "items") -> list[str]:
    return [entry["item"] for entry in recommendation[key]]


def scores(recommendation: dict[str, Any]) -> dict[str, float]:
    return {entry["item"]: entry["score"] for entry in (*recommendation["items"], *recommendation.get("reserve", ()))}


def test_a_catalogue_of_ids_that_the_model_does_not_know_does_not_empty_the_list() -> None:
    """Its items in its order, list and reserve; the event says that they rest on nothing."""
    store = Store()
    clicked(store, OrderRanker())
    recommendation = clicked(store, OrderRanker(), OTHERS, offset=1)
    assert names(recommendation) == [f"other-{number}" for number in range(5)]
    assert names(recommendation, "reserve") == [f"other-{number}" for number in range(5, 9)]
    assert recommendation["fallback"] == "catalogue"
    assert recommendation["modalities"] == {"session": 0, "conversation": 0}
    assert not any("fallback" in entry for entry in recommendation["items"])


def test_a_user_who_owns_all_that_the_model_knows_gets_other_items() -> None:
    """Unless there are none."""
    store, items = Store(), Catalogue([*world.catalogue().items.values(), Item("new-1", "N"), Item("new-2", "N")])
    clicked(store, OrderRanker(), items)
    run(store, batch_of(Source.PURCHASE, [(0, Purchase("u", NOW, world.ITEMS))]), OrderRanker(), items)
    assert names(sent(store)) == ["new-1", "new-2"]
    assert sent(store)["fallback"] == "catalogue"
    run(store, batch_of(Source.PURCHASE, [(1, Purchase("u", NOW, ("new-1", "new-2")))]), OrderRanker(), items)
    assert names(sent(store)) == []


def test_a_short_list_is_filled_and_says_with_what() -> None:
    """The model's own items first; the filled ones carry their own fallback, a score of 0 and the next ranks."""
    items = Catalogue([*world.catalogue().items.values(), *OTHERS.items.values()])
    ranker = OrderRanker(items=("item-3", "item-0", "item-5"))
    recommendation = clicked(Store(), ranker, items)
    assert set(names(recommendation)[:3]) == set(ranker.items)
    assert recommendation["items"][3:] == [
        {"item": "item-1", "rank": 4, "score": 0.0, "fallback": "catalogue"},
        {"item": "item-2", "rank": 5, "score": 0.0, "fallback": "catalogue"},
    ]
    assert {entry["fallback"] for entry in recommendation["reserve"]} == {"catalogue"}
    assert "fallback" not in recommendation
    assert recommendation["modalities"] == {"session": 1, "conversation": 0}


def test_a_filled_list_that_repeats_the_last_one_is_suppressed() -> None:
    """And one whose filled part has changed is sent."""
    store, ranker = Store(), OrderRanker(items=("item-3",))
    clicked(store, ranker)
    again = run(store, batch_of(Source.CLICK, [(1, Click("u", NOW, ("home",)))]), ranker)
    assert again.counts["recommendations", "suppressed"] == 1
    changed = Catalogue([*world.catalogue().items.values(), Item("item-00", "N")])
    outcome = run(store, batch_of(Source.CLICK, [(2, Click("u", NOW, ("home",)))]), ranker, changed)
    assert outcome.counts["recommendations", "sent"] == 1


def test_withdrawn_excluded_and_future_items_fill_no_list() -> None:
    """What fills a list passes the same filter as the model's items; nothing on offer is the one empty list."""
    day = 86_400_000
    future = [Item(f"future-{number}", "F", offered_from=NOW + day) for number in range(3)]
    past = [Item(f"past-{number}", "P", offered_until=NOW - day) for number in range(3)]
    run(store := Store(), batch_of(Source.ELIGIBILITY, [(0, Eligibility("u", NOW, ("now-1", "unknown")))]))
    items = Catalogue([*future, *past, Item("now-1", "N"), Item("now-2", "N")])
    assert names(clicked(store, OrderRanker(), items)) == ["now-2"]
    assert names(clicked(store, OrderRanker(), Catalogue([*future, *past]), offset=1)) == []
    run(store, batch_of(Source.ELIGIBILITY, [(1, Eligibility("u", NOW, ("now-1", "now-2")))]), OrderRanker(), items)
    assert names(sent(store)) == []


def test_after_the_last_item_is_withdrawn_nothing_is_offered() -> None:
    """One item less each time. Before the first record of the catalogue, whatever the model knows is offered."""
    store, table, lists = Store(), ItemTable(), [names(clicked(Store(), OrderRanker(), ItemTable().catalogue()))]
    table.apply([PlainRecord(0, NOW, item.encode(), msgspec.json.encode(Item(item, item))) for item in ("item-1", "item-2")])
    for offset, withdrawn in enumerate((b"item-0", b"item-1", b"item-2")):
        table.apply([PlainRecord(1, NOW, withdrawn, None)])
        lists.append(names(clicked(store, OrderRanker(), table.catalogue(), offset=offset)))
    assert list(map(len, lists)) == [5, 2, 1, 0]


@pytest.mark.parametrize(
    ("reads", "unread", "read"),
    [(SESSIONS_ONLY, called, clicked), (CALLS_ONLY, clicked, called)],
    ids=["sessions only", "conversations only"],
)
def test_a_history_of_which_the_model_reads_nothing_is_a_fallback(reads: dict[str, Any], unread: Any, read: Any) -> None:
    """Popularity's order, and it says so; what the model does read counts alone."""
    store, ranker = Store(), OrderRanker(**reads)
    for offset in range(3):
        recommendation = unread(store, ranker, offset=offset)
    assert recommendation["fallback"] == "popularity"
    assert recommendation["modalities"] == {"session": 0, "conversation": 0}
    assert names(recommendation) == list(world.ITEMS[:5])
    recommendation = read(store, ranker, offset=4)
    assert "fallback" not in recommendation
    assert sum(recommendation["modalities"].values()) == 1
    assert names(recommendation) == names(read(Store(), ranker, offset=4))


def test_under_popularity_and_without_a_model_lists_rest_on_no_interaction() -> None:
    """Popular reads nothing of anybody."""
    popular = Popular("1", "f", world.ITEMS, np.linspace(0.5, 0.1, 6, dtype=np.float32))
    fallbacks = []
    for ranker in (popular, None):
        recommendation = clicked(Store(), ranker)
        assert recommendation["modalities"] == {"session": 0, "conversation": 0}
        fallbacks.append(recommendation["fallback"])
    assert fallbacks == ["popularity", "catalogue"]


@pytest.mark.parametrize("fingerprint", ["order-1", "another"])
def test_a_cached_prefix_that_counts_what_the_model_does_not_read_is_encoded_again(fingerprint: str) -> None:
    """Earlier versions counted, and some models encoded, interactions that they were not trained to read."""
    store, ranker = Store(), OrderRanker(**SESSIONS_ONLY)
    for number in range(3):
        at = NOW - (5 - number) * 40 * MINUTE
        run(store, batch_of(Source.CALL, [(number, call(f"c{number}", at, at, offset=number))]), ranker)
    head = decode_head(store.records[head_key(b"u")])
    assert not any(isinstance(interaction, Session) for interaction in head.tail)
    head.prefix = Prefix(fingerprint, np.ones(ranker.width, dtype="<f4").tobytes(), 0, 2)
    store.records[head_key(b"u")] = encode_state(head)
    bought = run(store, batch_of(Source.PURCHASE, [(0, Purchase("u", NOW, ("item-0",)))]), ranker).counts
    assert bought["purchases", "1", "none", "popularity"] == 1
    assert sent(store)["fallback"] == "popularity"
    recommendation = clicked(store, ranker)
    assert recommendation["modalities"] == {"session": 1, "conversation": 0}
    only_clicked = clicked(Store(), ranker)
    assert scores(recommendation).items() <= scores(only_clicked).items()


def test_purchases_are_judged_by_what_the_model_reads() -> None:
    """A caller's purchase under a model of sessions counts as one without interactions, on popularity's list."""
    store, ranker = Store(), OrderRanker(**SESSIONS_ONLY)
    called(store, ranker)
    counts = run(store, batch_of(Source.PURCHASE, [(0, Purchase("u", NOW, ("item-1",)))]), ranker).counts
    assert counts["purchases", "1", "none", "popularity"] == counts["hits", "1", "none", "popularity"] == 1
    assert counts["popularity_hits", "1", "none", "popularity"] == 1


def test_popularity_is_judged_on_a_filled_list_too() -> None:
    """It is the same purchase under the same filter, so the comparison stays fair where the model knows few items."""
    store, ranker = Store(), OrderRanker(items=("item-5",))
    assert names(clicked(store, ranker))[:3] == ["item-5", "item-0", "item-1"]
    counts = run(store, batch_of(Source.PURCHASE, [(0, Purchase("u", NOW, ("item-1",)))]), ranker).counts
    assert counts["hits", "1", "session", "none"] == counts["popularity_hits", "1", "session", "none"] == 1


def test_a_user_who_was_erased_and_comes_back_gets_a_list() -> None:
    """Nothing of the user is left to read: popularity, then the new session."""
    store = Store()
    clicked(store, OrderRanker())
    run(store, batch_of(Source.ERASURE, [(0, Erasure("u", NOW))]), OrderRanker())
    assert store.recommendations[b"u"] is None
    run(store, batch_of(Source.ELIGIBILITY, [(0, Eligibility("u", NOW + 1, ("item-0",)))]), OrderRanker())
    assert sent(store)["fallback"] == "popularity"
    assert names(sent(store)) == list(world.ITEMS[1:6])
    run(store, batch_of(Source.CLICK, [(5, Click("u", NOW + 2, ("home",)))]), OrderRanker())
    assert "fallback" not in sent(store)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_do_not_empty_the_list(value: float) -> None:
    """One user's alone: popularity ranks, the event says so, and it is counted."""

    class Broken(OrderRanker):
        def rank_many(self, representations: Rows) -> Rows:
            scores = super().rank_many(representations)
            scores[0, 1:] = value
            return scores

    store = Store()
    clicks = [(number, Click(user, NOW, ("home",))) for number, user in enumerate("uv")]
    outcome = run(store, batch_of(Source.CLICK, clicks), Broken())
    assert outcome.counts["unusable_scores",] == 1
    assert names(sent(store)) == list(world.ITEMS[:5])
    assert sent(store)["fallback"] == "popularity"
    assert "fallback" not in msgspec.json.decode(store.recommendations[b"v"] or b"")


def test_a_model_of_one_item_and_a_list_longer_than_the_catalogue() -> None:
    """The list holds everything once."""
    config = world.settings(list_length=50)
    store = Store()
    run(store, batch_of(Source.CLICK, [(0, Click("u", NOW, ("home",)))]), OrderRanker(items=("item-4",)), config=config)
    assert names(sent(store)) == ["item-4", "item-0", "item-1", "item-2", "item-3", "item-5"]
    assert "reserve" not in sent(store)
