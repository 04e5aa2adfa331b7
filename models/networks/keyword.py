"""Keyword (paper, section 4): a GRU over multi-hot tags and keywords in one vocabulary, with the conversation indicator.

A keyword and a tag of the same name are one input: this is how the system transfers between modalities. Deviation: the authors
count a word's frequency over clicks and sentences; here it is counted over interactions, because the state does not keep which
sentence held a keyword.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from models.features import FeatureBatch, Featurizer
from models.layers import BagLayer, Gru, Head
from models.network import GruConfig, Network


class KeywordNetwork(Network):
    """A row holds the GRU's gates for an interaction."""

    default: ClassVar = GruConfig(dropout=0.2)
    token_fields: ClassVar = ("words",)

    def __init__(self, config: GruConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.width = config.hidden
        self.gru = Gru(config.hidden)
        self.words = BagLayer("words", len(featurizer.vocabularies["words"]), self.gru.gates)
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
