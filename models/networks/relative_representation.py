"""Relative Representation (paper, section 4): an interaction is how similar it is to anchors, which were seen in both modalities.

Each modality has an encoder of its own, trained before on single interactions. An anchor is a purchase event with exactly one
conversation and one session: a conversation is compared with the anchors' conversations, a session with their sessions, and both
land in one space, the cosines. A GRU reads these with the conversation indicator. Where there are fewer anchors than the
configuration names, the others stay nought and say nothing.
"""

from typing import ClassVar

import msgspec
import torch
from torch import Tensor
from torch.nn.functional import normalize

from models.features import FeatureBatch, Featurizer
from models.layers import BagLayer, Gru, Head, TextLayer, linear
from models.network import GruConfig, Network


class RelativeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the ranking network and of both encoders, whose `hidden` is the size of an encoding."""

    anchors: int = 125
    ranking: GruConfig = GruConfig(dropout=0.3)
    session: GruConfig = GruConfig(dropout=0.2)
    conversation: GruConfig = GruConfig(dropout=0.4)


class Encoder(Network):
    """One interaction through a dense tanh layer; its head tells the items from that encoding. A state is the last encoding."""

    def __init__(self, layer: BagLayer | TextLayer, config: GruConfig, items: int) -> None:
        super().__init__()
        self.layer = layer
        self.head = Head(config.hidden, config.dense, items, config.dropout)
        self.width = config.hidden

    def embed(self, inputs: FeatureBatch) -> Tensor:
        return torch.tanh(self.layer(inputs))

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        del states
        return rows

    def logits(self, states: Tensor) -> Tensor:
        logits: Tensor = self.head(states)
        return logits


class RelativeRepresentation(Network):
    """A row is an interaction's cosines to the anchors and its conversation indicator, as the GRU's gates."""

    default: ClassVar = RelativeConfig()
    token_fields: ClassVar = ("tags",)
    uses_text_vectors: ClassVar = True

    def __init__(self, config: RelativeConfig, reader: Featurizer, prior: Tensor) -> None:
        super().__init__()
        ranking, items = config.ranking, len(prior)
        tags = BagLayer("tags", len(reader.vocabularies["tags"]), config.session.hidden)
        self.session = Encoder(tags, config.session, items)
        self.conversation = Encoder(TextLayer(reader.text_width, config.conversation.hidden), config.conversation, items)
        self.register_buffer("session_anchors", torch.zeros(config.anchors, config.session.hidden))
        self.register_buffer("conversation_anchors", torch.zeros(config.anchors, config.conversation.hidden))
        self.session_anchors: Tensor
        self.conversation_anchors: Tensor
        self.width = ranking.hidden
        self.gru = Gru(ranking.hidden)
        self.gates = linear(config.anchors + 1, self.gru.gates)
        self.head = Head(ranking.hidden, ranking.dense, items, ranking.dropout)

    def embed(self, inputs: FeatureBatch) -> Tensor:
        by_session = cosines(self.session.embed(inputs), self.session_anchors)
        by_conversation = cosines(self.conversation.embed(inputs), self.conversation_anchors)
        relative = torch.where(inputs.is_text > 0, by_conversation, by_session)
        gates: Tensor = self.gates(torch.cat([relative, inputs.is_text], dim=1))
        return gates

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        advanced: Tensor = self.gru(states, rows)
        return advanced

    def logits(self, states: Tensor) -> Tensor:
        logits: Tensor = self.head(states)
        return logits


def cosines(encodings: Tensor, anchors: Tensor) -> Tensor:
    """(n, w), (A, w) -> (n, A)."""
    return normalize(encodings) @ normalize(anchors).T
