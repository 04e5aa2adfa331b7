"""Isthmus, our own model: max-pools ReLU evidence over interactions with a learned decay.

A session contributes its tags and clicks (which tags occurred together), a conversation its sentence vector and keywords; both
become ReLU units of one space. The maximum over interactions is kept rather than the sum, because looking at the same thing twice
is not twice the evidence. Each modality has its own memory; both are added before one head, so that the evidence of one modality
counts the same whether the other is present or not. Training also predicts the label from each memory alone (`training.recipes`).
The experiments behind this design are in training/LOG.md.
"""

from typing import ClassVar, Final, cast

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, relu

from models.features import Bag, FeatureBatch, Featurizer
from models.layers import HoldingsLayer, bag_sums, linear
from models.network import Network

_SMALL: Final = 0.05  # standard deviation of the initial token weights
_KEPT: Final = 2.0  # initial logit of the decay: a unit keeps 88 % when another interaction follows


class IsthmusConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the network.

    Attributes:
        units: of evidence, in each modality's memory.
        dropout: share of a user's units that training drops.
        input_dropout: share of the inputs that training drops.
    """

    units: int = 128
    dropout: float = 0.3
    input_dropout: float = 0.2


class IsthmusNetwork(Network):
    """A row holds an interaction's evidence in its modality's half and zero in the other's, (n, 2 units); so does a state."""

    default: ClassVar = IsthmusConfig()
    token_fields: ClassVar = ("tags", "clicks", "keywords")
    uses_text_vectors: ClassVar = True
    uses_holdings: ClassVar = True

    def __init__(self, config: IsthmusConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.config = config
        self.width = 2 * config.units
        sizes = {name: max(len(featurizer.vocabularies[name]), 1) for name in self.token_fields}
        self.tokens = nn.ParameterDict(
            {name: nn.Parameter(_SMALL * torch.randn(size, config.units)) for name, size in sizes.items()}
        )
        bound = max(featurizer.text_width, 1) ** -0.5
        self.texts = nn.Parameter(torch.empty(config.units, featurizer.text_width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.full((2, config.units), 0.1))
        self.kept = nn.Parameter(torch.full((config.units,), _KEPT))
        self.holdings = HoldingsLayer(len(prior), config.units, config.input_dropout)
        self.head = linear(config.units, len(prior))
        with torch.no_grad():
            self.head.bias.copy_(torch.logit(prior, eps=1e-4))

    def embed(self, inputs: FeatureBatch) -> Tensor:
        is_text = inputs.is_text
        evidence = torch.lerp(self.bias[0], self.bias[1], is_text)  # (n, units)
        for name, weight in self.tokens.items():
            evidence = evidence + bag_sums(inputs.bags[name], weight, self.config.input_dropout if self.training else 0.0)
        texts = dropout(inputs.texts, self.config.input_dropout, self.training) @ self.texts.T
        evidence = relu(evidence.index_add(0, inputs.text_rows, texts))
        return torch.cat([evidence * (1 - is_text), evidence * is_text], dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        return torch.maximum(states * torch.sigmoid(self.kept).repeat(2), rows)

    def logits(self, states: Tensor) -> Tensor:
        session, conversation = states.chunk(2, dim=1)
        return self.of_evidence(session + conversation)

    def holder_logits(self, states: Tensor, holdings: Bag) -> Tensor:
        session, conversation = states.chunk(2, dim=1)
        return self.of_evidence(session + conversation + self.holdings(holdings))

    def training_logits(self, states: Tensor, holdings: Bag) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the logits from both modalities, from the sessions alone and from the conversations alone, (n, I) each."""
        session, conversation = states.chunk(2, dim=1)
        held = self.holdings(holdings)
        return (
            self.of_evidence(session + conversation + held),
            self.of_evidence(session + held),
            self.of_evidence(conversation + held),
        )

    def of_evidence(self, evidence: Tensor) -> Tensor:
        """Returns the logits of pooled evidence, (n, units) -> (n, I)."""
        return cast("Tensor", self.head(dropout(evidence, self.config.dropout, self.training)))
