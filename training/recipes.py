"""How each system is trained: in which stages, on which events, with which batch and loss.

Batches, weights and losses are those of the paper's authors (github.com/simonebbruun/RS_multi_modal_user_interactions,
`model_*.py`); each recipe names its deviations. A system without an entry in `RECIPES` is one network trained in one stage on all
events.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from models.network import GruConfig, Network, encode
from models.networks.generative_imputation import GenerativeConfig, GenerativeImputation
from models.networks.isthmus import IsthmusConfig, IsthmusNetwork
from models.networks.knowledge_distillation import DistillationConfig, KnowledgeDistillation
from models.networks.late_fusion import FusionConfig, LateFusion
from models.networks.neutral_imputation import NeutralImputation
from models.networks.owned import LateFusionOwned
from models.networks.relative_representation import Encoder, RelativeConfig, RelativeRepresentation
from models.networks.unimodal import ConversationNetwork, SessionNetwork
from models.systems import network_type
from stream.core.interactions import Modality
from training.anchors import anchor_events
from training.example_arrays import ExampleBatch, Examples
from training.loop import StageOptions
from training.stages import NothingToLearnError, Select, StageTrainer, every_example

DEFAULT_BATCH: Final = 512
SESSION_BATCH: Final = 256
CONVERSATION_BATCH: Final = 512
IMPUTATION_BATCH: Final = 128
SINGLE_MODALITY_WEIGHT: Final = 0.5  # weight of the loss of one modality alone, where a user has both
TEXT_WEIGHT: Final = 0.3  # weight of what the items' texts alone predict
RARE_WEIGHT: Final = 2.0  # weight of events of the rarer modality
_CHUNK: Final = 1_000
_CALLS: Final = 20_000  # the newest ones, from which the space of texts is found

Recipe = Callable[[StageTrainer, Any, Network | None], Network]
"""(trainer, network configuration, warm network or None) -> the trained network."""


def _modality(modality: Modality) -> Select:
    return lambda examples: examples.of_modality(modality)


def weighted(examples: Examples) -> Examples:
    """Returns the examples weighted for the rarer modality: 2 on its events, 1 on the other's, the mean of these on `both`."""
    shares = {kind: float((examples.types == kind).mean()) for kind in ("session", "conversation", "both")}
    rare = min(("conversation", "session"), key=shares.__getitem__)
    one_modality = shares["session"] + shares["conversation"]
    both = (one_modality + (RARE_WEIGHT - 1) * shares[rare]) / one_modality if one_modality else 1.0
    weights = np.where(examples.types == rare, RARE_WEIGHT, np.where(examples.types == "both", both, 1.0))
    return replace(examples, weights=torch.from_numpy(weights.astype(np.float32)))


def _single_stage(name: str, batch: int = DEFAULT_BATCH, select: Select = every_example) -> Recipe:
    """Returns the recipe of a system of one network and one stage."""

    def recipe(trainer: StageTrainer, config: Any, warm: Network | None) -> Network:
        network = trainer.build(network_type(name), config)
        if warm is not None:
            network.load_state_dict(warm.state_dict())
        trainer.fit(network, StageOptions(name, batch), select)
        return network

    return recipe


def _fit_unimodal(trainer: StageTrainer, network: LateFusion, config: FusionConfig) -> None:
    """Trains Session and Conversation; without holdings, to exactly the weights that they have as separate systems."""
    session, conversation = network.parts()
    network.session.load_state_dict(trainer.build(SessionNetwork, config.session).state_dict())
    trainer.fit(session, StageOptions("session", SESSION_BATCH), _modality("session"))
    network.conversation.load_state_dict(trainer.build(ConversationNetwork, config.conversation).state_dict())
    trainer.fit(conversation, StageOptions("conversation", CONVERSATION_BATCH), _modality("conversation"))


def _late_fusion(kind: type[LateFusion]) -> Recipe:
    """Returns the recipe of Late fusion, with or without holdings."""

    def recipe(trainer: StageTrainer, config: FusionConfig, _: Network | None) -> Network:
        network = trainer.build(kind, config)
        _fit_unimodal(trainer, network, config)
        return network

    return recipe


