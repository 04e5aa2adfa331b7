"""The paper's systems trained from examples, each by its recipe: which network, in which stages, on which events, with which batch.

One entry point for the trainer and the benchmark: `train_system`. Sizes, dropout and batches are those of the paper's authors
(github.com/simonebbruun/RS_multi_modal_user_interactions, their `model_*.py`); Adam at Keras' learning rate of .001, at most 100
epochs, patience 5. What deviates is said beside each network and recipe.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
import numpy as np
import torch
from torch import Tensor

from models.composite import CompositeConfig, LateFusion
from models.features import Reader, reader_of
from models.network import Network, NeuralRanker
from models.popular import prior_of
from models.systems import POPULAR, SYSTEMS, network_type
from models.unimodal import ConversationNetwork, SessionNetwork
from stream.core.interactions import Modality
from stream.core.outputs import TrainingExample
from stream.core.ranking import Ranker
from training.checkpoints import Checkpoints, run_of
from training.loop import Fitted, Loss, TrainingConfig, cross_entropy, fit
from training.measures import popular_of
from training.progress import SILENT, Watch
from training.tensors import Examples, examples_as_arrays, newest_text_model, readable_histories

AS_THE_PAPER: Final = TrainingConfig()
RARE_WEIGHT: Final = 2.0  # of events of the rarer modality, as the authors chose
Select = Callable[[Examples], Examples]


class NothingToLearnError(ValueError):
    """The examples hold nothing that a system could learn from."""


class Trained(NamedTuple):
    """A trained ranker, and how each of its stages went, in order."""

    ranker: Ranker
    stages: dict[str, Fitted]

    @property
    def epochs(self) -> int:
        return sum(fitted.epochs for fitted in self.stages.values())

    @property
    def validation(self) -> float:
        """The last stage's best validation loss."""
        return next(reversed(self.stages.values())).validation if self.stages else 0.0


@dataclass(frozen=True)
class Work:
    """What a recipe works with: examples to learn from and to check on, and how it is to be done."""

    examples: Examples
    check: Examples
    reader: Reader
    prior: Tensor
    config: TrainingConfig
    watch: Watch
    checkpoints: Checkpoints | None
    stages: dict[str, Fitted] = field(default_factory=dict)

    def make(self, network: type[Network], config: Any) -> Network:
        """A new network; its first weights depend on the seed alone, whatever was trained before."""
        torch.manual_seed(self.config.seed)
        return network(config, self.reader, self.prior)

    def fit(
        self, stage: str, network: Network, batch: int, select: Select = lambda whole: whole, loss: Loss = cross_entropy
    ) -> None:
        """Trains one stage on the examples that it selects.

        Raises:
            NothingToLearnError: it finds fewer than two.
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


Recipe = Callable[[Work, Any, Network | None], Network]
"""Trains with a network configuration, from a warm network where one fits, and gives the network."""


def train_system(
    name: str,
    training: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    items: Sequence[str],
    config: TrainingConfig = AS_THE_PAPER,
    *,
    warm: Ranker | None = None,
    watch: Watch = SILENT,
    checkpoints: Path | None = None,
) -> Trained:
    """Trains a system of `models.systems.SYSTEMS`. Popularity, a ranker's prior, is that of training and validation together.

    `warm`: a ranker whose weights, where system, configuration and items are the same, are the first ones; systems of several
    stages begin anew. `checkpoints`: a folder from which an interrupted training goes on.

    Raises:
        KeyError: no system has this name.
        NothingToLearnError: training or validation is empty, or lacks the events that the system is made of.
        training.loop.NotFiniteError: training broke off.
        training.checkpoints.CheckpointError: the folder holds another run's checkpoints.
    """
    if name not in SYSTEMS:
        raise KeyError(name)
    if not training or not validation:
        raise NothingToLearnError("training and validation need at least one example each")
    if name == POPULAR:
        return Trained(popular_of([*training, *validation], items), {})
    network = network_type(name)
    network_config = network.default if config.network is None else config.network
    text_model = newest_text_model(training) if network.reads_conversations else None
    (fitting, histories), (checking, check_histories) = (readable_histories(part, text_model) for part in (training, validation))
    start = _warm(warm, name, network_config, items)
    flat = [one for history in histories for one in history]
    reader = start.reader if start else reader_of(network.kinds, texts=network.reads_texts, interactions=flat)
    prior = prior_of((example.items for example in [*training, *validation]), items)
    work = Work(
        examples=examples_as_arrays(fitting, histories, reader, items),
        check=examples_as_arrays(checking, check_histories, reader, items),
        reader=reader,
        prior=torch.from_numpy(prior),
        config=config,
        watch=watch,
        checkpoints=Checkpoints(checkpoints, run_of(name, config, items, training, validation)) if checkpoints else None,
    )
    found = RECIPES[name](work, network_config, start.network if start else None)
    ranker = NeuralRanker(name, "0", "trained", tuple(items), prior, text_model, reader, found, network_config)
    return Trained(ranker, work.stages)


def _warm(warm: Ranker | None, name: str, config: msgspec.Struct, items: Sequence[str]) -> NeuralRanker | None:
    fits = isinstance(warm, NeuralRanker) and (warm.name, warm.config, warm.items) == (name, config, tuple(items))
    return cast("NeuralRanker", warm) if fits else None


def _single(name: str, batch: int, select: Select = lambda whole: whole) -> Recipe:
    """A system of one network and one stage."""

    def recipe(work: Work, config: Any, warm: Network | None) -> Network:
        network = work.make(network_type(name), config)
        if warm is not None:
            _like(network, warm)
        work.fit(name, network, batch, select)
        return network

    return recipe


def _only(modality: Modality) -> Select:
    return lambda examples: examples.only(modality)


def weighted(examples: Examples) -> Examples:
    """Weights for the rarer modality: 2 on its events, 1 on the other's, on `both` what makes these weigh as the others' mean."""
    shares = {kind: float((examples.types == kind).mean()) for kind in ("session", "conversation", "both")}
    rare = min(("conversation", "session"), key=shares.__getitem__)
    alone = shares["session"] + shares["conversation"]
    both = (alone + (RARE_WEIGHT - 1) * shares[rare]) / alone if alone else 1.0
    weights = np.where(examples.types == rare, RARE_WEIGHT, np.where(examples.types == "both", both, 1.0))
    return replace(examples, weights=torch.from_numpy(weights.astype(np.float32)))


def _like(network: Network, other: Network) -> None:
    network.load_state_dict(other.state_dict())


def _late_fusion(work: Work, config: CompositeConfig, warm: Network | None) -> LateFusion:
    del warm
    network = LateFusion(config, work.reader, work.prior)
    _like(network.session, work.make(SessionNetwork, config.session))
    _like(network.conversation, work.make(ConversationNetwork, config.conversation))
    work.fit("session", network.session, SESSION_BATCH, _only("session"))
    work.fit("conversation", network.conversation, CONVERSATION_BATCH, _only("conversation"))
    return network


SESSION_BATCH: Final = 256
CONVERSATION_BATCH: Final = 512
RECIPES: Final[dict[str, Recipe]] = {
    "session": _single("session", SESSION_BATCH, _only("session")),
    "conversation": _single("conversation", CONVERSATION_BATCH, _only("conversation")),
    "conversation_keyword": _single("conversation_keyword", CONVERSATION_BATCH, _only("conversation")),
    "late_fusion": _late_fusion,
    "keyword": _single("keyword", 512),
    "latent_feature": _single("latent_feature", 512, weighted),
}
