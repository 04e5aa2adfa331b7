"""What a recipe works with: the examples of one training, and how to build and train a network on them, stage by stage."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from models.features import Featurizer
from models.network import Network
from stream.errors import IsthmusError
from training.example_arrays import Examples
from training.loop import FitContext, FitResult, StageOptions, fit
from training.text_vectors import TextVectors

Select = Callable[[Examples], Examples]
AnyNetwork = TypeVar("AnyNetwork", bound=Network)


def every_example(examples: Examples) -> Examples:
    """Selects all examples."""
    return examples


class NothingToLearnError(IsthmusError):
    """The examples hold nothing that a system could learn from."""


@dataclass
class StageTrainer:
    """Trains the stages of one system.

    Attributes:
        training: the examples to learn from.
        validation: the examples that say when to stop.
        all_examples: both together.
        featurizer: of all networks of the system.
        prior: (I,) the items' popularity.
        context: configuration, progress and checkpoints.
        items: their ids.
        texts: of items and tags; None where the network reads none.
        stages: how each finished stage went, in order; filled by `fit` and `refit`.
        validated: the network before `refit`, which did not learn from the validation examples; None for systems that never do.
    """

    training: Examples
    validation: Examples
    all_examples: Examples
    featurizer: Featurizer
    prior: Tensor
    context: FitContext
    items: Sequence[str] = ()
    texts: TextVectors | None = None
    stages: dict[str, FitResult] = field(default_factory=dict)
    validated: Network | None = None

    def build(self, network: type[AnyNetwork], config: Any) -> AnyNetwork:
        """Returns a new network; its initial weights depend on the seed alone, whatever was trained before."""
        torch.manual_seed(self.context.config.seed)
        return network(config, self.featurizer, self.prior)

    def fit(self, network: Network, options: StageOptions, select: Select = every_example) -> FitResult:
        """Trains one stage on the examples that `select` returns for training and for validation.

        Raises:
            NothingToLearnError: it returns too few.
        """
        training, validation = select(self.training), select(self.validation)
        if not len(validation):  # a small data set: the newest tenth of the stage's own, as the authors do where they filter
            cut = max(len(training) - max(1, len(training) // 10), 0)
            training, validation = training.select(np.arange(cut)), training.select(np.arange(cut, len(training)))
        if not len(training) or not len(validation):
            raise NothingToLearnError(f"{options.name}: no purchase events to learn this from")
        return self._fit(network, training, validation, options, self.context)

    def refit(self, network: Network, options: StageOptions, epochs: int, validated: Network) -> FitResult:
        """Trains one stage on all examples, validation included, for a fixed number of epochs. `validated` learned without it."""
        self.validated = validated
        config = msgspec.structs.replace(self.context.config, epochs=epochs)
        return self._fit(network, self.all_examples, None, options, replace(self.context, config=config))

    def _fit(
        self, network: Network, training: Examples, validation: Examples | None, options: StageOptions, context: FitContext
    ) -> FitResult:
        config = context.config
        rate = options.learning_rate if config.learning_rate is None else config.learning_rate
        options = replace(options, batch=config.batch or options.batch, learning_rate=rate)
        self.stages[options.name] = fit(network, training, validation, options, context)
        return self.stages[options.name]
