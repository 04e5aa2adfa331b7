"""Session and Conversation (paper, section 4): a GRU over the interactions of one modality; those of the other do not move it.

On events of the other type alone these systems have nothing to go by and give the items' popularity. Deviation: the authors' code
averages a user's sentences over all conversations before two dense layers; here a GRU reads each conversation's mean vector, as in
the description of the task. `conversation_keyword` reads the conversations' keywords instead of vectors.
"""

from typing import ClassVar

import torch
from torch import Tensor

from models.features import FeatureBatch, Featurizer
from models.layers import BagLayer, Gru, Head, TextLayer
from models.network import GruConfig, Network


class UniModal(Network):
    """A row is the GRU's gates and whether they count (1); a state the GRU's and how many interactions of the modality it saw."""

    def __init__(self, config: GruConfig, reader: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.width = config.hidden + 1
        self.gru = Gru(config.hidden)
        self.layer: BagLayer | TextLayer
        if self.uses_text_vectors:
            self.layer = TextLayer(reader.text_width, self.gru.gates)
        else:
            self.layer = BagLayer(self.token_fields[0], len(reader.vocabularies[self.token_fields[0]]), self.gru.gates)
        self.head = Head(config.hidden, config.dense, len(prior), config.dropout)
        self.register_buffer("prior", prior, persistent=False)  # it lies in items.json
        self.prior: Tensor

    def embed(self, inputs: FeatureBatch) -> Tensor:
        counts = inputs.is_text if self.uses_conversations else 1 - inputs.is_text
        return torch.cat([self.layer(inputs), counts], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        hidden, seen = states[:, :-1], states[:, -1:]
        counts = rows[:, -1:]
        turned = self.gru(hidden, rows[:, :-1])
        return torch.cat([torch.where(counts > 0, turned, hidden), seen + counts], dim=1)

    def logits(self, states: Tensor) -> Tensor:
        logits: Tensor = self.head(states[:, :-1])
        return logits

    def scores(self, states: Tensor) -> Tensor:
        return torch.where(states[:, -1:] > 0, torch.sigmoid(self.logits(states)), self.prior)


class SessionNetwork(UniModal):
    """Reads the multi-hot tags of each session, max-pooled over its clicks."""

    default: ClassVar = GruConfig(dropout=0.3)
    token_fields: ClassVar = ("tags",)
    uses_conversations: ClassVar = False


class ConversationNetwork(UniModal):
    """Reads the mean sentence vector of each conversation."""

    default: ClassVar = GruConfig(dropout=0.2)
    uses_text_vectors: ClassVar = True


class ConversationKeywordNetwork(UniModal):
    """Reads the multi-hot keywords of each conversation."""

    default: ClassVar = GruConfig(dropout=0.2)
    token_fields: ClassVar = ("keywords",)
