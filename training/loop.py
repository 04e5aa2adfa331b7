"""Training of the Latent Feature network: one straight loop that proves itself. Same seed, same weights; no step on a loss that
is not finite.
"""

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from models.latent_feature import LatentFeature, LatentFeatureConfig, LatentFeatureNetwork
from models.popular import prior_of
from models.vocabulary import Vocabulary, vocabulary_of
from stream.core.interactions import Conversation, Session
from stream.core.outputs import TrainingExample
from training.tensors import BatchTensors, Examples, tensors_of


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a network is trained. Epochs end when validation loss has not fallen for `patience` of them."""

    network: LatentFeatureConfig = LatentFeatureConfig()
    seed: int = 0
    epochs: int = 40
    patience: int = 5
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    rare_weight: float = 1.0


class NotFiniteError(Exception):
    """The loss became infinite or not a number; no weight was changed by it."""


class Trained(NamedTuple):
    """A trained network with what it needs to serve. `validation` is its best loss."""

    network: LatentFeatureNetwork
    vocabulary: Vocabulary
    items: tuple[str, ...]
    prior: np.ndarray
    text_model: str | None
    epochs: int
    validation: float

    def ranker(self, version: str = "0", fingerprint: str = "trained") -> LatentFeature:
        return LatentFeature(version, fingerprint, self.items, self.prior, self.text_model, self.vocabulary, self.network)


def train(
    training: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    items: Sequence[str],
    config: TrainingConfig,
    *,
    warm: LatentFeature | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Trains until validation says stop; `warm` gives the first weights where its vocabulary and items fit.

    Raises:
        NotFiniteError: a loss was not finite.
        ValueError: there is nothing to learn from.
    """
    if not training or not validation:
        raise ValueError("training and validation need at least one example each")
    generator = torch.Generator().manual_seed(config.seed)
    torch.manual_seed(config.seed)
    text_model = newest_text_model(training)
    vocabulary, network = _start([*training], items, config, warm)
    fit, check = (_tensors(examples, vocabulary, items, text_model, config) for examples in (training, validation))
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    best, best_weights, since, epoch = float("inf"), copy.deepcopy(network.state_dict()), 0, 0
    for epoch in range(1, config.epochs + 1):
        order = torch.randperm(len(fit), generator=generator).numpy()
        network.train()
        for start in range(0, len(fit), config.batch):
            loss = loss_of(network, fit.batch(order[start : start + config.batch]))
            if not torch.isfinite(loss):
                raise NotFiniteError(f"the loss of epoch {epoch} is {loss.item()}: lower the learning rate, or look at the vectors")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        current = evaluate(network, check)
        say(f"epoch {epoch:2d}  validation loss {current:.4f}{'  best' if current < best else ''}")
        since = 0 if current < best else since + 1
        if current < best:
            best, best_weights = current, copy.deepcopy(network.state_dict())
        if since >= config.patience:
            break
    network.load_state_dict(best_weights)
    prior = prior_of((example.items for example in training), items)
    return Trained(network, vocabulary, tuple(items), prior, text_model, epoch, best)


def loss_of(network: LatentFeatureNetwork, batch: BatchTensors) -> Tensor:
    """Weighted binary cross-entropy of a batch."""
    latents = network.latents(batch.tags, batch.offsets, batch.texts, batch.is_text)
    padded = torch.nn.utils.rnn.pad_sequence(
        list(torch.split(latents, batch.lengths.tolist())), batch_first=True
    )  # (b, T, latent + 1)
    logits = network(padded, batch.lengths)
    losses = binary_cross_entropy_with_logits(logits, batch.labels, reduction="none").sum(dim=1)
    return (losses * batch.weights).mean()


def evaluate(network: LatentFeatureNetwork, examples: Examples) -> float:
    network.eval()
    rows = np.arange(len(examples))
    with torch.inference_mode():
        parts = [rows[start : start + 1_000] for start in range(0, len(rows), 1_000)]
        losses = [loss_of(network, examples.batch(part)).item() * len(part) for part in parts]
    return sum(losses) / len(rows)


def newest_text_model(examples: Sequence[TrainingExample]) -> str | None:
    """The text model of the newest conversation: what is encoded now."""
    for example in reversed(examples):
        for interaction in reversed(example.interactions):
            if isinstance(interaction, Conversation):
                return interaction.parts[-1].text_model
    return None


def _start(
    training: Sequence[TrainingExample], items: Sequence[str], config: TrainingConfig, warm: LatentFeature | None
) -> tuple[Vocabulary, LatentFeatureNetwork]:
    if warm is not None and warm.items == tuple(items) and warm.network.config == config.network:
        return warm.vocabulary, copy.deepcopy(warm.network)
    sessions = (one for example in training for one in example.interactions if isinstance(one, Session))
    vocabulary = vocabulary_of(sessions)
    return vocabulary, LatentFeatureNetwork(config.network, len(vocabulary), len(items))


def _tensors(
    examples: Sequence[TrainingExample],
    vocabulary: Vocabulary,
    items: Sequence[str],
    text_model: str | None,
    config: TrainingConfig,
) -> Examples:
    kept, histories = [], []
    for example in examples:
        history = [
            seen
            for one in example.interactions
            if (seen := one.for_text_model(text_model) if isinstance(one, Conversation) and text_model is not None else one)
            is not None
        ]
        if history:
            kept.append(example)
            histories.append(history)
    return tensors_of(kept, histories, vocabulary, items, config.network.text_width, config.rare_weight)
