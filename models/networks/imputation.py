"""Two branches (the authors' network for distillation and imputation): a dense layer on the mean of all sentences of all
conversations, a GRU over the sessions, both side by side into a dense layer and the head.

Here is that core, and three systems on it: the student of Knowledge distillation, which sees both branches filled, and Neutral and
Generative imputation, which fill the one that is missing. The mean of sentences goes on one conversation at a time: the state
holds their sum and their number.
"""

from typing import ClassVar, cast

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from models.features import FeatureBatch, Featurizer
from models.layers import BagLayer, Gru, Head, linear
from models.network import GruConfig, Network
from models.networks.unimodal import SessionNetwork
from stream.core import limits


class Branches(nn.Module):
    """A state is the sum of sentence vectors (w), how many sentences (1), the GRU's state, how many sessions (1)."""

    def __init__(self, config: GruConfig, reader: Featurizer, items: int) -> None:
        super().__init__()
        self.gru = Gru(config.hidden)
        self.tags = BagLayer("tags", len(reader.vocabularies["tags"]), self.gru.gates)
        self.dense = linear(max(reader.text_width, 1), config.hidden)
        self.joint = linear(2 * config.hidden, config.hidden)
        self.head = Head(config.hidden, config.dense, items, config.dropout)
        self.text_width = max(reader.text_width, 1)
        self.parts = [self.text_width, 1, config.hidden, 1]
        self.row_parts = [self.text_width + 1, self.gru.gates, 1]
        self.width = sum(self.parts)

    def embed(self, inputs: FeatureBatch) -> Tensor:
        """(n, text width + 1 + gates + 1)."""
        return torch.cat([sentence_sums(inputs, self.text_width), self.tags(inputs), 1 - inputs.is_text], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        sums, gates, is_session = torch.split(rows, self.row_parts, dim=1)
        told, hidden, sessions = torch.split(states, [self.text_width + 1, self.gru.hidden, 1], dim=1)
        turned = torch.where(is_session > 0, self.gru(hidden, gates), hidden)
        return torch.cat([told + sums, turned, sessions + is_session], dim=1)

    def seen(self, states: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The mean sentence vector, whether there was one (n, 1), the GRU's state, whether there was a session (n, 1)."""
        sums, sentences, hidden, sessions = torch.split(states, self.parts, dim=1)
        return sums / sentences.clamp(min=1), sentences > 0, hidden, sessions > 0

    def of_sessions(self, sessions: Tensor) -> Tensor:
        """The GRU's state after sessions as multi-hot rows, (n, T, tags) -> (n, hidden); empty ones are passed over."""
        hidden = sessions.new_zeros(len(sessions), self.gru.hidden)
        for turn in range(sessions.shape[1]):
            session = sessions[:, turn]
            turned = self.gru(hidden, self.tags.of_multi_hot(session))
            hidden = torch.where(session.any(dim=1, keepdim=True), turned, hidden)
        return hidden

    def logits(self, texts: Tensor, hidden: Tensor) -> Tensor:
        joint = relu(self.joint(torch.cat([self.dense(texts), hidden], dim=1)))
        return cast("Tensor", self.head(joint))


def sentence_sums(inputs: FeatureBatch, width: int) -> Tensor:
    """Each interaction's sum of sentence vectors and their number, (n, width + 1); nought for sessions."""
    sums = inputs.is_text.new_zeros(len(inputs), width + 1)
    if not inputs.texts.shape[1]:
        return sums
    sentences = inputs.sentences.index_select(0, inputs.text_rows)
    return sums.index_copy(0, inputs.text_rows, torch.cat([inputs.texts * sentences, sentences], dim=1))


class Student(Network):
    """The network of Knowledge distillation for events of both modalities; no system by itself."""

    default: ClassVar = GruConfig(hidden=128, dense=128, dropout=0.4)
    token_fields: ClassVar = ("tags",)
    uses_text_vectors: ClassVar = True

    def __init__(self, config: GruConfig, reader: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.core = Branches(config, reader, len(prior))
        self.width = self.core.width

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return self.core.embed(inputs)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        return self.core.advance(states, rows)

    def logits(self, states: Tensor) -> Tensor:
        texts, _, hidden, _ = self.core.seen(states)
        return self.core.logits(texts, hidden)


class NeutralImputation(Network):
    """Missing conversations become the mean vector of the training events' conversations, missing sessions one session of the tags
    that most training sessions have (paper, section 4). Where no tag is in most sessions that is none at all.
    """

    default: ClassVar = GruConfig(hidden=128, dense=128, dropout=0.2)
    token_fields: ClassVar = ("tags",)
    uses_text_vectors: ClassVar = True

    def __init__(self, config: GruConfig, reader: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.core = Branches(config, reader, len(prior))
        self.width = self.core.width
        self.register_buffer("mean_text", torch.zeros(1, self.core.text_width))
        self.register_buffer("usual_tags", torch.zeros(1, 1, len(self.core.tags.weight)))
        self.mean_text: Tensor
        self.usual_tags: Tensor

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return self.core.embed(inputs)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        return self.core.advance(states, rows)

    def logits(self, states: Tensor) -> Tensor:
        texts, has_text, hidden, has_session = self.core.seen(states)
        texts = torch.where(has_text, texts, self.mean_text)
        hidden = torch.where(has_session, hidden, self.core.of_sessions(self.usual_tags))
        return self.core.logits(texts, hidden)


class SessionGenerator(Network):
    """Sessions from conversations: the mean sentence vector through a dense layer, repeated, a GRU, the logits of each tag at each
    of the last `turns` sessions, (n, turns * tags), padded in front.
    """

    uses_text_vectors: ClassVar = True
    turns: ClassVar = limits.WINDOW

    def __init__(self, config: GruConfig, reader: Featurizer) -> None:
        super().__init__()
        self.text_width = max(reader.text_width, 1)
        self.width = self.text_width + 1
        self.dense = linear(self.text_width, config.dense)
        self.dropout = nn.Dropout(config.dropout)
        self.gru = Gru(config.hidden)
        self.gates = linear(config.dense, self.gru.gates)
        self.output = linear(config.hidden, max(len(reader.vocabularies["tags"]), 1))

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return sentence_sums(inputs, self.text_width)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        return states + rows

    def logits(self, states: Tensor) -> Tensor:
        return self.of_texts(states[:, :-1] / states[:, -1:].clamp(min=1))

    def of_texts(self, texts: Tensor) -> Tensor:
        read = self.dense(texts)
        hidden = read.new_zeros(len(read), self.gru.hidden)
        made = []
        for _ in range(self.turns):
            hidden = self.gru(hidden, self.gates(self.dropout(read)))
            made.append(self.output(hidden))
        return torch.cat(made, dim=1)

    def sessions(self, texts: Tensor) -> Tensor:
        """The tags that are likelier than not, as multi-hot rows (n, turns, tags)."""
        return (self.of_texts(texts) > 0).to(texts.dtype).reshape(len(texts), self.turns, -1)


class GenerativeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the ranking network and of the two that make what is missing."""

    ranking: GruConfig = GruConfig(dropout=0.2)
    texts: GruConfig = GruConfig(hidden=64, dense=64, dropout=0.4)
    sessions: GruConfig = GruConfig(dropout=0.3)


class GenerativeImputation(Network):
    """A network makes the missing modality from the present one, both ways (paper, section 4); both are trained before, on events
    of both modalities, and stay as they are. `texts_from` is a GRU over sessions whose outputs are a mean sentence vector.

    A state is the core's and `texts_from`'s. Deviation: where no session is made because no tag is likely enough, the GRU's state
    is nought; the authors' code leaves such events out.
    """

    default: ClassVar = GenerativeConfig()
    token_fields: ClassVar = ("tags",)
    uses_text_vectors: ClassVar = True

    def __init__(self, config: GenerativeConfig, reader: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.core = Branches(config.ranking, reader, len(prior))
        self.texts_from = SessionNetwork(config.texts, reader, prior.new_zeros(self.core.text_width))
        self.sessions_from = SessionGenerator(config.sessions, reader)
        self.width = self.core.width + self.texts_from.width
        self.parts = [self.core.width, self.texts_from.width]
        self.row_parts = [sum(self.core.row_parts), self.texts_from.gru.gates + 1]

    def train(self, mode: bool = True) -> "GenerativeImputation":  # noqa: FBT001, FBT002  (torch's signature)
        super().train(mode)
        self.texts_from.eval()  # what is made does not depend on chance
        self.sessions_from.eval()
        return self

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return torch.cat([self.core.embed(inputs), self.texts_from.embed(inputs)], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        core, texts = torch.split(states, self.parts, dim=1)
        core_rows, text_rows = torch.split(rows, self.row_parts, dim=1)
        return torch.cat([self.core.advance(core, core_rows), self.texts_from.advance(texts, text_rows)], dim=1)

    def logits(self, states: Tensor) -> Tensor:
        core, made_from = torch.split(states, self.parts, dim=1)
        texts, has_text, hidden, has_session = self.core.seen(core)
        missing = (~has_session).squeeze(1).nonzero().squeeze(1)
        if len(missing):
            sessions = self.sessions_from.sessions(texts.index_select(0, missing))
            hidden = hidden.index_copy(0, missing, self.core.of_sessions(sessions))
        texts = torch.where(has_text, texts, self.texts_from.logits(made_from))
        return self.core.logits(texts, hidden)