def _knowledge_distillation(trainer: StageTrainer, config: DistillationConfig, _: Network | None) -> KnowledgeDistillation:
    """BCE(bought) + a BCE(conversation teacher) + b BCE(session teacher) on events of both modalities.

    a and b are the shares of all events that have conversations and sessions.
    """
    network = trainer.build(KnowledgeDistillation, config)
    teachers = network.teachers
    _fit_unimodal(trainer, teachers, FusionConfig(session=config.session, conversation=config.conversation))
    types = np.concatenate([trainer.training.types, trainer.validation.types])
    alpha, beta = float((types != "session").mean()), float((types != "conversation").mean())

    def with_teacher_scores(examples: Examples) -> Examples:
        both = examples.of_type("both")
        scores = [scores_of(teacher, both) for teacher in (teachers.conversation, teachers.session)]
        return replace(both, labels=torch.cat([both.labels, *scores], dim=1))

    def loss(student: Network, batch: ExampleBatch) -> Tensor:
        logits = student.logits(encode(student, student.embed(batch.inputs), batch.lengths))
        bought, conversation, session = (
            binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=1)
            for target in batch.labels.chunk(3, dim=1)
        )
        return bought + alpha * conversation + beta * session

    trainer.fit(network.student, StageOptions("student", 256, loss), with_teacher_scores)
    return network


def scores_of(network: Network, examples: Examples) -> Tensor:
    """Returns a trained network's scores, (n, I)."""
    chunks = [torch.zeros(0, examples.labels.shape[1])]
    with torch.inference_mode():
        for start in range(0, len(examples), _CHUNK):
            batch = examples.batch(np.arange(start, min(start + _CHUNK, len(examples))))
            chunks.append(network.scores(encode(network, network.embed(batch.inputs), batch.lengths)))
    return torch.cat(chunks).clone()


def _neutral_imputation(trainer: StageTrainer, config: GruConfig, _: Network | None) -> NeutralImputation:
    network = trainer.build(NeutralImputation, config)
    texts = mean_texts(trainer.training.of_modality("conversation"))
    tags = session_tags(trainer.training.of_modality("session"))
    if len(texts):
        network.mean_text.copy_(texts.mean(dim=0))
    if len(tags):
        network.usual_tags.copy_((tags.mean(dim=0) > 0.5).float())
    trainer.fit(network, StageOptions("neutral_imputation", IMPUTATION_BATCH))
    return network


def _generative_imputation(trainer: StageTrainer, config: GenerativeConfig, _: Network | None) -> GenerativeImputation:
    """Trains the two generators, then the ranking network on present and generated modalities.

    The generators minimise the squared error of the mean sentence vector and the cross-entropy of the tags.
    """
    network = trainer.build(GenerativeImputation, config)
    turns = network.sessions_from.turns
    texts_options = StageOptions("texts from sessions", IMPUTATION_BATCH, _squared_error)
    trainer.fit(network.texts_from, texts_options, _texts_to_generate)
    sessions_options = StageOptions("sessions from texts", IMPUTATION_BATCH)
    trainer.fit(network.sessions_from, sessions_options, partial(_sessions_to_generate, turns=turns))
    network.texts_from.requires_grad_(requires_grad=False)
    network.sessions_from.requires_grad_(requires_grad=False)
    trainer.fit(network, StageOptions("generative_imputation", IMPUTATION_BATCH))
    return network


def _texts_to_generate(examples: Examples) -> Examples:
    """Returns the sessions of events of both modalities, labelled with the mean of the conversations' sentences."""
    both = examples.of_type("both")
    return replace(both.of_modality("session"), labels=mean_texts(both.of_modality("conversation")))


def _sessions_to_generate(examples: Examples, turns: int) -> Examples:
    """Returns the conversations of events of both modalities, labelled with the tags of each session, padded in front."""
    both = examples.of_type("both")
    sessions = both.of_modality("session")
    tags = session_tags(sessions)
    labels = torch.zeros(len(sessions), turns, tags.shape[1])
    lengths = sessions.lengths
    rows = np.repeat(np.arange(len(sessions)), lengths)
    columns = np.arange(len(tags)) - np.repeat(sessions.starts[1:], lengths) + turns  # the last session comes last
    labels[torch.from_numpy(rows), torch.from_numpy(columns)] = tags
    return replace(both.of_modality("conversation"), labels=labels.flatten(1))


