"""Session and Conversation (paper, section 4): a GRU over the interactions of one modality; the other modality is ignored.

For users with the other modality only, these systems return the items' popularity. Deviation: the authors' code averages a user's
sentences over all conversations before two dense layers; here a GRU reads each conversation's mean vector, as the task description
says. `conversation_keyword` reads the conversations' keywords instead of vectors.
"""

from typing import ClassVar

import torch
from torch import Tensor

from models.features import FeatureBatch, Featurizer
from models.layers import BagLayer, Gru, Head, TextLayer
from models.network import GruConfig, Network


class UniModal(Network):
    """A network of one modality.

    A row holds the GRU's gates and a flag, 1 for interactions of the modality. A state holds the GRU's state and the number of such
    interactions.
    """

    def __init__(self, config: GruConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.width = config.hidden + 1
        self.gru = Gru(config.hidden)
        self.layer: BagLayer | TextLayer
        if self.uses_text_vectors:
            self.layer = TextLayer(featurizer.text_width, self.gru.gates)
        else:
            self.layer = BagLayer(self.token_fields[0], len(featurizer.vocabularies[self.token_fields[0]]), self.gru.gates)
        self.head = Head(config.hidden, config.dense, len(prior), config.dropout)
        self.register_buffer("prior", prior, persistent=False)  # stored in items.json
        self.prior: Tensor

    def embed(self, inputs: FeatureBatch) -> Tensor:
        is_read = inputs.is_text if self.uses_conversations else 1 - inputs.is_text
        return torch.cat([self.layer(inputs), is_read], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        hidden, seen = states[:, :-1], states[:, -1:]
        is_read = rows[:, -1:]
        advanced = self.gru(hidden, rows[:, :-1])
        return torch.cat([torch.where(is_read > 0, advanced, hidden), seen + is_read], dim=1)

    def logits(self, states: Tensor) -> Tensor:
        logits: Tensor = self.head(states[:, :-1])
        return logits

    def scores(self, states: Tensor) -> Tensor:
        return torch.where(states[:, -1:] > 0, torch.sigmoid(self.logits(states)), self.prior)


class SessionNetwork(UniModal):
    """Reads each session's multi-hot tags, max-pooled over its clicks."""

    default: ClassVar = GruConfig(dropout=0.3)
    token_fields: ClassVar = ("tags",)
    uses_conversations: ClassVar = False


class ConversationNetwork(UniModal):
    """Reads each conversation's mean sentence vector."""

    default: ClassVar = GruConfig(dropout=0.2)
    uses_text_vectors: ClassVar = True
    uses_sessions: ClassVar = False


class ConversationKeywordNetwork(UniModal):
    """Reads each conversation's multi-hot keywords."""

    default: ClassVar = GruConfig(dropout=0.2)
    token_fields: ClassVar = ("keywords",)
    uses_sessions: ClassVar = False
