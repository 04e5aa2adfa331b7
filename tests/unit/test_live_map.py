"""The map of the shared space: stable, readable, and the same for all modalities."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from stream.api.live_map import MOST_ITEMS, SpaceMap, _order
from stream.core.ranking import Rows
from tests import world


def scores(**strong: float) -> Rows:
    """One user's scores; 0.01 where nothing is said."""
    row = np.full((1, len(world.ITEMS)), 0.01, dtype=np.float32)
    for item, score in strong.items():
        row[0, world.ITEMS.index(item.replace("_", "-"))] = score
    return row


def test_a_user_lies_close_to_the_item_that_the_model_expects() -> None:
    """With one strong score at that item, with two between both, and without any at the centre."""
    space = SpaceMap(world.OrderRanker())
    places = dict(zip(space.items, space.places, strict=True))
    assert space.place(scores(item_2=0.9))[0] == pytest.approx(places["item-2"], abs=0.01)
    between = np.mean([places["item-2"], places["item-3"]], axis=0)
    assert space.place(scores(item_2=0.9, item_3=0.9))[0] == pytest.approx(between, abs=0.01)
    assert space.place(scores())[0] == pytest.approx((0, 0), abs=0.01)


def test_the_map_of_a_model_is_the_same_each_time_and_holds_each_item_once() -> None:
    """Also after a restart: nothing is drawn by chance."""
    ranker = world.OrderRanker()
    one, other = SpaceMap(ranker), SpaceMap(ranker)
    assert (one.items, one.places) == (other.items, other.places)
    assert sorted(one.items) == sorted(world.ITEMS)
    assert np.allclose(np.linalg.norm(np.array(one.places), axis=1), 1, atol=1e-3)


def test_a_retrained_model_with_the_same_items_keeps_the_circle() -> None:
    """Its own order would be another; with other items it draws its own."""
    first, retrained = world.OrderRanker(), world.OrderRanker(version="2", seed=2)
    assert SpaceMap(retrained).items != SpaceMap(first).items
    assert SpaceMap(retrained, SpaceMap(first)).items == SpaceMap(first).items
    with_others = world.OrderRanker(items=(*world.ITEMS, "item-9"))
    assert "item-9" in SpaceMap(with_others, SpaceMap(first)).items


def test_items_that_the_model_responds_to_alike_are_neighbours() -> None:
    """Twins, which have the same scores whatever the representation, stand side by side."""
    ranker = world.OrderRanker()
    ranker._head[:, 4] = ranker._head[:, 1]
    items = SpaceMap(ranker).items
    assert (items.index("item-1") - items.index("item-4")) % len(items) in {1, len(items) - 1}


def test_no_stretch_of_the_circle_is_better_the_other_way_round() -> None:
    """Neighbours are as alike as reversing any stretch can make them."""
    for seed in range(5):
        similarity = np.random.default_rng(seed).normal(size=(9, 9))
        similarity += similarity.T
        order = _order(similarity)

        def alike(circle: list[int], similarity: NDArray[np.float64] = similarity) -> float:
            return float(sum(similarity[one, other] for one, other in zip(circle, [*circle[1:], circle[0]], strict=True)))

        assert sorted(order) == list(range(9))
        for first, last in itertools.combinations(range(1, 10), 2):
            assert alike([*order[:first], *reversed(order[first:last]), *order[last:]]) <= alike(order) + 1e-6


def test_of_a_large_catalogue_the_most_popular_items_are_shown() -> None:
    """As many as can be read; scores that are no numbers pull nowhere."""
    ranker = world.OrderRanker(items=tuple(f"item-{number}" for number in range(100)))
    space = SpaceMap(ranker)
    assert set(space.items) == {f"item-{number}" for number in range(MOST_ITEMS)}  # the prior falls
    assert space.place(np.full((1, 100), np.nan, dtype=np.float32))[0] == pytest.approx((0, 0), abs=0.01)


def test_a_single_item_has_a_map() -> None:
    """Its users lie at it."""
    space = SpaceMap(world.OrderRanker(items=("only",)))
    assert space.items == ("only",)
    assert space.place(np.full((1, 1), 0.4, dtype=np.float32)) == space.places