def _squared_error(network: Network, batch: ExampleBatch) -> Tensor:
    generated = network.logits(encode(network, network.embed(batch.inputs), batch.lengths))
    return mse_loss(generated, batch.labels, reduction="none").mean(dim=1)


def mean_texts(examples: Examples) -> Tensor:
    """Returns the mean sentence vector of each example, (n, width). The examples must have conversations only."""
    features, indices = examples.features, examples.indices
    if not len(examples):
        return torch.zeros(0, features.texts.shape[1])
    sentences = features.sentences[indices]
    sums = np.add.reduceat(features.texts[features.text_index[indices]] * sentences[:, None], examples.starts[:-1])
    return torch.from_numpy(sums / np.add.reduceat(sentences, examples.starts[:-1])[:, None])


def session_tags(examples: Examples) -> Tensor:
    """Returns the tags of all interactions of the examples as multi-hot rows, (interactions, tags)."""
    bag = examples.features.batch(examples.indices).bags["tags"]
    rows = torch.zeros(len(examples.indices), max(examples.features.vocabulary_sizes["tags"], 1))
    rows[torch.repeat_interleave(torch.arange(len(rows)), bag.offsets.diff()), bag.indices] = 1
    return rows


def _relative_representation(trainer: StageTrainer, config: RelativeConfig, _: Network | None) -> RelativeRepresentation:
    """Trains the encoders on single interactions labelled with what their event bought, then the GRU over the cosines.

    Anchors come from the training events; an item with too few suitable events gets fewer anchors than its share.
    """
    seed = trainer.context.config.seed
    anchors = trainer.training.select(anchor_events(trainer.training, config.anchors, np.random.default_rng(seed)))
    if not len(anchors):
        raise NothingToLearnError("anchors: no purchase events after exactly one conversation and one session")
    trainer.context.progress.log(f"{len(anchors)} anchors of {config.anchors}")
    network = trainer.build(RelativeRepresentation, config)
    trainer.fit(network.session, StageOptions("session encoder", 256), _single_interactions("session"))
    trainer.fit(network.conversation, StageOptions("conversation encoder", 128), _single_interactions("conversation"))
    _fill_anchors(network.session_anchors, network.session, anchors.of_modality("session"))
    _fill_anchors(network.conversation_anchors, network.conversation, anchors.of_modality("conversation"))
    network.session.requires_grad_(requires_grad=False)
    network.conversation.requires_grad_(requires_grad=False)
    trainer.fit(network, StageOptions("relative_representation", 256))
    return network


def _single_interactions(modality: Modality) -> Select:
    return lambda examples: examples.of_modality(modality).as_single_interactions()


def _fill_anchors(buffer: Tensor, encoder: Encoder, anchors: Examples) -> None:
    with torch.no_grad():
        buffer[: len(anchors)] = encoder.embed(anchors.features.batch(anchors.indices))


def isthmus_loss(network: Network, batch: ExampleBatch) -> Tensor:
    """Binary cross-entropy of all interactions plus, for users with both modalities, half as much of each modality alone, (b,).

    So the evidence of one modality is complete without the other, as in Late fusion, and both still share one space. Where the
    network knows items' texts, their own predictions count too, of items with sales.
    """
    isthmus = cast("IsthmusNetwork", network)
    states = encode(network, network.embed(batch.inputs), batch.lengths)
    lengths = batch.lengths.to(states.device)
    owners = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths)
    texts = states.new_zeros(len(lengths)).index_add(0, owners, batch.inputs.is_text.squeeze(1))
    both = ((texts > 0) & (texts < lengths)).unsqueeze(1)
    joint, session, conversation = (
        binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")
        for logits in isthmus.training_logits(states, batch.holdings)
    )
    losses = joint + SINGLE_MODALITY_WEIGHT * both * (session + conversation)
    if isthmus.sold is None:
        return (losses * batch.choices).mean(dim=1)
    by_text = binary_cross_entropy_with_logits(isthmus.text_logits(states), batch.labels, reduction="none")
    return ((losses + TEXT_WEIGHT * by_text) * batch.choices * isthmus.sold).mean(dim=1)


