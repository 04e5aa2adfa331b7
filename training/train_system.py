"""Trains a system from examples: the one entry point for the trainer and the benchmark, on files as on the topic.

Sizes and dropout are declared beside the networks, stages and batches in `training.recipes`; all are those of the paper's authors
(github.com/simonebbruun/RS_multi_modal_user_interactions). Adam with Keras' learning rate of .001, at most 100 epochs, patience 5.
"""

from collections.abc import Sequence
from dataclasses import replace
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
from training.calibration import fit_calibration, pairs_of
from training.checkpoints import Checkpoints, fingerprint_of
from training.example_arrays import examples_as_arrays, newest_text_model, readable_histories
from training.loop import FitContext, FitResult, TrainingConfig
from training.metrics import popular_ranker
from training.progress import SILENT, ProgressReporter
from training.recipes import recipe_of
from training.stages import NothingToLearnError, StageTrainer
from training.text_vectors import TextVectors

AS_THE_PAPER: Final = TrainingConfig()


class TrainedSystem(NamedTuple):
    """A trained ranker, and how each of its stages went, in order."""

    ranker: Ranker
    stages: dict[str, FitResult]

    @property
    def epochs(self) -> int:
        return sum(stage.epochs for stage in self.stages.values())

    @property
    def validation_loss(self) -> float:
        """The best validation loss of the last stage that has one."""
        losses = [stage.validation_loss for stage in self.stages.values() if stage.validation_loss is not None]
        return losses[-1] if losses else 0.0


def train_system(
    name: str,
    training: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    items: Sequence[str],
    config: TrainingConfig = AS_THE_PAPER,
    *,
    warm: Ranker | None = None,
    progress: ProgressReporter = SILENT,
    checkpoints: Path | None = None,
    texts: TextVectors | None = None,
) -> TrainedSystem:
    """Trains a system of `models.systems.SYSTEMS`. A ranker's prior is the popularity in training and validation together, and its
    calibration is of the validation part.

    `texts`: what a network that scores items by their texts learns from. Without it, or if it is of another text model than the
    newest call, the network is trained without texts. `warm`: a ranker whose weights are the initial ones if system, configuration,
    items and text model are the same; systems of several stages ignore it. `checkpoints`: a folder from which an interrupted
    training resumes.

    Raises:
        KeyError: no system has this name.
        training.stages.NothingToLearnError: training or validation is empty, lacks the events that the system needs, or shows it
            nothing that it reads.
        training.loop.NotFiniteError: training diverged.
        training.checkpoints.CheckpointError: the folder holds another training's checkpoints.
    """
    if name not in SYSTEMS:
        raise KeyError(name)
    if not training or not validation:
        raise NothingToLearnError("training and validation need at least one example each")
    if name == POPULAR:
        return TrainedSystem(popular_ranker([*training, *validation], items), {})
    network_class = network_type(name)
    network_config = network_class.default if config.network is None else config.network
    text_model = newest_text_model(training) if network_class.uses_conversations else None
    texts = texts if texts is not None and texts.text_model == text_model else None
    network_config = _without_unknown_texts(network_config, texts)
    start = _warm_start(warm, name, network_config, items, text_model)
    named = [*items, *(texts.items if texts else ())]
    run = fingerprint_of(name, config, named, start.fingerprint if start else None, training, validation) if checkpoints else ""
    context = FitContext(config, progress, Checkpoints(checkpoints, run) if checkpoints else None)
    trainer = _stage_trainer(network_class, training, validation, items, text_model, start, context)
    trainer = replace(trainer, items=items, texts=texts)
    if _shows_nothing(trainer.all_examples.features):
        fields = [*network_class.token_fields, *(["sentence vectors"] if network_class.uses_text_vectors else [])]
        raise NothingToLearnError(f"{name}: no purchase events to learn this from: none shows any {' or '.join(fields)}")
    network = recipe_of(name)(trainer, network_config, start.network if start else None)
    prior = trainer.prior.numpy()
    ranker = NeuralRanker(name, "0", "trained", tuple(items), prior, text_model, trainer.featurizer, network, network_config)
    unseen = ranker if trainer.validated is None else replace(ranker, network=trainer.validated)
    calibration = fit_calibration(pairs_of(unseen, validation))
    return TrainedSystem(replace(ranker, calibration=calibration), trainer.stages)


def _without_unknown_texts(config: msgspec.Struct, texts: TextVectors | None) -> msgspec.Struct:
    """Returns the configuration of a network that needs no more than there is."""
    return msgspec.structs.replace(config, text_units=0) if texts is None and hasattr(config, "text_units") else config


def _stage_trainer(
    network_class: type[Network],
    training: Sequence[TrainingExample],
    validation: Sequence[TrainingExample],
    items: Sequence[str],
    text_model: str | None,
    start: NeuralRanker | None,
    context: FitContext,
) -> StageTrainer:
    """Returns the trainer of the readable examples; vocabularies are those of the training part, or of the warm start."""
    sessions = network_class.uses_sessions
    readable, histories = readable_histories(training, text_model, sessions=sessions)
    readable_validation, validation_histories = readable_histories(validation, text_model, sessions=sessions)
    flat = [interaction for history in histories for interaction in history]
    texts = network_class.uses_text_vectors
    featurizer = start.featurizer if start else fit_featurizer(network_class.token_fields, texts=texts, interactions=flat)
    all_examples = examples_as_arrays([*readable, *readable_validation], [*histories, *validation_histories], featurizer, items)
    prior = prior_of((example.items for example in [*training, *validation]), items)
    return StageTrainer(
        training=all_examples.select(np.arange(len(readable))),
        validation=all_examples.select(np.arange(len(readable), len(all_examples))),
        all_examples=all_examples,
        featurizer=featurizer,
        prior=torch.from_numpy(prior),
        context=context,
    )


def _shows_nothing(features: Features) -> bool:
    """Whether there is no known token and no vector: the system would be popularity under another name."""
    return not features.texts.any() and not any(len(indices) for indices, _ in features.bags.values())


def _warm_start(
    warm: Ranker | None, name: str, config: msgspec.Struct, items: Sequence[str], text_model: str | None
) -> NeuralRanker | None:
    """Returns the ranker if its network fits; vectors of another text model would be read as if they meant the same."""
    if isinstance(warm, NeuralRanker) and (warm.name, warm.config, warm.items) == (name, config, tuple(items)):
        return warm if warm.text_model == text_model else None
    return None
