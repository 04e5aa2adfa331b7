"""Keyword (paper, section 4): tags and keywords in one vocabulary, multi-hot with the conversation indicator, a GRU.

A keyword and a tag of one name are one input: that is how this system crosses modalities. Deviation: the authors count how frequent
a word is over clicks and sentences; here over interactions, for which sentences say what is not kept.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from models.features import FeatureBatch, Featurizer
from models.layers import BagLayer, Gru, Head
from models.network import GruConfig, Network


class KeywordNetwork(Network):
    """A row is an interaction's share of the GRU's gates."""

    default: ClassVar = GruConfig(dropout=0.2)
    token_fields: ClassVar = ("words",)

    def __init__(self, config: GruConfig, reader: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.width = config.hidden
        self.gru = Gru(config.hidden)
        self.words = BagLayer("words", len(reader.vocabularies["words"]), self.gru.gates)
        self.indicator = nn.Parameter(torch.zeros(1, self.gru.gates))
        self.head = Head(config.hidden, config.dense, len(prior), config.dropout)

    def embed(self, inputs: FeatureBatch) -> Tensor:
        gates: Tensor = self.words(inputs)
        return gates + inputs.is_text * self.indicator

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        advanced: Tensor = self.gru(states, rows)
        return advanced

    def logits(self, states: Tensor) -> Tensor:
        logits: Tensor = self.head(states)
        return logits
