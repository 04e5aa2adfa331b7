"""The lives of synthetic users: what each has in mind, in which interactions it shows, and what he buys.

Planted, so that a model can find it: an interaction tells of the item that the user thinks of, imperfectly and differently in each
modality (`sessions`, `calls`); an intention changes, so the last interactions tell more than the first; items are bought together.
Nothing here reads a list: the users do not react to recommendations. Content and times are made elsewhere, from these lives.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from training.datasets.synthetic import calibration as facts
from training.datasets.synthetic.baskets import Basket, Baskets, fitted
from training.datasets.synthetic.catalogue import CATALOGUE, PAGES, REPEATABLE
from training.datasets.synthetic.chance import Chance
from training.datasets.synthetic.patterns import BOTH, draw_pattern, event_count, first_type, next_type

CHANGED: Final = 0.5  # of the interactions before the last are of the present intention with half this odds each step back
MISLEADING: Final = 0.05  # of purchases follow a last interaction about something else
IDLE: Final = 0.12  # of interactions are about nothing that is sold
SOLD_IN_CALL: Final = 0.35  # of purchases right after a call were made in it
EXCLUDED: Final = 0.15  # of users may not be offered one to three items
_SHARE: Final = 0.44  # tries to share, so that 40 % of a user's consecutive events do
_TRIES: Final = 10  # patterns among which the one that shares most is taken
_BUY_AGAIN: Final = 0.06  # of later events aim at an item bought before; the rest of the repeats come by themselves
_SHORTER: Final = 0.2  # of first events take the shorter of two patterns: later ones, which share, are longer than the mean
_NEAR: Final = 0.06  # of the whole period: mean distance of events that share interactions


@dataclass(slots=True)
class Shown:
    """One interaction: what the user had in mind (None: nothing that is sold) and what was sold to him in it. The answer key."""

    modality: str  # S or C, as in a pattern
    focus: int | None
    present: bool  # of the intention that led to the purchase
    sold: Basket = ()


@dataclass(frozen=True, slots=True)
class Buying:
    """One purchase event. `history`: places in the life's interactions, the oldest first. `moment`: 0 to 1 of the whole period."""

    event_type: int
    basket: Basket
    history: tuple[int, ...]
    fresh: int  # how many of the history are new since the last event
    moment: float


@dataclass(slots=True)
class Life:
    """A user's interactions in order, his purchase events in order, and the items that he may not be offered."""

    interactions: list[Shown] = field(default_factory=list)
    buyings: list[Buying] = field(default_factory=list)
    excluded: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class World:
    """What is the same for all users: baskets, and the pages whose first item shows as price before cover."""

    baskets: Baskets
    flipped: frozenset[str]


def make_world(rng: np.random.Generator) -> World:
    """A world in which half the pages are flipped, by chance."""
    return World(fitted(), frozenset(page for page, coin in zip(PAGES, rng.random(len(PAGES)), strict=True) if coin < 0.5))


def draw_lives(world: World, chance: Chance, purchase_events: int) -> Iterator[Life]:
    """Lives spread evenly over the whole period, with so many purchase events together."""
    left = purchase_events
    while left > 0:
        moments = sorted(chance.uniform() for _ in range(event_count(chance)))[:left]
        left -= len(moments)
        yield draw_life(world, chance, moments)


def draw_life(world: World, chance: Chance, moments: Sequence[float]) -> Life:
    """The life of a user with a purchase event at about each of `moments` (0 to 1, ascending)."""
    life = Life()
    for moment in moments:
        _live_on(world, chance, life, moment)
    bought = {item for buying in life.buyings for item in buying.basket}
    if chance.happens(EXCLUDED):
        others = [item.number for item in CATALOGUE if item.number not in bought]
        life.excluded = frozenset(chance.one_of(others) for _ in range(1 + chance.below(3)))
    return life


def _live_on(world: World, chance: Chance, life: Life, moment: float) -> None:
    """Adds one purchase event and the interactions before it."""
    last = life.buyings[-1] if life.buyings else None
    event_type = first_type(chance, moment) if last is None else next_type(chance, last.event_type)
    pattern, kept = draw_pattern(chance, event_type), 0
    if last is None and event_type != BOTH and chance.happens(_SHORTER):
        pattern = min(pattern, draw_pattern(chance, event_type), key=len)
    if last is not None and chance.happens(_SHARE):
        pattern, kept = _continued(chance, life, last, event_type, pattern)
    if last is not None:
        moment = min(last.moment + chance.exponential(_NEAR), 1 - 1e-9) if kept else max(moment, last.moment)
    owned = {item for buying in life.buyings for item in buying.basket}
    basket = _draw_basket(world, chance, event_type, moment, owned)
    first = len(life.interactions)
    life.interactions += _shown(world, chance, pattern[kept:], event_type, moment, basket)
    history = (*(last.history[-kept:] if last is not None and kept else ()), *range(first, len(life.interactions)))
    life.buyings.append(Buying(event_type, basket, history, len(pattern) - kept, moment))


def _continued(chance: Chance, life: Life, last: Buying, event_type: int, pattern: str) -> tuple[str, int]:
    """A pattern that begins as the last event's ends, and by how many interactions: the longest of a few; 0 where none is found."""
    before = "".join(life.interactions[place].modality for place in last.history)
    found, most = pattern, 0
    for _ in range(_TRIES):
        for kept in range(min(len(before), len(pattern) - 1), most, -1):
            if before.endswith(pattern[:kept]):
                found, most = pattern, kept
                break
        pattern = draw_pattern(chance, event_type)
    return found, most


def _draw_basket(world: World, chance: Chance, event_type: int, moment: float, owned: set[int]) -> Basket:
    """A basket that the user can buy: of what he owns, only what is repeatable."""
    again = sorted(owned & REPEATABLE)
    aim = chance.one_of(again) if again and chance.happens(_BUY_AGAIN) else None
    for _ in range(200):
        basket = world.baskets.draw(chance, event_type, moment)
        if (aim is None or aim in basket) and not any(item in owned and item not in REPEATABLE for item in basket):
            return basket
    return (aim or CATALOGUE[17].number,)


def _shown(world: World, chance: Chance, pattern: str, event_type: int, moment: float, basket: Basket) -> list[Shown]:
    """New interactions before a purchase: first of an old intention, then of the one that leads to it."""
    present = 1 + chance.more(CHANGED, facts.ITEMS)
    other = world.baskets.draw(chance, event_type, moment)
    misled = chance.happens(MISLEADING)
    shown = []
    for left in range(len(pattern), 0, -1):
        now = left <= present and not (misled and left == 1)
        focus = None if chance.happens(IDLE) else chance.one_of(basket if now else other)
        shown.append(Shown(pattern[-left], focus, now))
    if shown[-1].modality == "C" and chance.happens(SOLD_IN_CALL):
        shown[-1] = Shown("C", chance.one_of(basket), present=True, sold=basket)
    return shown
