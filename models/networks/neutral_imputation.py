"""Neutral imputation (paper, section 4): a missing modality is replaced by what is usual in the training events."""

from typing import ClassVar

import torch
from torch import Tensor

from models.features import FeatureBatch, Featurizer
from models.network import GruConfig, Network
from models.networks.two_branch import TwoBranchCore


class NeutralImputation(Network):
    """Fills a missing modality with a neutral value.

    Missing conversations become the mean vector of the training events' conversations. Missing sessions become one session with the
    tags that most training sessions have; where no tag is in most sessions, no session is added.
    """

    default: ClassVar = GruConfig(hidden=128, dense=128, dropout=0.2)
    token_fields: ClassVar = ("tags",)
    uses_text_vectors: ClassVar = True

    def __init__(self, config: GruConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.core = TwoBranchCore(config, featurizer, len(prior))
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
