"""Training of a network: one straight loop that proves itself. Same seed, same weights; no step that is not finite; goes on where
it was interrupted; in one process or several.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

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
from training.example_arrays import Batch, Examples
from training.progress import SILENT, ProgressReporter

Loss = Callable[[Network, Batch], Tensor]
"""A network's losses on a batch, one an example (b,)."""


class TrainingConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a system is trained. `network`, `batch` and `learning_rate`: None takes the system's own, the paper's. Epochs end when
    validation loss has not fallen for `patience` of them.
    """

    network: msgspec.Struct | None = None
    batch: int | None = None
    seed: int = 0
    epochs: int = 100
    patience: int = 5
    learning_rate: float | None = None
    weight_decay: float = 0.0


class NotFiniteError(IsthmusError):
    """The loss or a gradient became infinite or not a number; no weight was changed by it."""


@dataclass
class TrainState:
    """Where a stage stands between two epochs: all that it needs to go on as if it had never stopped."""

    network: Network
    averaged: AveragedModel | None
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    best_weights: dict[str, Tensor]
    best: float = float("inf")
    since: int = 0
    epoch: int = 0

    @property
    def judged(self) -> Network:
        return self.network if self.averaged is None else cast("Network", self.averaged.module)

    def judge(self, current: float, *, better: bool) -> None:
        """Keeps the weights where they are better than any before."""
        self.since = 0 if better else self.since + 1
        if better:
            self.best, self.best_weights = current, copy.deepcopy(self.judged.state_dict())

    def keep(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "network": self.network.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "order": self.generator.get_state(),
            "chance": torch.get_rng_state(),
            "best": self.best,
            "best_weights": self.best_weights,
            "since": self.since,
            "epoch": self.epoch,
        }

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """From a checkpoint.

        Raises:
            training.checkpoints.CheckpointError: its weights are of other sizes, for an older version made them.
        """
        try:
            self.network.load_state_dict(kept["network"])
            if self.averaged is not None:
                self.averaged.load_state_dict(kept["averaged"])
            self.optimizer.load_state_dict(kept["optimizer"])
        except (RuntimeError, ValueError):
            raise CheckpointError("the checkpoint's weights do not fit the network: name another folder to train anew") from None
        self.generator.set_state(kept["order"])
        torch.set_rng_state(kept["chance"])
        self.best, self.best_weights, self.since, self.epoch = kept["best"], kept["best_weights"], kept["since"], kept["epoch"]


class FitResult(NamedTuple):
    """How long a stage took, its best validation loss (None without a check), and in which epoch that was."""

    epochs: int
    validation: float | None
    best_epoch: int


def cross_entropy(network: Network, batch: Batch) -> Tensor:
    """Binary cross-entropy, the mean over items (b,)."""
    logits = network.logits(encode(network, network.embed(batch.inputs), batch.lengths))
    return binary_cross_entropy_with_logits(logits, batch.labels, reduction="none").mean(dim=1)


def fit(
    network: Network,
    examples: Examples,
    check: Examples | None,
    config: TrainingConfig,
    *,
    batch: int,
    learning_rate: float,
    loss: Loss = cross_entropy,
    average: float = 0.0,
    stage: str = "training",
    watch: ProgressReporter = SILENT,
    checkpoints: Checkpoints | None = None,
) -> FitResult:
    """Trains what in the network wants gradients until `check` says stop, and leaves its best weights in it, on the CPU. Without
    `check` it takes all of its epochs, and the last weights are the best.

    `average`: judged and kept are not the weights of the last step but their moving average, of which a step's share falls by this
    factor with each further one; 0 for none (Polyak and Juditsky 1992).

    Raises:
        NotFiniteError: a step would not have been finite.
        training.checkpoints.CheckpointError: the checkpoint is another run's, or does not fit.
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    device = distributed.device()
    network.to(device)
    learned = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=learning_rate, weight_decay=config.weight_decay)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(average)) if average else None  # type: ignore[no-untyped-call]
    standing = TrainState(network, averaged, optimizer, generator, copy.deepcopy(network.state_dict()))
    if checkpoints is not None and (kept := checkpoints.read(stage)) is not None:
        standing.go_on(kept)
        watch.say(f"{stage}: goes on after epoch {standing.epoch}")
    while standing.epoch < config.epochs and standing.since < config.patience:
        standing.epoch += 1
        order = torch.randperm(len(examples), generator=generator).numpy()
        network.train()
        starts = range(0, len(order), batch)
        for done, start in enumerate(starts, start=1):
            _step(network, optimizer, loss, examples, order[start : start + batch], f"epoch {standing.epoch} of {stage}", device)
            if averaged is not None:
                averaged.update_parameters(network)
            watch.tick(f"{stage}, epoch {standing.epoch}", done, len(starts))
        current = standing.best if check is None else mean_loss(standing.judged, check, loss, device)
        standing.judge(current, better=check is None or current < standing.best)
        if checkpoints is not None and distributed.rank() == 0:
            checkpoints.write(stage, standing.keep())
        verdict = "" if check is None else f"  validation loss {current:.4f}{'' if standing.since else '  best'}"
        watch.say(f"epoch {standing.epoch:2d}  {stage}{verdict}")
    network.load_state_dict(standing.best_weights)
    network.cpu().eval()
    return FitResult(standing.epoch, None if check is None else standing.best, standing.epoch - standing.since)


def _step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    examples: Examples,
    rows: np.ndarray,
    where: str,
    device: torch.device,
) -> None:
    """One step on the examples at `rows`, unless loss or gradient are not finite."""
    batch = examples.batch(distributed.shard(rows), device)
    total = (loss(network, batch) * batch.weights).sum() / len(rows)
    optimizer.zero_grad()
    total.backward()  # type: ignore[no-untyped-call]
    learned = [weight for group in optimizer.param_groups for weight in group["params"]]
    for weight in learned:
        if weight.grad is None:  # every process must send the same message, also one whose share of the batch is empty
            weight.grad = torch.zeros_like(weight)
    gradients = [weight.grad for weight in learned]
    total = total.detach()
    distributed.all_reduce_sum([total, *gradients])
    if not torch.isfinite(total + torch.nn.utils.get_total_norm(gradients)):
        raise NotFiniteError(
            f"a step in {where} is not finite (loss {total.item()}): lower the learning rate, or look at the vectors"
        )
    optimizer.step()


def mean_loss(network: Network, examples: Examples, loss: Loss = cross_entropy, device: torch.device | None = None) -> float:
    """The mean of the weighted losses."""
    network.eval()
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(examples), 1_000):
            batch = examples.batch(np.arange(start, min(start + 1_000, len(examples))), device)
            total += (loss(network, batch) * batch.weights).sum().item()
    return total / len(examples)
