"""What a recipe works with: the examples of one training, how to read them, and how a stage of it is trained."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
import torch
from torch import Tensor

from models.features import Reader
from models.network import Network
from training.checkpoints import Checkpoints
from training.loop import Fitted, Loss, TrainingConfig, cross_entropy, fit
from training.progress import Watch
from training.tensors import Examples

Select = Callable[[Examples], Examples]
AnyNetwork = TypeVar("AnyNetwork", bound=Network)
WHOLE: Final[Select] = lambda examples: examples  # noqa: E731


class NothingToLearnError(ValueError):
    """The examples hold nothing that a system could learn from."""


@dataclass(frozen=True)
class Work:
    """Examples to learn from and to check on, and how it is to be done. `stages` fills as the recipe goes on."""

    examples: Examples
    check: Examples
    reader: Reader
    prior: Tensor
    config: TrainingConfig
    watch: Watch
    checkpoints: Checkpoints | None
    stages: dict[str, Fitted] = field(default_factory=dict)

    def make(self, network: type[AnyNetwork], config: Any) -> AnyNetwork:
        """A new network; its first weights depend on the seed alone, whatever was trained before."""
        torch.manual_seed(self.config.seed)
        return network(config, self.reader, self.prior)

    def fit(self, stage: str, network: Network, batch: int, select: Select = WHOLE, loss: Loss = cross_entropy) -> None:
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
        self.stages[stage] = fit(
            network,
            examples,
            check,
            self.config,
            batch=self.config.batch or batch,
            loss=loss,
            stage=stage,
            watch=self.watch,
            checkpoints=self.checkpoints,
        )
