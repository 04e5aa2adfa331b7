"""Scalar draws from a numpy Generator, fast enough for millions of small decisions: uniforms are drawn in blocks."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import log
from typing import Final, TypeVar

import numpy as np

_BLOCK: Final = 8_192

Thing = TypeVar("Thing")
Cumulative = tuple[float, ...]


def cumulative(weights: Sequence[float]) -> Cumulative:
    """Running shares of non-negative weights, the last 1, for `Chance.pick`.

    >>> cumulative([1, 3])
    (0.25, 1.0)
    """
    total = float(sum(weights))
    sums = [float(value) / total for value in accumulate(weights)]
    return (*sums[:-1], 1.0)


class Chance:
    """Draws for one world. Each draw takes the next uniform of `rng`, so the same seed and calls give the same results."""

    __slots__ = ("_block", "_rng")

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: list[float] = []

    def uniform(self) -> float:
        """In [0, 1)."""
        if not self._block:
            self._block = self._rng.random(_BLOCK).tolist()
        return self._block.pop()

    def happens(self, probability: float) -> bool:
        return self.uniform() < probability

    def below(self, bound: int) -> int:
        """An integer in 0..bound-1."""
        return int(self.uniform() * bound)

    def one_of(self, things: Sequence[Thing]) -> Thing:
        return things[int(self.uniform() * len(things))]

    def pick(self, shares: Cumulative) -> int:
        """A place by cumulative shares."""
        return bisect_right(shares, self.uniform())

    def exponential(self, mean: float) -> float:
        return -mean * log(1.0 - self.uniform())

    def more(self, probability: float, most: int) -> int:
        """How often in a row something of this probability happens, at most `most` times."""
        count = 0
        while count < most and self.uniform() < probability:
            count += 1
        return count
