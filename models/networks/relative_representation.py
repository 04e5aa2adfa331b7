"""Relative Representation (paper, section 4): an interaction is represented by its similarity to anchors seen in both modalities.

Each modality has its own encoder, trained first on single interactions. An anchor is a purchase event with exactly one conversation
and one session. A conversation is compared with the anchors' conversations, a session with their sessions; the cosines form one
space for both. A GRU reads them with the conversation indicator. Where fewer anchors exist than are configured, the rest stay zero
and have no effect.
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
    """Sizes of the ranking network and of both encoders; an encoder's `hidden` is the size of an encoding."""

    anchors: int = 125
    ranking: GruConfig = GruConfig(dropout=0.3)
    session: GruConfig = GruConfig(dropout=0.2)
    conversation: GruConfig = GruConfig(dropout=0.4)


class Encoder(Network):
    """Encodes one interaction with a dense tanh layer; a head predicts the items from it. The state is the last encoding."""

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
    """A row holds the GRU's gates for an interaction's cosines to the anchors with its conversation indicator."""

    default: ClassVar = RelativeConfig()
    token_fields: ClassVar = ("tags",)
    uses_text_vectors: ClassVar = True

    def __init__(self, config: RelativeConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__()
        ranking, items = config.ranking, len(prior)
        tags = BagLayer("tags", len(featurizer.vocabularies["tags"]), config.session.hidden)
        self.session = Encoder(tags, config.session, items)
        self.conversation = Encoder(TextLayer(featurizer.text_width, config.conversation.hidden), config.conversation, items)
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
    """Returns the cosine of each encoding to each anchor, (n, w), (A, w) -> (n, A)."""
    return normalize(encodings) @ normalize(anchors).T
