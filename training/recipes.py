"""How each system is trained: in which stages, on which events, with which batch and loss. Batches, weights and losses are those of
the paper's authors (github.com/simonebbruun/RS_multi_modal_user_interactions, `model_*.py`); deviations are said at each recipe.
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
from models.networks.imputation import GenerativeConfig, GenerativeImputation, NeutralImputation
from models.networks.isthmus import IsthmusConfig, IsthmusNetwork
from models.networks.late_fusion import DistillationConfig, FusionConfig, KnowledgeDistillation, LateFusion
from models.networks.relative_representation import Encoder, RelativeConfig, RelativeRepresentation
from models.networks.unimodal import ConversationNetwork, SessionNetwork
from models.systems import network_type
from stream.core.interactions import Modality
from training.anchors import anchor_events
from training.example_arrays import Batch, Examples
from training.loop import cross_entropy
from training.stages import WHOLE, NothingToLearnError, Select, StageTrainer

SESSION_BATCH: Final = 256
CONVERSATION_BATCH: Final = 512
IMPUTATION_BATCH: Final = 128
ALONE: Final = 0.5  # weight of what one modality alone says where both are there
RARE_WEIGHT: Final = 2.0  # of events of the rarer modality
_CHUNK: Final = 1_000

Recipe = Callable[[StageTrainer, Any, Network | None], Network]
"""Trains with a network configuration, from a warm network where one fits, and gives the network."""


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


def _single(name: str, batch: int, select: Select = WHOLE) -> Recipe:
    """A system of one network and one stage."""

    def recipe(work: StageTrainer, config: Any, warm: Network | None) -> Network:
        network = work.make(network_type(name), config)
        if warm is not None:
            network.load_state_dict(warm.state_dict())
        work.fit(name, network, batch, select)
        return network

    return recipe


def _fit_both(work: StageTrainer, network: LateFusion, config: FusionConfig) -> None:
    """Session and Conversation, to the very weights that they have alone."""
    network.session.load_state_dict(work.make(SessionNetwork, config.session).state_dict())
    work.fit("session", network.session, SESSION_BATCH, _only("session"))
    network.conversation.load_state_dict(work.make(ConversationNetwork, config.conversation).state_dict())
    work.fit("conversation", network.conversation, CONVERSATION_BATCH, _only("conversation"))


def _late_fusion(work: StageTrainer, config: FusionConfig, _: Network | None) -> LateFusion:
    network = work.make(LateFusion, config)
    _fit_both(work, network, config)
    return network


def _knowledge_distillation(work: StageTrainer, config: DistillationConfig, _: Network | None) -> KnowledgeDistillation:
    """BCE(bought) + a BCE(conversation teacher) + b BCE(session teacher) on events of both modalities; a, b are the shares of all
    events that have conversations, sessions.
    """
    network = work.make(KnowledgeDistillation, config)
    teachers = network.teachers
    _fit_both(work, teachers, FusionConfig(session=config.session, conversation=config.conversation))
    types = np.concatenate([work.examples.types, work.check.types])
    alpha, beta = float((types != "session").mean()), float((types != "conversation").mean())

    def taught(examples: Examples) -> Examples:
        both = examples.of_type("both")
        answers = [answers_of(teacher, both) for teacher in (teachers.conversation, teachers.session)]
        return replace(both, labels=torch.cat([both.labels, *answers], dim=1))

    def loss(student: Network, batch: Batch) -> Tensor:
        logits = student.logits(encode(student, student.embed(batch.inputs), batch.lengths))
        bought, conversation, session = (
            binary_cross_entropy_with_logits(logits, wanted, reduction="none").mean(dim=1)
            for wanted in batch.labels.chunk(3, dim=1)
        )
        return bought + alpha * conversation + beta * session

    work.fit("student", network.student, 256, taught, loss)
    return network


def answers_of(network: Network, examples: Examples) -> Tensor:
    """A trained network's scores, (n, I)."""
    parts = [torch.zeros(0, examples.labels.shape[1])]
    with torch.inference_mode():
        for start in range(0, len(examples), _CHUNK):
            batch = examples.batch(np.arange(start, min(start + _CHUNK, len(examples))))
            parts.append(network.scores(encode(network, network.embed(batch.inputs), batch.lengths)))
    return torch.cat(parts).clone()


def _neutral_imputation(work: StageTrainer, config: GruConfig, _: Network | None) -> NeutralImputation:
    network = work.make(NeutralImputation, config)
    texts, tags = mean_texts(work.examples.only("conversation")), session_tags(work.examples.only("session"))
    if len(texts):
        network.mean_text.copy_(texts.mean(dim=0))
    if len(tags):
        network.usual_tags.copy_((tags.mean(dim=0) > 0.5).float())
    work.fit("neutral_imputation", network, IMPUTATION_BATCH)
    return network


def _generative_imputation(work: StageTrainer, config: GenerativeConfig, _: Network | None) -> GenerativeImputation:
    """First the two networks that make a modality of the other, by the mean squared error of the mean sentence vector and by the
    cross-entropy of the tags; then the ranking network on what was there and what was made.
    """
    network = work.make(GenerativeImputation, config)
    turns = network.sessions_from.turns
    work.fit("texts from sessions", network.texts_from, IMPUTATION_BATCH, _texts_to_make, _squared_error)
    work.fit("sessions from texts", network.sessions_from, IMPUTATION_BATCH, partial(_sessions_to_make, turns=turns), cross_entropy)
    network.texts_from.requires_grad_(requires_grad=False)
    network.sessions_from.requires_grad_(requires_grad=False)
    work.fit("generative_imputation", network, IMPUTATION_BATCH)
    return network


