"""Trains a network in one straight loop: the same seed gives the same weights, and no step is taken that is not finite.

Training resumes where it was interrupted, and runs in one process or several.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import msgspec
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from models.network import Network, encode
from stream.errors import IsthmusError
from training import distributed
from training.checkpoints import CheckpointError, Checkpoints
from training.example_arrays import ExampleBatch, Examples
from training.progress import SILENT, ProgressReporter

Loss = Callable[[Network, ExampleBatch], Tensor]
"""A network's loss on each example of a batch, (b,)."""
LEARNING_RATE: Final = 1e-3  # Keras' default for Adam
_EVALUATION_BATCH: Final = 1_000


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a system is trained.

    Attributes:
        network: the network's configuration; None: the system's own, the paper's.
        batch: examples in a batch; None: the stage's own.
        seed: of weights, order and dropout.
        epochs: at most so many.
        patience: training stops when validation loss has not improved for so many epochs.
        learning_rate: None: the stage's own.
        weight_decay: Adam's.
    """

    network: msgspec.Struct | None = None
    batch: int | None = None
    seed: int = 0
    epochs: int = 100
    patience: int = 5
    learning_rate: float | None = None
    weight_decay: float = 0.0


class NotFiniteError(IsthmusError):
    """The loss or a gradient was infinite or not a number; no weight was changed by it."""


def cross_entropy(network: Network, batch: ExampleBatch) -> Tensor:
    """Returns binary cross-entropy, the mean over items, (b,); of a network that reads holdings, over those that count for it."""
    states = encode(network, network.embed(batch.inputs), batch.lengths)
    if network.uses_holdings:
        losses = binary_cross_entropy_with_logits(network.holder_logits(states, batch.holdings), batch.labels, reduction="none")
        return (losses * batch.choices).mean(dim=1)
    return binary_cross_entropy_with_logits(network.logits(states), batch.labels, reduction="none").mean(dim=1)


@dataclass(frozen=True, slots=True)
class StageOptions:
    """How one stage is trained.

    Attributes:
        name: in progress lines, and the name of the checkpoint file.
        batch: examples in a batch.
        loss: per example.
        learning_rate: Adam's.
        ema_decay: evaluate and return an exponential moving average of the weights with this decay; 0 disables averaging (Polyak
        and
            Juditsky 1992).
    """

    name: str
    batch: int
    loss: Loss = cross_entropy
    learning_rate: float = LEARNING_RATE
    ema_decay: float = 0.0


@dataclass(frozen=True, slots=True)
class FitContext:
    """What all stages of a training share: its configuration, who hears of progress, and where checkpoints go, if anywhere."""

    config: TrainingConfig
    progress: ProgressReporter = SILENT
    checkpoints: Checkpoints | None = None


@dataclass
class TrainState:
    """The state of a stage between two epochs: all that it needs to resume as if it had never stopped."""

    network: Network
    averaged: AveragedModel | None
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    best_weights: dict[str, Tensor]
    best_loss: float = float("inf")
    epochs_since_best: int = 0
    epoch: int = 0

    @property
    def evaluated_network(self) -> Network:
        return self.network if self.averaged is None else cast("Network", self.averaged.module)

    def record(self, loss: float, *, is_best: bool) -> None:
        """Ends an epoch; keeps a copy of the weights if they are the best so far."""
        self.epochs_since_best = 0 if is_best else self.epochs_since_best + 1
        if is_best:
            self.best_loss, self.best_weights = loss, copy.deepcopy(self.evaluated_network.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint holds. The keys are a file format: an interrupted training may resume under a newer version."""
        return {
            "network": self.network.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self.generator.get_state(),
            "chance": torch.get_rng_state(),
            "best": self.best_loss,
            "best_weights": self.best_weights,
            "since": self.epochs_since_best,
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a checkpoint.

        Raises:
            training.checkpoints.CheckpointError: an older version's checkpoint whose weights have other sizes.
        """
        try:
            self.network.load_state_dict(state["network"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError):
            raise CheckpointError(
                "the checkpoint's weights do not fit the network: name another folder to start a new training"
            ) from None
        self.generator.set_state(state["order"])
        torch.set_rng_state(state["chance"])
        self.best_loss, self.best_weights = state["best"], state["best_weights"]
        self.epochs_since_best, self.epoch = state["since"], state["epoch"]


class FitResult(NamedTuple):
    """How a stage went.

    Attributes:
        epochs: how many it took.
        validation_loss: the best one; None without validation.
        best_epoch: the epoch of the weights that were kept.
    """

    epochs: int
    validation_loss: float | None
    best_epoch: int


def fit(network: Network, training: Examples, validation: Examples | None, options: StageOptions, context: FitContext) -> FitResult:
    """Trains the parameters that require gradients and leaves the best weights in the network, on the CPU.

    Stops when validation loss no longer improves. Without validation it takes all of its epochs, and the last weights are the best.

    Raises:
        NotFiniteError: a step would not have been finite.
        training.checkpoints.CheckpointError: the checkpoint is another training's, or does not fit.
    """
    config, device = context.config, distributed.device()
    state = _initial_state(network.to(device), options, config)
    _resume(state, options, context)
    while state.epoch < config.epochs and state.epochs_since_best < config.patience:
        state.epoch += 1
        _train_epoch(state, training, options, context, device)
        if validation is None:
            state.record(state.best_loss, is_best=True)
        else:
            loss = mean_loss(state.evaluated_network, validation, options.loss, device)
            state.record(loss, is_best=loss < state.best_loss)
        if context.checkpoints is not None and distributed.rank() == 0:
            context.checkpoints.write(options.name, state.state_dict())
        outcome = "" if validation is None else f"  validation loss {loss:.4f}{'' if state.epochs_since_best else '  best'}"
        context.progress.log(f"epoch {state.epoch:2d}  {options.name}{outcome}")
    network.load_state_dict(state.best_weights)
    network.cpu().eval()
    return FitResult(state.epoch, None if validation is None else state.best_loss, state.epoch - state.epochs_since_best)


def _initial_state(network: Network, options: StageOptions, config: TrainingConfig) -> TrainState:
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    trainable = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(trainable, lr=options.learning_rate, weight_decay=config.weight_decay)
    average = get_ema_multi_avg_fn(options.ema_decay) if options.ema_decay else None  # type: ignore[no-untyped-call]
    averaged = None if average is None else AveragedModel(network, multi_avg_fn=average)
    return TrainState(network, averaged, optimizer, generator, copy.deepcopy(network.state_dict()))


def _resume(state: TrainState, options: StageOptions, context: FitContext) -> None:
    checkpoint = None if context.checkpoints is None else context.checkpoints.read(options.name)
    if checkpoint is not None:
        state.load_state_dict(checkpoint)
        context.progress.log(f"{options.name}: resumes after epoch {state.epoch}")


def _train_epoch(state: TrainState, training: Examples, options: StageOptions, context: FitContext, device: torch.device) -> None:
    order = torch.randperm(len(training), generator=state.generator).numpy()
    state.network.train()
    starts = range(0, len(order), options.batch)
    for done, start in enumerate(starts, start=1):
        rows = order[start : start + options.batch]
        _step(state, training.batch(distributed.shard(rows), device), len(rows), options)
        if state.averaged is not None:
            state.averaged.update_parameters(state.network)
        context.progress.update(f"{options.name}, epoch {state.epoch}", done, len(starts))


def _step(state: TrainState, batch: ExampleBatch, examples: int, options: StageOptions) -> None:
    """Takes one step unless loss or gradient are not finite. `batch` is this process's shard of a batch of so many `examples`."""
    total = (options.loss(state.network, batch) * batch.weights).sum() / examples
    state.optimizer.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    trainable = [weight for group in state.optimizer.param_groups for weight in group["params"]]
    for weight in trainable:
        if weight.grad is None:  # all processes must send the same message, even one whose shard is empty
            weight.grad = torch.zeros_like(weight)
    gradients = [weight.grad for weight in trainable]
    total = total.detach()
    distributed.all_reduce_sum([total, *gradients])
    if not torch.isfinite(total + torch.nn.utils.get_total_norm(gradients)):
        raise NotFiniteError(
            f"a step in epoch {state.epoch} of {options.name} is not finite (loss {total.item()}): lower the learning rate, "
            "or check the vectors"
        )
    state.optimizer.step()


def mean_loss(network: Network, examples: Examples, loss: Loss = cross_entropy, device: torch.device | None = None) -> float:
    """Returns the mean of the weighted losses."""
    network.eval()
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(examples), _EVALUATION_BATCH):
            batch = examples.batch(np.arange(start, min(start + _EVALUATION_BATCH, len(examples))), device)
            total += (loss(network, batch) * batch.weights).sum().item()
    return total / len(examples)
