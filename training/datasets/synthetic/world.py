"""The lives of synthetic users: what a user has in mind, which interactions show it, and what the user buys.

A signal is planted for models to find: an interaction depends on the item that the user has in mind, imperfectly and differently in
each modality (`sessions`, `calls`); intentions change, so late interactions are more informative than early ones; items are bought
together, and in some worlds what a user owns decides what he buys next. Users do not react to recommendations. Other modules turn
these lives into content and times.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from training.datasets.synthetic import calibration
from training.datasets.synthetic.baskets import Basket, Baskets, fitted
from training.datasets.synthetic.catalogue import CATALOGUE, PAGES, REPEATABLE
from training.datasets.synthetic.patterns import BOTH, draw_pattern, event_count, first_type, next_type
from training.datasets.synthetic.random_draws import RandomDraws

CHANGED: Final = 0.5  # odds that one more interaction, going back from the last, belongs to the present intention
MISLEADING: Final = 0.05  # share of purchases that follow an interaction about something else
IDLE: Final = 0.12  # share of interactions that are about no item
SOLD_IN_CALL: Final = 0.35  # share of purchases after a call that are made in it
EXCLUDED: Final = 0.15  # share of users with one to three excluded items
_SHARE: Final = 0.44  # tries to share interactions, so that 40 % of a user's consecutive events do
_TRIES: Final = 10  # patterns, of which the one that shares most is used
_BUY_AGAIN: Final = 0.06  # share of later events that target an item bought before; other repeats occur by chance
_SHORTER: Final = 0.2  # share of first events with the shorter of two patterns: later ones, which share, are longer
_NEAR: Final = 0.06  # mean interval between events that share interactions, as a share of the whole period


@dataclass(slots=True)
class PlannedInteraction:
    """One interaction with its answer key.

    Attributes:
        modality: S or C, as in a pattern.
        focus: the item that the user had in mind; None: no item.
        present: whether that is the intention that led to the purchase.
        sold: the items sold in it.
    """

    modality: str
    focus: int | None
    present: bool
    sold: Basket = ()


@dataclass(frozen=True, slots=True)
class PlannedPurchase:
    """One purchase event.

    Attributes:
        event_type: index in `calibration.TYPES`.
        basket: the items bought.
        history: indices of the life's interactions, the oldest first.
        fresh: how many of the history are new since the last event.
        moment: 0 to 1 of the whole period.
    """

    event_type: int
    basket: Basket
    history: tuple[int, ...]
    fresh: int
    moment: float


@dataclass(slots=True)
class Life:
    """A user's interactions and purchase events, each in order, and the items that may not be offered to the user."""

    interactions: list[PlannedInteraction] = field(default_factory=list)
    purchases: list[PlannedPurchase] = field(default_factory=list)
    excluded: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class World:
    """What all users have in common.

    Attributes:
        baskets: what is bought together.
        flipped: the pages whose first item is shown by a click on the price before the cover.
        follow_ups: share of a user's later purchases that are decided by what he owns.
        successors: item -> the item that these purchases contain of somebody who owns it.
    """

    baskets: Baskets
    flipped: frozenset[str]
    follow_ups: float = 0.0
    successors: Mapping[int, int] = field(default_factory=dict)


def make_world(rng: np.random.Generator, follow_ups: float = 0.0) -> World:
    """Returns a world in which a random half of the pages is flipped. Successors are a random cycle of all items."""
    flipped = frozenset(page for page, coin in zip(PAGES, rng.random(len(PAGES)), strict=True) if coin < 0.5)
    if not follow_ups:  # draws nothing more, so that a seed gives the same world as before there were follow-ups
        return World(fitted(), flipped)
    cycle = rng.permutation(np.arange(1, calibration.ITEMS + 1)).tolist()
    return World(fitted(), flipped, follow_ups, dict(zip(cycle, [*cycle[1:], cycle[0]], strict=True)))


def draw_lives(world: World, draws: RandomDraws, purchase_events: int) -> Iterator[Life]:
    """Yields lives spread evenly over the whole period, with so many purchase events in total."""
    remaining = purchase_events
    while remaining > 0:
        moments = sorted(draws.uniform() for _ in range(event_count(draws)))[:remaining]
        remaining -= len(moments)
        yield draw_life(world, draws, moments)


