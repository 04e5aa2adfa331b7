"""A stable picture of the shared space in two dimensions: items on a circle, and users where the model's scores draw them.

A representation is projected in a fixed way: through the model to the scores of all items, and from these to the mean of the items'
places, weighted by the squared scores (RadViz, Hoffman et al. 1997). So users of all modalities lie in one picture, a place can be
read (close to an item: the model expects the user to buy it), and a retrained model moves users but not the picture.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream.core.ranking import Ranker, Rows

MOST_ITEMS: Final = 24
"""Items on the circle, the most popular ones: names of more cannot be read."""
_SWAPS: Final = 1_000
_EVIDENCE: Final = np.float32(3)
_DIGITS: Final = 4
Place = tuple[float, float]


class SpaceMap:
    """The circle of one model's items.

    Attributes:
        items: The items in the order of the circle.
        places: Of each, on the circle of radius 1.
    """

    def __init__(self, ranker: Ranker, former: "SpaceMap | None" = None) -> None:
        """A model that has the items of the `former` map keeps its order."""
        best = np.sort(np.argsort(-ranker.prior, kind="stable")[:MOST_ITEMS])
        names = [ranker.items[position] for position in best]
        if former is not None and set(former.items) == set(names):
            names = list(former.items)
        else:
            names = [names[position] for position in _order(_similarity(ranker)[np.ix_(best, best)])]
        self.items: tuple[str, ...] = tuple(names)
        position_of = {item: position for position, item in enumerate(ranker.items)}
        self._columns = [position_of[item] for item in self.items]
        turns = 2 * math.pi * np.arange(len(self.items)) / max(len(self.items), 1)
        self._circle = np.stack([np.sin(turns), -np.cos(turns)], axis=1)  # from the top, clockwise, y downwards
        self.places = _rounded(self._circle)

    def place(self, scores: Rows) -> list[Place]:
        """The places of users with these scores, (n, items of the model)."""
        pull = np.square(np.nan_to_num(scores[:, self._columns]).astype(np.float64)) + 1e-12
        return _rounded(pull / pull.sum(axis=1, keepdims=True) @ self._circle)


def _rounded(points: NDArray[np.float64]) -> list[Place]:
    return [(x, y) for x, y in np.round(points, _DIGITS).tolist()]


def _similarity(ranker: Ranker) -> NDArray[np.float64]:
    """How alike the model's items respond to each unit of a representation: correlations, (items, items)."""
    units = np.eye(ranker.width, dtype=np.float32) * _EVIDENCE
    responses = np.log(np.clip(np.nan_to_num(ranker.rank_many(units)).astype(np.float64), 1e-6, 1))
    responses -= responses.mean(axis=0)
    norms = np.linalg.norm(responses, axis=0)
    responses /= np.where(norms > 0, norms, 1)
    return responses.T @ responses


def _order(similarity: NDArray[np.float64]) -> list[int]:
    """A circle on which like items are neighbours: nearest neighbour, then 2-opt (Croes 1958)."""
    if not len(similarity):
        return []
    order, left = [0], list(range(1, len(similarity)))
    while left:
        order.append(max(left, key=lambda other: (similarity[order[-1], other], -other)))
        left.remove(order[-1])
    for _ in range(_SWAPS):
        turned = _shorter(order, similarity)
        if turned is None:
            break
        order = turned
    return order


def _shorter(order: Sequence[int], similarity: NDArray[np.float64]) -> list[int] | None:
    """The circle with one stretch reversed so that neighbours are more alike; None if there is none."""
    count = len(order)
    for first in range(1, count - 1):
        for last in range(first + 1, count):
            before, start, end, after = order[first - 1], order[first], order[last], order[(last + 1) % count]
            gain = similarity[before, end] + similarity[start, after] - similarity[before, start] - similarity[end, after]
            if after != before and gain > 1e-9:
                return [*order[:first], *reversed(order[first : last + 1]), *order[last + 1 :]]
    return None