def _texts_to_make(examples: Examples) -> Examples:
    """The sessions of events of both modalities; to be learned: the mean of the conversations' sentences."""
    both = examples.of_type("both")
    return replace(both.only("session"), labels=mean_texts(both.only("conversation")))


def _sessions_to_make(examples: Examples, turns: int) -> Examples:
    """The conversations of events of both modalities; to be learned: the tags of each of the sessions, padded in front."""
    both = examples.of_type("both")
    sessions = both.only("session")
    tags = session_tags(sessions)
    labels = torch.zeros(len(sessions), turns, tags.shape[1])
    lengths = sessions.lengths
    rows = np.repeat(np.arange(len(sessions)), lengths)
    places = np.arange(len(tags)) - np.repeat(sessions.starts[1:], lengths) + turns  # the last session stands last
    labels[torch.from_numpy(rows), torch.from_numpy(places)] = tags
    return replace(both.only("conversation"), labels=labels.flatten(1))


def _squared_error(network: Network, batch: Batch) -> Tensor:
    made = network.logits(encode(network, network.embed(batch.inputs), batch.lengths))
    return mse_loss(made, batch.labels, reduction="none").mean(dim=1)


def mean_texts(examples: Examples) -> Tensor:
    """The mean sentence vector of each example, which has conversations only, (n, width)."""
    read, picks = examples.read, examples.picks
    if not len(examples):
        return torch.zeros(0, read.texts.shape[1])
    sentences = read.sentences[picks]
    sums = np.add.reduceat(read.texts[read.text[picks]] * sentences[:, None], examples.starts[:-1])
    return torch.from_numpy(sums / np.add.reduceat(sentences, examples.starts[:-1])[:, None])


def session_tags(examples: Examples) -> Tensor:
    """The tags of all interactions of the examples as multi-hot rows, (interactions, tags)."""
    bag = examples.read.inputs(examples.picks).bags["tags"]
    rows = torch.zeros(len(examples.picks), max(examples.read.tokens["tags"], 1))
    rows[torch.repeat_interleave(torch.arange(len(rows)), bag.offsets.diff()), bag.places] = 1
    return rows


def _relative_representation(work: StageTrainer, config: RelativeConfig, _: Network | None) -> RelativeRepresentation:
    """Encoders on single interactions, each labelled with what its event bought; then the GRU over the cosines. Anchors come from
    the training events, and where an item has fewer fitting ones than its share asks for, there are fewer.
    """
    anchors = work.examples.at(anchor_events(work.examples, config.anchors, np.random.default_rng(work.config.seed)))
    if not len(anchors):
        raise NothingToLearnError("anchors: no purchase events after exactly one conversation and one session")
    work.watch.say(f"{len(anchors)} anchors of {config.anchors}")
    network = work.make(RelativeRepresentation, config)
    work.fit("session encoder", network.session, 256, lambda examples: examples.only("session").singly())
    work.fit("conversation encoder", network.conversation, 128, lambda examples: examples.only("conversation").singly())
    _fill(network.session_anchors, network.session, anchors.only("session"))
    _fill(network.conversation_anchors, network.conversation, anchors.only("conversation"))
    network.session.requires_grad_(requires_grad=False)
    network.conversation.requires_grad_(requires_grad=False)
    work.fit("relative_representation", network, 256)
    return network


def _fill(anchors: Tensor, encoder: Encoder, examples: Examples) -> None:
    with torch.no_grad():
        anchors[: len(examples)] = encoder.embed(examples.read.inputs(examples.picks))


def with_each_alone(network: Network, batch: Batch) -> Tensor:
    """Binary cross-entropy of all that a user has shown and, where that is of both modalities, half as much of each alone (b,).

    So the evidence of one modality is complete without the other's, as in Late fusion, and still of one space.
    """
    isthmus = cast("IsthmusNetwork", network)
    states = encode(network, network.embed(batch.inputs), batch.lengths)
    lengths = batch.lengths.to(states.device)
    owners = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths)
    texts = states.new_zeros(len(lengths)).index_add(0, owners, batch.inputs.is_text.squeeze(1))
    both = ((texts > 0) & (texts < lengths)).unsqueeze(1)
    whole = binary_cross_entropy_with_logits(isthmus.logits(states), batch.labels, reduction="none")
    session, conversation = (
        binary_cross_entropy_with_logits(logits, batch.labels, reduction="none") for logits in isthmus.per_modality_logits(states)
    )
    return (whole + ALONE * both * (session + conversation)).mean(dim=1)


def _isthmus(work: StageTrainer, config: IsthmusConfig, warm: Network | None) -> Network:
    """Our own (training/LOG.md). Validation says how many epochs; then all events, the newest included, are learned from in as
    many.
    """
    first, network = (work.make(IsthmusNetwork, config) for _ in range(2))
    if warm is not None:
        first.load_state_dict(warm.state_dict())
        network.load_state_dict(warm.state_dict())
    rate, average = 3e-3, 0.98
    chosen = work.fit("isthmus", first, 256, loss=with_each_alone, learning_rate=rate, average=average)
    work.refit("isthmus, all events", network, 256, chosen.best_epoch, with_each_alone, learning_rate=rate, average=average)
    return network


RECIPES: Final[dict[str, Recipe]] = {
    "session": _single("session", SESSION_BATCH, _only("session")),
    "conversation": _single("conversation", CONVERSATION_BATCH, _only("conversation")),
    "conversation_keyword": _single("conversation_keyword", CONVERSATION_BATCH, _only("conversation")),
    "late_fusion": _late_fusion,
    "knowledge_distillation": _knowledge_distillation,
    "generative_imputation": _generative_imputation,
    "neutral_imputation": _neutral_imputation,
    "keyword": _single("keyword", 512),
    "latent_feature": _single("latent_feature", 512, weighted),
    "relative_representation": _relative_representation,
    "isthmus": _isthmus,
}
