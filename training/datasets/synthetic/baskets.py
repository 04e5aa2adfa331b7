"""Which items are bought together: a distribution over baskets, fitted to the calibration's item, pair and size shares.

It is a maximum-entropy model, exp(sum of item, pair and size terms), over all baskets of up to four items and larger ones within
two groups of items. It is then tilted per event type and period (before and after the drift) to the items' shares there.
"""

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.datasets.synthetic import calibration
from training.datasets.synthetic.random_draws import Cumulative, RandomDraws

Basket = tuple[int, ...]
Floats = NDArray[np.float64]

_HOUSEHOLD: Final = (2, 5, 6, 7, 8, 11, 18, 19)
_VEHICLE: Final = (4, 12, 13, 14, 15, 16, 17)
_ROUNDS: Final = 250
_TILTS: Final = 80
_DRIFT_FROM: Final = 0.88
_DRIFT_TO: Final = 0.92


@dataclass(frozen=True, slots=True)
class Baskets:
    """Baskets (item numbers, ascending) and their cumulative shares: before and after the drift, by event type."""

    baskets: tuple[Basket, ...]
    before: tuple[Cumulative, ...]
    after: tuple[Cumulative, ...]

    def draw(self, draws: RandomDraws, event_type: int, moment: float) -> Basket:
        """Draws the basket of an event of this type (index in `calibration.TYPES`) at `moment`, 0 to 1 of the whole period."""
        period = self.after if draws.happens(drifted(moment)) else self.before
        return self.baskets[draws.pick(period[event_type])]


def drifted(moment: float) -> float:
    """Returns how much of the drift has happened: none before 88 % of the period, all of it after 92 %."""
    return min(max((moment - _DRIFT_FROM) / (_DRIFT_TO - _DRIFT_FROM), 0.0), 1.0)


@cache
def fitted() -> Baskets:
    """Returns the distribution. It does not depend on a seed and takes about a second, once."""
    support = _support()
    held = np.zeros((len(support), calibration.ITEMS))  # (baskets, items)
    for row, basket in enumerate(support):
        held[row, [item - 1 for item in basket]] = 1
    shares = _fit(held)
    before, after = _periods()
    overall = np.array(calibration.ITEM_SHARES)
    by_type = np.array(calibration.ITEM_SHARES_BY_TYPE)
    return Baskets(
        support,
        tuple(_tilted(shares, held, row * before / overall) for row in by_type),
        tuple(_tilted(shares, held, row * after / overall) for row in by_type),
    )


def _support() -> tuple[Basket, ...]:
    everything = range(1, calibration.ITEMS + 1)
    small = [basket for size in (1, 2, 3, 4) for basket in combinations(everything, size)]
    large = [basket for group in (_HOUSEHOLD, _VEHICLE) for size in (5, 6, 7) for basket in combinations(group, size)]
    return tuple(small + large)


def _fit(held: Floats) -> Floats:
    """Returns the shares of the baskets (n,), by damped multiplicative updates of the pair, item and size terms."""
    sizes = held.sum(axis=1).astype(int)
    size_target = np.array((0.0, *calibration.ITEMS_PER_EVENT))
    pair_target = np.diag(np.array(calibration.ITEM_SHARES))
    for first, row in enumerate(calibration.CO_PURCHASES):
        for second, count in enumerate(row, first + 1):
            pair_target[first, second] = pair_target[second, first] = max(count, 0.3) / calibration.PURCHASE_EVENTS
    single_target = np.full(calibration.ITEMS, np.nan)
    for item, share in calibration.SINGLE_BASKETS.items():
        single_target[item - 1] = share
    outer = ~np.eye(calibration.ITEMS, dtype=bool)
    terms = np.log(pair_target)
    terms[outer] -= np.log(
        np.outer(calibration.ITEM_SHARES, calibration.ITEM_SHARES)[outer]
    )  # lifts: the terms start at independence
    step = np.where(outer, 0.1, 0.15)  # a basket of three has seven terms, so larger steps overshoot
    size_terms, single_terms = np.zeros(8), np.zeros(calibration.ITEMS)
    known = ~np.isnan(single_target)
    shares = np.zeros(len(held))
    for _ in range(_ROUNDS):
        inner = ((held @ terms) * held).sum(axis=1) / 2 + held @ np.diag(terms) / 2
        inner[: calibration.ITEMS] += single_terms
        for size in range(1, 8):  # each round meets the sizes exactly
            at = sizes == size
            size_terms[size] = np.log(size_target[size]) - _log_sum(inner[at])
        shares = np.exp(inner + size_terms[sizes])
        pairs = held.T @ (shares[:, None] * held)
        terms += step * np.log(pair_target / np.maximum(pairs, 1e-9))
        single_terms[known] += 0.3 * np.log(single_target[known] / shares[: calibration.ITEMS][known])
    return shares


def _log_sum(values: Floats) -> float:
    top = values.max()
    return float(top + np.log(np.exp(values - top).sum()))


def _periods() -> tuple[Floats, Floats]:
    """Returns the item shares before and after the drift that give the first 90 % and the last 10 % of the events the published
    ones.
    """
    moments = (np.arange(10_000) + 0.5) / 10_000
    progress = np.clip((moments - _DRIFT_FROM) / (_DRIFT_TO - _DRIFT_FROM), 0, 1)
    mixing = [[1 - part.mean(), part.mean()] for part in (progress[:9_000], progress[9_000:])]
    before, after = np.linalg.solve(np.array(mixing), np.array([calibration.ITEM_SHARES_TRAIN, calibration.ITEM_SHARES_TEST]))
    return np.maximum(before, 1e-4), np.maximum(after, 1e-4)


def _tilted(shares: Floats, held: Floats, target: Floats) -> Cumulative:
    """Returns cumulative shares of the baskets, tilted by one factor an item until the items have the target's shares."""
    tilted = shares.copy()
    for _ in range(_TILTS):
        factors = (target / (tilted @ held)) ** 0.5
        tilted *= np.exp(held @ np.log(factors))
        tilted /= tilted.sum()
    sums = np.cumsum(tilted)
    return (*(sums[:-1] / sums[-1]).tolist(), 1.0)
