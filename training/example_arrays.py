"""Examples as arrays, once, so that the loop does no work per example: interactions read flat, and which of them each one has."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.features import FeatureBatch, Features, Featurizer, Places, spans
from stream.core.examples import event_type
from stream.core.interactions import Conversation, Interaction, Modality, Session, readable_interactions
from stream.core.outputs import EventType, TrainingExample


@dataclass(frozen=True)
class Batch:
    """b examples: the inputs of all their interactions, one example after another, how many each has (b,), what is to be learned
    (b, I), and the examples' weights (b,).
    """

    inputs: FeatureBatch
    lengths: Tensor
    labels: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Examples:
    """n examples. `picks` are places in `read`, one example after another; `starts` (n + 1,) into them; `labels` (n, I); `weights`
    (n,); `types` (n,) are the purchase events' types.
    """

    read: Features
    picks: Places
    starts: Places
    labels: Tensor
    weights: Tensor
    types: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Places:
        return np.diff(self.starts)

    def batch(self, rows: Places, device: torch.device | None = None) -> Batch:
        """The chosen examples."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        chosen = self.picks[spans(self.starts[rows], lengths)]
        index = torch.from_numpy(rows)
        labels, weights = self.labels[index], self.weights[index]
        return Batch(
            inputs=self.read.inputs(chosen, device),
            lengths=torch.from_numpy(lengths),
            labels=labels if device is None else labels.to(device),
            weights=weights if device is None else weights.to(device),
        )

    def only(self, modality: Modality) -> "Examples":
        """The examples that have interactions of a modality, with these alone."""
        kept = (self.read.text[self.picks] >= 0) == (modality == "conversation")
        counts = np.add.reduceat(np.append(kept, 0), self.starts[:-1]) if len(self) else np.zeros(0, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return replace(self, picks=self.picks[kept], starts=starts).at(counts.nonzero()[0])

    def of_type(self, kind: EventType) -> "Examples":
        return self.at((self.types == kind).nonzero()[0])

    def singly(self) -> "Examples":
        """Each interaction as an example of its own."""
        owners = np.repeat(np.arange(len(self)), self.lengths)
        index = torch.from_numpy(owners)
        return replace(
            self,
            starts=np.arange(len(self.picks) + 1),
            labels=self.labels[index],
            weights=self.weights[index],
            types=self.types[owners],
        )

    def at(self, rows: Places) -> "Examples":
        """The examples at `rows`, in that order."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        index = torch.from_numpy(rows)
        return replace(
            self,
            picks=self.picks[spans(self.starts[rows], lengths)],
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            labels=self.labels[index],
            weights=self.weights[index],
            types=self.types[rows],
        )


def readable_histories(
    examples: Sequence[TrainingExample], text_model: str | None
) -> tuple[list[TrainingExample], list[list[Interaction]]]:
    """The examples that a model of `text_model` can read, each with what it can read of its history."""
    kept, histories = [], []
    for example in examples:
        history = readable_interactions(example.interactions, text_model)
        if history:
            kept.append(example)
            histories.append(history)
    return kept, histories


def examples_as_arrays(
    examples: Sequence[TrainingExample], histories: Sequence[Sequence[Interaction]], reader: Featurizer, items: Sequence[str]
) -> Examples:
    """Arrays of examples whose readable interactions are `histories` (none empty)."""
    places = {item: place for place, item in enumerate(items)}
    rows, columns = [], []
    for row, example in enumerate(examples):
        for item in example.items:
            if item in places:
                rows.append(row)
                columns.append(places[item])
    labels = torch.zeros(len(examples), len(items))
    labels[rows, columns] = 1
    flat = [interaction for history in histories for interaction in history]
    return Examples(
        read=reader.read(flat),
        picks=np.arange(len(flat)),
        starts=np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64),
        labels=labels,
        weights=torch.ones(len(examples)),
        types=np.array([_type(history) for history in histories], dtype=np.str_),
    )


def newest_text_model(examples: Sequence[TrainingExample]) -> str | None:
    """The text model of the newest conversation: what is encoded now."""
    for example in reversed(examples):
        for interaction in reversed(example.interactions):
            if isinstance(interaction, Conversation):
                return interaction.parts[-1].text_model
    return None


def _type(history: Sequence[Interaction]) -> str:
    """The purchase event's type as far as its history can be read."""
    sessions = sum(isinstance(one, Session) for one in history)
    return event_type(sessions, len(history) - sessions) or ""
