"""Scalar random draws from a numpy Generator, fast enough for millions of small decisions: uniforms are drawn in blocks."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from math import log
from typing import Final, TypeVar

import numpy as np

_BLOCK: Final = 8_192

Choice = TypeVar("Choice")
Cumulative = tuple[float, ...]


def cumulative(weights: Sequence[float]) -> Cumulative:
    """Returns cumulative shares of non-negative weights for `RandomDraws.pick`; the last is 1.

    >>> cumulative([1, 3])
    (0.25, 1.0)
    """
    total = float(sum(weights))
    sums = [float(value) / total for value in accumulate(weights)]
    return (*sums[:-1], 1.0)


class RandomDraws:
    """The random draws of one world. Each takes the next uniform of `rng`, so the same seed and calls give the same results."""

    __slots__ = ("_block", "_rng")

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: list[float] = []

    def uniform(self) -> float:
        """Returns a number in [0, 1)."""
        if not self._block:
            self._block = self._rng.random(_BLOCK).tolist()
        return self._block.pop()

    def happens(self, probability: float) -> bool:
        return self.uniform() < probability

    def below(self, bound: int) -> int:
        """Returns an integer in 0..bound-1."""
        return int(self.uniform() * bound)

    def one_of(self, choices: Sequence[Choice]) -> Choice:
        return choices[int(self.uniform() * len(choices))]

    def pick(self, shares: Cumulative) -> int:
        """Returns an index by cumulative shares."""
        return bisect_right(shares, self.uniform())

    def exponential(self, mean: float) -> float:
        return -mean * log(1.0 - self.uniform())

    def run_length(self, probability: float, most: int) -> int:
        """Returns how often in a row an event of this probability happens, at most `most` times."""
        count = 0
        while count < most and self.uniform() < probability:
            count += 1
        return count