def _isthmus(trainer: StageTrainer, config: IsthmusConfig, warm: Network | None) -> Network:
    """Validation determines the number of epochs; then a second network learns from all events, the newest included (LOG.md)."""
    first, network = (trainer.build(IsthmusNetwork, config) for _ in range(2))
    if warm is not None:
        first.load_state_dict(warm.state_dict())
        network.load_state_dict(warm.state_dict())
    if trainer.texts is not None:
        trainer = _from_first_sales(trainer)
        for one in (first, network):
            _fit_texts(one, trainer)
    options = StageOptions("isthmus", 256, isthmus_loss, learning_rate=3e-3, ema_decay=0.98)
    validated = trainer.fit(first, options)
    trainer.refit(network, replace(options, name="isthmus, all events"), validated.best_epoch, validated=first)
    return network


def _from_first_sales(trainer: StageTrainer) -> StageTrainer:
    """Returns the trainer with examples in which an item counts only from its first purchase on.

    A new item was not bought before because it did not exist. If that counted, its score would fall with its first training.
    """
    examples, count = trainer.all_examples, len(trainer.training)
    choices = examples.choices * examples.labels.cummax(dim=0).values
    return replace(
        trainer,
        training=replace(trainer.training, choices=choices[:count]),
        validation=replace(trainer.validation, choices=choices[count:]),
        all_examples=replace(examples, choices=choices),
    )


def _fit_texts(network: IsthmusNetwork, trainer: StageTrainer) -> None:
    """Finds the space of tags, calls and items' texts, whatever a warm start's was: texts may have changed."""
    texts = trainer.texts
    if network.item_texts is None or texts is None:
        return
    features, tags = trainer.all_examples.features, trainer.featurizer.vocabularies["tags"].tokens
    sessions = int((features.text_index < 0).sum())
    counts = np.bincount(features.bags["tags"][0], minlength=len(tags))
    width = trainer.featurizer.text_width
    items = [texts.items.get(item, np.zeros(width, dtype=np.float32)) for item in trainer.items]
    before = network.item_texts.reliance.clone()
    network.item_texts.fit(
        tags=torch.from_numpy(texts.encode(tags)),
        items=torch.from_numpy(np.stack(items)),
        calls=torch.from_numpy(features.texts[-_CALLS:]),
        rarity=torch.from_numpy(np.log(max(sessions, 1) / np.maximum(counts, 1)).astype(np.float32)),
        purchases=trainer.all_examples.labels.sum(dim=0),
    )
    with torch.no_grad():  # what the text no longer says of an item's popularity, the item says itself
        network.head.bias.add_((before - network.item_texts.reliance) * network.item_texts.base)


RECIPES: Final[dict[str, Recipe]] = {
    "session": _single_stage("session", SESSION_BATCH, _modality("session")),
    "conversation": _single_stage("conversation", CONVERSATION_BATCH, _modality("conversation")),
    "conversation_keyword": _single_stage("conversation_keyword", CONVERSATION_BATCH, _modality("conversation")),
    "late_fusion": _late_fusion(LateFusion),
    "late_fusion+owned": _late_fusion(LateFusionOwned),
    "knowledge_distillation": _knowledge_distillation,
    "generative_imputation": _generative_imputation,
    "neutral_imputation": _neutral_imputation,
    "latent_feature": _single_stage("latent_feature", select=weighted),
    "latent_feature+owned": _single_stage("latent_feature+owned", select=weighted),
    "relative_representation": _relative_representation,
    "isthmus": _isthmus,
}
"""The systems that need more than the default: a single stage with batches of 512 on all events."""


def recipe_of(name: str) -> Recipe:
    """Returns how a system is trained."""
    return RECIPES.get(name) or _single_stage(name)
