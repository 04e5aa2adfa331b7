"""Examples as tensors, once, so that the loop does no work per example: flat tags, sentence vectors and labels with offsets into
them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.vocabulary import Vocabulary
from stream.core.interactions import Interaction, Session
from stream.core.outputs import TrainingExample


@dataclass(frozen=True)
class Examples:
    """n examples with N interactions, in order. `starts` (n + 1,) into the interactions; `tag_starts` (N + 1,) into `tags`;
    `text` (N,) is the row in `texts` (m, width), -1 for sessions; `labels` (n, items); `weights` (n,).
    """

    starts: NDArray[np.int64]
    tags: NDArray[np.int64]
    tag_starts: NDArray[np.int64]
    text: NDArray[np.int64]
    texts: Tensor
    labels: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    def batch(self, rows: NDArray[np.int64]) -> "BatchTensors":
        """The chosen examples."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        chosen = spans(self.starts[rows], lengths)
        tag_lengths = self.tag_starts[chosen + 1] - self.tag_starts[chosen]
        text = self.text[chosen]
        is_text = text >= 0
        return BatchTensors(
            tags=torch.from_numpy(self.tags[spans(self.tag_starts[chosen], tag_lengths)]),
            offsets=torch.from_numpy(np.concatenate([[0], np.cumsum(tag_lengths)])),
            texts=self.texts[torch.from_numpy(text[is_text])],
            is_text=torch.from_numpy(is_text),
            lengths=torch.from_numpy(lengths),
            labels=self.labels[torch.from_numpy(rows)],
            weights=self.weights[torch.from_numpy(rows)],
        )


@dataclass(frozen=True)
class BatchTensors:
    """A batch of b examples: the inputs of `latents` over all their interactions, and how many each has (b,)."""

    tags: Tensor
    offsets: Tensor
    texts: Tensor
    is_text: Tensor
    lengths: Tensor
    labels: Tensor
    weights: Tensor


def spans(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The places start, start + 1 ... of each span, one after another.

    >>> spans(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    places: NDArray[np.int64] = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return places


def tensors_of(
    examples: Sequence[TrainingExample],
    histories: Sequence[Sequence[Interaction]],
    vocabulary: Vocabulary,
    items: Sequence[str],
    width: int,
    rare_weight: float,
) -> Examples:
    """Tensors of examples whose readable interactions are `histories` (none empty).

    `rare_weight` is the weight of examples with conversations relative to the others (paper, section 5: sample weights for the
    rarer modality).
    """
    places = {item: place for place, item in enumerate(items)}
    labels = torch.zeros(len(examples), len(items))
    for row, example in enumerate(examples):
        for item in example.items:
            if item in places:
                labels[row, places[item]] = 1
    flat = [interaction for history in histories for interaction in history]
    bags = [vocabulary.places(one.tags) if isinstance(one, Session) else [] for one in flat]
    vectors = [one.vector() for one in flat if not isinstance(one, Session)]
    is_text = np.array([not isinstance(one, Session) for one in flat], dtype=bool)
    weights = torch.tensor([1.0 if example.type == "session" else rare_weight for example in examples])
    return Examples(
        starts=np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64),
        tags=np.array([place for bag in bags for place in bag], dtype=np.int64),
        tag_starts=np.concatenate([[0], np.cumsum([len(bag) for bag in bags])]).astype(np.int64),
        text=np.where(is_text, np.cumsum(is_text) - 1, -1),
        texts=torch.from_numpy(np.stack(vectors)) if vectors else torch.zeros(0, width),
        labels=labels,
        weights=weights / weights.mean(),
    )
