"""Popular ranks items by their share of purchase events, alike for every user.

It is the first version that a trainer publishes, and the baseline that every other model must beat.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from stream.core.interactions import Interaction
from stream.core.ranking import Rows


@dataclass(frozen=True)
class Popular:
    """A `stream.core.ranking.Ranker` without a representation (width 0)."""

    version: str
    fingerprint: str
    items: tuple[str, ...]
    prior: Rows
    name: str = "popular"
    width: int = 0
    text_model: str | None = None
    reads_sessions: bool = False

    def initial(self) -> Rows:
        return np.zeros(0, dtype=np.float32)

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        del interactions
        return representations

    def encode_many(self, histories: Sequence[Sequence[Interaction]]) -> Rows:
        return np.zeros((len(histories), 0), dtype=np.float32)

    def rank_many(self, representations: Rows) -> Rows:
        return np.tile(self.prior, (len(representations), 1))


def prior_of(labels: Iterable[Sequence[str]], items: Sequence[str]) -> Rows:
    """Returns each item's share of purchase events, (items,); an item counts once per event."""
    indices = {item: index for index, item in enumerate(items)}
    counts = np.zeros(len(items), dtype=np.float64)
    events = 0
    for bought in labels:
        events += 1
        for item in set(bought):
            if item in indices:
                counts[indices[item]] += 1
    return (counts / max(events, 1)).astype(np.float32)
