"""Training examples as arrays, so that the training loop does no Python work per example."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.features import Bag, FeatureBatch, Features, Featurizer, spans
from models.holdings import HoldingsBags, HoldingsReader
from models.vocabulary import Indices
from stream.core.examples import event_type, holdings_of
from stream.core.interactions import Conversation, Interaction, Modality, Session, readable_interactions
from stream.core.outputs import EventType, TrainingExample


@dataclass(frozen=True)
class ExampleBatch:
    """b examples as tensors.

    Attributes:
        inputs: all their interactions, one example after another.
        lengths: (b,) how many interactions each has; on the CPU.
        labels: (b, I) multi-hot, or whatever the stage's loss takes.
        weights: (b,)
        holdings: what the users owned and were not eligible for.
        choices: (b, I) 1 where an item counts for networks that read holdings.
    """

    inputs: FeatureBatch
    lengths: Tensor
    labels: Tensor
    weights: Tensor
    holdings: Bag
    choices: Tensor


@dataclass(frozen=True)
class Examples:
    """n examples as arrays.

    Attributes:
        features: of all interactions, shared by every selection of the examples.
        indices: into `features`, one example after another.
        starts: (n + 1,) where each example's indices begin, and the end.
        labels: (n, I)
        weights: (n,)
        types: (n,) the purchase events' types.
        holdings: what the users owned and were not eligible for.
        choices: (n, I) 1 where an item could be offered, in examples of which some such item was bought and another was not. What
            could not be offered was not bought for that reason alone, and a user with one item left had no choice: a network that
            reads holdings would learn to infer the label from them.
    """

    features: Features
    indices: Indices
    starts: Indices
    labels: Tensor
    weights: Tensor
    types: NDArray[np.str_]
    holdings: HoldingsBags
    choices: Tensor

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Indices:
        return np.diff(self.starts)

    def batch(self, rows: Indices, device: torch.device | None = None) -> ExampleBatch:
        """Returns the examples at `rows` as tensors."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        chosen = self.indices[spans(self.starts[rows], lengths)]
        index = torch.from_numpy(rows)
        labels, weights, choices = (
            per_example if device is None else per_example.to(device)
            for per_example in (self.labels[index], self.weights[index], self.choices[index])
        )
        return ExampleBatch(
            inputs=self.features.batch(chosen, device),
            lengths=torch.from_numpy(lengths),
            labels=labels,
            weights=weights,
            holdings=self.holdings.select(rows).tensors(device),
            choices=choices,
        )

    def of_modality(self, modality: Modality) -> "Examples":
        """Returns the examples that have interactions of a modality, reduced to these."""
        is_kept = (self.features.text_index[self.indices] >= 0) == (modality == "conversation")
        counts = np.add.reduceat(np.append(is_kept, 0), self.starts[:-1]) if len(self) else np.zeros(0, dtype=np.int64)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return replace(self, indices=self.indices[is_kept], starts=starts).select(counts.nonzero()[0])

    def of_type(self, kind: EventType) -> "Examples":
        """Returns the examples of purchase events of a type."""
        return self.select((self.types == kind).nonzero()[0])

    def as_single_interactions(self) -> "Examples":
        """Returns each interaction as a separate example, with the labels of its event."""
        owners = np.repeat(np.arange(len(self)), self.lengths)
        index = torch.from_numpy(owners)
        return replace(
            self,
            starts=np.arange(len(self.indices) + 1),
            labels=self.labels[index],
            weights=self.weights[index],
            types=self.types[owners],
            holdings=self.holdings.select(owners),
            choices=self.choices[index],
        )

    def select(self, rows: Indices) -> "Examples":
        """Returns the examples at `rows`, in that order."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        index = torch.from_numpy(rows)
        return replace(
            self,
            indices=self.indices[spans(self.starts[rows], lengths)],
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            labels=self.labels[index],
            weights=self.weights[index],
            types=self.types[rows],
            holdings=self.holdings.select(rows),
            choices=self.choices[index],
        )


def readable_histories(
    examples: Sequence[TrainingExample], text_model: str | None, *, sessions: bool = True
) -> tuple[list[TrainingExample], list[list[Interaction]]]:
    """Returns the examples of which a model reads something, and what it reads of each (see `readable_interactions`)."""
    readable, histories = [], []
    for example in examples:
        history = readable_interactions(example.interactions, text_model, sessions=sessions)
        if history:
            readable.append(example)
            histories.append(history)
    return readable, histories


def examples_as_arrays(
    examples: Sequence[TrainingExample], histories: Sequence[Sequence[Interaction]], featurizer: Featurizer, items: Sequence[str]
) -> Examples:
    """Returns examples as arrays; `histories` are their readable interactions, none of them empty."""
    columns = {item: column for column, item in enumerate(items)}
    labels = _multi_hot([example.items for example in examples], columns)
    offered = 1 - _multi_hot([example.excluded for example in examples], columns)
    had_choice = (offered * labels).any(dim=1) & (offered * (1 - labels)).any(dim=1)
    flat = [interaction for history in histories for interaction in history]
    return Examples(
        features=featurizer.featurize(flat),
        indices=np.arange(len(flat)),
        starts=np.concatenate([[0], np.cumsum([len(history) for history in histories])]).astype(np.int64),
        labels=labels,
        weights=torch.ones(len(examples)),
        types=np.array([_type(history) for history in histories], dtype=np.str_),
        holdings=HoldingsReader(items).read([holdings_of(example) for example in examples]),
        choices=offered * had_choice[:, None],
    )


def _multi_hot(bags: Sequence[Sequence[str]], columns: Mapping[str, int]) -> Tensor:
    """Returns a row for each bag of items, (n, I); unknown items are left out."""
    chosen = [(row, columns[item]) for row, bag in enumerate(bags) for item in bag if item in columns]
    rows = torch.zeros(len(bags), len(columns))
    rows[[row for row, _ in chosen], [column for _, column in chosen]] = 1
    return rows


def newest_text_model(examples: Sequence[TrainingExample]) -> str | None:
    """Returns the text model of the newest conversation: the one that the encoder runs now."""
    for example in reversed(examples):
        for interaction in reversed(example.interactions):
            if isinstance(interaction, Conversation):
                return interaction.parts[-1].text_model
    return None


def _type(history: Sequence[Interaction]) -> str:
    """Returns the purchase event's type, judged by its readable interactions."""
    sessions = sum(isinstance(one, Session) for one in history)
    return event_type(sessions, len(history) - sessions) or ""
