"""The systems trained from examples: the one entry point for the trainer and the benchmark, on files as on the topic.

Sizes and dropout stand beside the networks, stages and batches in `training.recipes`: all are those of the paper's authors
(github.com/simonebbruun/RS_multi_modal_user_interactions). Adam at Keras' learning rate of .001, at most 100 epochs, patience 5.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch

from models.features import Features, fit_featurizer
from models.network import Network, NeuralRanker
from models.popular import prior_of
from models.systems import POPULAR, SYSTEMS, network_type
from stream.core.outputs import TrainingExample
from stream.core.ranking import Ranker
from training.checkpoints import Checkpoints, run_of
from training.example_arrays import examples_as_arrays, newest_text_model, readable_histories
from training.loop import FitResult, TrainingConfig
from training.metrics import popular_of
from training.progress import SILENT, ProgressReporter
from training.recipes import RECIPES
from training.stages import NothingToLearnError, StageTrainer

AS_THE_PAPER: Final = TrainingConfig()


class TrainedSystem(NamedTuple):
    """A trained ranker, and how each of its stages went, in order."""

    ranker: Ranker
    stages: dict[str, FitResult]

    @property
    def epochs(self) -> int:
        return sum(fitted.epochs for fitted in self.stages.values())

    @property
    def validation(self) -> float:
        """The best validation loss of the last stage that had one."""
        return next((fitted.validation for fitted in reversed(self.stages.values()) if fitted.validation is not None), 0.0)


def train_system(
    name: str,
    training: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    items: Sequence[str],
    config: TrainingConfig = AS_THE_PAPER,
    *,
    warm: Ranker | None = None,
    watch: ProgressReporter = SILENT,
    checkpoints: Path | None = None,
) -> TrainedSystem:
    """Trains a system of `models.systems.SYSTEMS`. Popularity, a ranker's prior, is that of training and validation together.

    `warm`: a ranker whose weights are the first ones, where system, configuration, items and text model are the same; systems of
    several stages begin anew. `checkpoints`: a folder from which an interrupted training goes on.

    Raises:
        KeyError: no system has this name.
        training.stages.NothingToLearnError: training or validation is empty, lacks the events that the system is made of, or
        shows it
        nothing that it reads.
        training.loop.NotFiniteError: training broke off.
        training.checkpoints.CheckpointError: the folder holds another run's checkpoints.
    """
    if name not in SYSTEMS:
        raise KeyError(name)
    if not training or not validation:
        raise NothingToLearnError("training and validation need at least one example each")
    if name == POPULAR:
        return TrainedSystem(popular_of([*training, *validation], items), {})
    network = network_type(name)
    network_config = network.default if config.network is None else config.network
    text_model = newest_text_model(training) if network.uses_conversations else None
    (fitting, histories), (checking, check_histories) = (readable_histories(part, text_model) for part in (training, validation))
    start = _warm(warm, name, network_config, items, text_model)
    flat = [one for history in histories for one in history]
    reader = start.reader if start else fit_featurizer(network.token_fields, texts=network.uses_text_vectors, interactions=flat)
    prior = prior_of((example.items for example in [*training, *validation]), items)
    run = run_of(name, config, items, start.fingerprint if start else None, training, validation) if checkpoints else ""
    whole = examples_as_arrays([*fitting, *checking], [*histories, *check_histories], reader, items)
    _check_shown(name, network, whole.read)
    work = StageTrainer(
        examples=whole.at(np.arange(len(fitting))),
        check=whole.at(np.arange(len(fitting), len(whole))),
        whole=whole,
        reader=reader,
        prior=torch.from_numpy(prior),
        config=config,
        watch=watch,
        checkpoints=Checkpoints(checkpoints, run) if checkpoints else None,
    )
    found = RECIPES[name](work, network_config, start.network if start else None)
    ranker = NeuralRanker(name, "0", "trained", tuple(items), prior, text_model, reader, found, network_config)
    return TrainedSystem(ranker, work.stages)


def _check_shown(name: str, network: type[Network], read: Features) -> None:
    """A system that sees no token and no vector would be popularity under another name."""
    if not read.texts.any() and not any(len(places) for places, _ in read.bags.values()):
        reads = " or ".join([*network.token_fields, *(["sentence vectors"] if network.uses_text_vectors else [])])
        raise NothingToLearnError(f"{name}: no purchase events to learn this from: none shows any {reads}")


def _warm(
    warm: Ranker | None, name: str, config: msgspec.Struct, items: Sequence[str], text_model: str | None
) -> NeuralRanker | None:
    """The ranker, where its network fits; vectors of another text model would be read as if they meant the same."""
    if isinstance(warm, NeuralRanker) and (warm.name, warm.config, warm.items) == (name, config, tuple(items)):
        return warm if warm.text_model == text_model else None
    return None
