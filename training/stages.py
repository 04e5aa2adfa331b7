"""What a recipe works with: the examples of one training, how to read them, and how a stage of it is trained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from models.features import Featurizer
from models.network import Network
from stream.errors import IsthmusError
from training.checkpoints import Checkpoints
from training.example_arrays import Examples
from training.loop import FitResult, Loss, TrainingConfig, cross_entropy, fit
from training.progress import ProgressReporter

Select = Callable[[Examples], Examples]
AnyNetwork = TypeVar("AnyNetwork", bound=Network)
LEARNING_RATE: Final = 1e-3  # Keras' for Adam
WHOLE: Final[Select] = lambda examples: examples  # noqa: E731


class NothingToLearnError(IsthmusError):
    """The examples hold nothing that a system could learn from."""


@dataclass(frozen=True)
class StageTrainer:
    """Examples to learn from and to check on, both together, and how it is to be done. `stages` fills as the recipe goes on."""

    examples: Examples
    check: Examples
    whole: Examples
    reader: Featurizer
    prior: Tensor
    config: TrainingConfig
    watch: ProgressReporter
    checkpoints: Checkpoints | None
    stages: dict[str, FitResult] = field(default_factory=dict)

    def make(self, network: type[AnyNetwork], config: Any) -> AnyNetwork:
        """A new network; its first weights depend on the seed alone, whatever was trained before."""
        torch.manual_seed(self.config.seed)
        return network(config, self.reader, self.prior)

    def fit(
        self,
        stage: str,
        network: Network,
        batch: int,
        select: Select = WHOLE,
        loss: Loss = cross_entropy,
        *,
        learning_rate: float = LEARNING_RATE,
        average: float = 0.0,
    ) -> FitResult:
        """Trains one stage on the examples that `select` makes of the training's, checked on those it makes of the validation's.

        Raises:
            NothingToLearnError: it makes too few.
        """
        examples, check = select(self.examples), select(self.check)
        if not len(check):  # a small data set: the newest tenth of the stage's own, as the authors do where they filter
            cut = len(examples) - max(1, len(examples) // 10)
            examples, check = examples.at(np.arange(max(cut, 0))), examples.at(np.arange(max(cut, 0), len(examples)))
        if not len(examples) or not len(check):
            raise NothingToLearnError(f"{stage}: no purchase events to learn this from")
        return self._fit(stage, network, examples, check, self.config, batch, loss, learning_rate, average)

    def refit(
        self, stage: str, network: Network, batch: int, epochs: int, loss: Loss, *, learning_rate: float, average: float
    ) -> FitResult:
        """Trains one stage on all examples, those to check on included, for so many epochs."""
        config = msgspec.structs.replace(self.config, epochs=epochs)
        return self._fit(stage, network, self.whole, None, config, batch, loss, learning_rate, average)

    def _fit(
        self,
        stage: str,
        network: Network,
        examples: Examples,
        check: Examples | None,
        config: TrainingConfig,
        batch: int,
        loss: Loss,
        learning_rate: float,
        average: float,
    ) -> FitResult:
        self.stages[stage] = fit(
            network,
            examples,
            check,
            config,
            batch=config.batch or batch,
            learning_rate=learning_rate if config.learning_rate is None else config.learning_rate,
            loss=loss,
            average=average,
            stage=stage,
            watch=self.watch,
            checkpoints=self.checkpoints,
        )
        return self.stages[stage]
