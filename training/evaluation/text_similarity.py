"""The baseline for items without sales: how alike an item's text and the user's words are, by their vectors alone.

Nothing is trained: an item's score is the cosine of its vector and the sum of the vectors of the user's tags and sentences.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from models.features import spans
from stream.core.interactions import Conversation, Interaction
from stream.core.ranking import Rows
from training.text_vectors import TextVectors

NAME = "text similarity"


@dataclass(frozen=True)
class TextSimilarity:
    """A `stream.core.ranking.Ranker`; a representation is the sum of the normalised vectors, (width,)."""

    items: tuple[str, ...]
    texts: TextVectors
    width: int
    name: str = NAME
    version: str = "0"
    fingerprint: str = "untrained"
    reads_sessions: bool = True
    _tags: dict[str, Rows] = field(default_factory=dict, repr=False, compare=False)

    @property
    def text_model(self) -> str:
        return self.texts.text_model

    @property
    def prior(self) -> Rows:
        return np.zeros(len(self.items), dtype=np.float32)

    def initial(self) -> Rows:
        return np.zeros(self.width, dtype=np.float32)

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        return representations + self._vectors(interactions)

    def encode_many(self, histories: Sequence[Sequence[Interaction]]) -> Rows:
        flat = self._vectors([one for history in histories for one in history])
        lengths = np.array([len(history) for history in histories])
        starts = np.cumsum(lengths) - lengths
        return np.stack([flat[spans(starts[row : row + 1], lengths[row : row + 1])].sum(axis=0) for row in range(len(lengths))])

    def rank_many(self, representations: Rows) -> Rows:
        nothing = np.zeros(self.width, dtype=np.float32)
        items = _normalised(np.stack([self.texts.items.get(item, nothing) for item in self.items]))
        scores: Rows = (_normalised(representations) @ items.T + np.float32(1)) / np.float32(2)
        return scores

    def _vectors(self, interactions: Sequence[Interaction]) -> Rows:
        rows = np.zeros((len(interactions), self.width), dtype=np.float32)
        for row, interaction in enumerate(interactions):
            rows[row] = self._vector(interaction)
        return rows

    def _vector(self, interaction: Interaction) -> Rows:
        if isinstance(interaction, Conversation):
            return _normalised(interaction.vector()) * np.float32(interaction.sentences)
        unknown = [tag for tag in interaction.tags if tag not in self._tags]
        if unknown:
            self._tags.update(zip(unknown, _normalised(self.texts.encode(unknown)), strict=True))
        total = self.initial()
        for tag in interaction.tags:
            total += self._tags[tag]
        return total


def _normalised(vectors: Rows) -> Rows:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalised: Rows = vectors / np.maximum(lengths, 1e-9, dtype=np.float32)
    return normalised
