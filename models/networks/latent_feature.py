"""Latent Feature (paper, section 4): a dense tanh layer per modality into one space, then a GRU over the interactions.

A missing modality adds nothing. `training.recipes` gives the rarer modality more weight. Deviation from the authors' code: there
the missing modality's layer reads zeros, so that its bias is added; here it is left out.
"""

from typing import ClassVar

import msgspec
import torch
from torch import Tensor

from models.features import FeatureBatch, Featurizer
from models.layers import BagLayer, Gru, Head, TextLayer, linear
from models.network import Network


class LatentFeatureConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the network; `latent` is the size of the space that both modalities share."""

    latent: int = 128
    hidden: int = 256
    dense: int = 256
    dropout: float = 0.3


class LatentFeatureNetwork(Network):
    """A row holds the GRU's gates for an interaction in the shared space with its conversation indicator."""

    default: ClassVar = LatentFeatureConfig()
    token_fields: ClassVar = ("tags",)
    uses_text_vectors: ClassVar = True

    def __init__(self, config: LatentFeatureConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.width = config.hidden
        self.tags = BagLayer("tags", len(featurizer.vocabularies["tags"]), config.latent)
        self.texts = TextLayer(featurizer.text_width, config.latent)
        self.gru = Gru(config.hidden)
        self.gates = linear(config.latent + 1, self.gru.gates)
        self.head = Head(config.hidden, config.dense, len(prior), config.dropout)

    def embed(self, inputs: FeatureBatch) -> Tensor:
        latent = torch.tanh(torch.where(inputs.is_text > 0, self.texts(inputs), self.tags(inputs)))
        gates: Tensor = self.gates(torch.cat([latent, inputs.is_text], dim=1))
        return gates

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        advanced: Tensor = self.gru(states, rows)
        return advanced

    def logits(self, states: Tensor) -> Tensor:
        logits: Tensor = self.head(states)
        return logits
