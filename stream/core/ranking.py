"""The protocol of a ranker, and the post filter with the choice of the top k.

A ranker is a trained model as serving sees it. What it computes with is its own affair (`models/` uses torch); here are rows in,
rows out, as numpy arrays.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stream.core.events import Item, to_milliseconds
from stream.core.interactions import Interaction

Rows = NDArray[np.float32]


class Ranker(Protocol):
    """A model version. Representations are float32 rows of `width`, 0 where the model keeps none (Popular).

    `encode_many` is the reference: `advance_many`, one interaction at a time from `initial`, must give the same top 3 for at least
    99.9 % of users and scores within 1e-3. Interactions come in history order, at most the last 10, and only those that the model's
    text model encoded.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def fingerprint(self) -> str:
        """Names the weights, not the role: the manifest's hash. A cached representation is valid under one fingerprint only."""
        ...

    @property
    def items(self) -> tuple[str, ...]: ...
    @property
    def prior(self) -> Rows:
        """Popularity of each item, (items,), as a share of purchase events."""
        ...

    @property
    def width(self) -> int: ...
    @property
    def text_model(self) -> str | None:
        """The text model's hash; None where conversations are not read."""
        ...

    def initial(self) -> Rows:
        """The representation of no interaction, (width,)."""
        ...

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        """Each row taken one interaction further: (n, width), n interactions -> (n, width)."""
        ...

    def encode_many(self, histories: Sequence[Sequence[Interaction]]) -> Rows:
        """N histories -> (n, width)."""
        ...

    def rank_many(self, representations: Rows) -> Rows:
        """Scores in [0, 1]: (n, width) -> (n, items)."""
        ...


class Catalogue:
    """The items that exist, in order of their ids. Immutable: a follower of the topic makes a new one from each change."""

    def __init__(self, items: Iterable[Item] = ()) -> None:
        self.items: Mapping[str, Item] = {item.item_id: item for item in sorted(items, key=lambda item: item.item_id)}
        self._offered: list[tuple[str, int, int]] = [
            (
                item.item_id,
                0 if item.offered_from is None else to_milliseconds(item.offered_from),
                2**63 if item.offered_until is None else to_milliseconds(item.offered_until),
            )
            for item in self.items.values()
        ]

    def offered_at(self, moment_ms: int) -> list[str]:
        """The items on offer at a moment, in catalogue order."""
        return [item for item, start, end in self._offered if start <= moment_ms < end]

    def is_repeatable(self, item: str) -> bool:
        known = self.items.get(item)
        return known is not None and known.repeatable

    def blocked(self, owned: Iterable[str], excluded: Iterable[str]) -> set[str]:
        """The items that one user may not be offered: not eligible, or owned and not repeatable."""
        return {*excluded, *(item for item in owned if not self.is_repeatable(item))}

    def changes_between(self, start_ms: int, end_ms: int) -> bool:
        """Whether an item's offer begins or ends after `start_ms` and not after `end_ms`."""
        return any(start_ms < moment <= end_ms for _, start, end in self._offered for moment in (start, end))


class PostFilter:
    """The choice of the top k of a ranker's items, for one catalogue at one moment. An empty catalogue withdraws nothing."""

    def __init__(self, items: Sequence[str], catalogue: Catalogue, moment_ms: int) -> None:
        self.items = items
        self._places = {item: place for place, item in enumerate(items)}
        offered = set(catalogue.offered_at(moment_ms))
        self._withdrawn = [place for item, place in self._places.items() if catalogue.items and item not in offered]

    def top(self, scores: Rows, blocked: Sequence[Iterable[str]], k: int) -> list[list[int]]:
        """Per row of scores (n, items) the places of the best k that may be offered, ties in the items' order."""
        scores = scores.copy()
        scores[:, self._withdrawn] = -np.inf
        places = self._places
        for row, items in enumerate(blocked):
            for item in items:
                if item in places:
                    scores[row, places[item]] = -np.inf
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        allowed = np.isfinite(np.take_along_axis(scores, order, axis=1)).sum(axis=1)
        return [row[:count] for row, count in zip(order.tolist(), allowed.tolist(), strict=True)]