def draw_life(world: World, draws: RandomDraws, moments: Sequence[float]) -> Life:
    """Returns the life of a user with a purchase event at about each of `moments` (0 to 1, ascending)."""
    life = Life()
    for moment in moments:
        _extend_life(world, draws, life, moment)
    bought = {item for purchase in life.purchases for item in purchase.basket}
    if draws.happens(EXCLUDED):
        others = [item.number for item in CATALOGUE if item.number not in bought]
        life.excluded = frozenset(draws.one_of(others) for _ in range(1 + draws.below(3)))
    return life


def _extend_life(world: World, draws: RandomDraws, life: Life, moment: float) -> None:
    """Adds one purchase event and the interactions before it."""
    last = life.purchases[-1] if life.purchases else None
    event_type = first_type(draws, moment) if last is None else next_type(draws, last.event_type)
    pattern, kept = draw_pattern(draws, event_type), 0
    if last is None and event_type != BOTH and draws.happens(_SHORTER):
        pattern = min(pattern, draw_pattern(draws, event_type), key=len)
    if last is not None and draws.happens(_SHARE):
        pattern, kept = _continued(draws, life, last, event_type, pattern)
    if last is not None:
        moment = min(last.moment + draws.exponential(_NEAR), 1 - 1e-9) if kept else max(moment, last.moment)
    owned = {item for purchase in life.purchases for item in purchase.basket}
    basket = _draw_basket(world, draws, event_type, moment, owned)
    first = len(life.interactions)
    life.interactions += _plan_interactions(world, draws, pattern[kept:], event_type, moment, basket)
    history = (*(last.history[-kept:] if last is not None and kept else ()), *range(first, len(life.interactions)))
    life.purchases.append(PlannedPurchase(event_type, basket, history, len(pattern) - kept, moment))


def _continued(draws: RandomDraws, life: Life, last: PlannedPurchase, event_type: int, pattern: str) -> tuple[str, int]:
    """Returns a pattern that begins as the last event's ends, and the number of shared interactions: the best of a few draws."""
    before = "".join(life.interactions[index].modality for index in last.history)
    best, most = pattern, 0
    for _ in range(_TRIES):
        for kept in range(min(len(before), len(pattern) - 1), most, -1):
            if before.endswith(pattern[:kept]):
                best, most = pattern, kept
                break
        pattern = draw_pattern(draws, event_type)
    return best, most


def _draw_basket(world: World, draws: RandomDraws, event_type: int, moment: float, owned: set[int]) -> Basket:
    """Returns a basket that the user can buy: of the items owned, only repeatable ones."""
    repeatable = sorted(owned & REPEATABLE)
    target = draws.one_of(repeatable) if repeatable and draws.happens(_BUY_AGAIN) else None
    following = sorted({world.successors[item] for item in owned} - (owned - REPEATABLE)) if world.follow_ups else []
    if following and draws.happens(world.follow_ups):
        target = draws.one_of(following)
    for _ in range(200):
        basket = world.baskets.draw(draws, event_type, moment)
        if (target is None or target in basket) and not any(item in owned and item not in REPEATABLE for item in basket):
            return basket
    return (target or CATALOGUE[17].number,)


def _plan_interactions(
    world: World, draws: RandomDraws, pattern: str, event_type: int, moment: float, basket: Basket
) -> list[PlannedInteraction]:
    """Returns new interactions before a purchase: first of an old intention, then of the one that leads to it."""
    present = 1 + draws.run_length(CHANGED, calibration.ITEMS)
    other = world.baskets.draw(draws, event_type, moment)
    misleading = draws.happens(MISLEADING)
    interactions = []
    for remaining in range(len(pattern), 0, -1):
        is_present = remaining <= present and not (misleading and remaining == 1)
        focus = None if draws.happens(IDLE) else draws.one_of(basket if is_present else other)
        interactions.append(PlannedInteraction(pattern[-remaining], focus, is_present))
    if interactions[-1].modality == "C" and draws.happens(SOLD_IN_CALL):
        interactions[-1] = PlannedInteraction("C", draws.one_of(basket), present=True, sold=basket)
    return interactions
