"""Isthmus, our own model: units of evidence in one space; of each a user keeps the most that an interaction showed, less of it the
more others followed.

A session shows its tags and its clicks (which tags came together), a conversation its sentence vector and keywords. Either becomes
rectified units of one space. A user's evidence is the maximum over interactions, not the sum: who looks at the same thing twice has
not said twice as much. Each modality has its memory; they are added before one head, so that the evidence of one is worth the same
whether the other is there or not. Training asks each memory alone for the label as well (`training.recipes`). How this was found:
training/LOG.md.
"""

from typing import ClassVar, Final, cast

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding_bag, relu

from models.features import Bag, FeatureBatch, Featurizer
from models.layers import linear
from models.network import Network

_SMALL: Final = 0.05  # standard deviation of the first weights of tokens
_KEPT: Final = 2.0  # logit of what a unit keeps at first when another interaction follows: 88 %


class IsthmusConfig(msgspec.Struct, frozen=True, kw_only=True):
    """`units` of evidence. `dropout` is the share of a user's units that training drops, `input_dropout` that of what it reads."""

    units: int = 128
    dropout: float = 0.3
    input_dropout: float = 0.2


class IsthmusNetwork(Network):
    """A row is an interaction's evidence in its modality's half, nought in the other's: (n, 2 units), as the state is."""

    default: ClassVar = IsthmusConfig()
    token_fields: ClassVar = ("tags", "clicks", "keywords")
    uses_text_vectors: ClassVar = True

    def __init__(self, config: IsthmusConfig, reader: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.config = config
        self.width = 2 * config.units
        sizes = {kind: max(len(reader.vocabularies[kind]), 1) for kind in self.token_fields}
        self.tokens = nn.ParameterDict(
            {kind: nn.Parameter(_SMALL * torch.randn(size, config.units)) for kind, size in sizes.items()}
        )
        bound = max(reader.text_width, 1) ** -0.5
        self.texts = nn.Parameter(torch.empty(config.units, reader.text_width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.full((2, config.units), 0.1))
        self.kept = nn.Parameter(torch.full((config.units,), _KEPT))
        self.head = linear(config.units, len(prior))
        with torch.no_grad():
            self.head.bias.copy_(torch.logit(prior, eps=1e-4))

    def embed(self, inputs: FeatureBatch) -> Tensor:
        is_text = inputs.is_text
        evidence = torch.lerp(self.bias[0], self.bias[1], is_text)  # (n, units)
        for kind, weight in self.tokens.items():
            evidence = evidence + self._summed(inputs.bags[kind], weight)
        texts = dropout(inputs.texts, self.config.input_dropout, self.training) @ self.texts.T
        evidence = relu(evidence.index_add(0, inputs.text_rows, texts))
        return torch.cat([evidence * (1 - is_text), evidence * is_text], dim=1)

    def _summed(self, bag: Bag, weight: Tensor) -> Tensor:
        """The sum of each bag's rows of `weight`; in training of a chance part of them, scaled up, (n, units)."""
        share = self.config.input_dropout if self.training else 0.0
        places, offsets = bag
        if share:
            kept = torch.rand(len(places), device=places.device) >= share
            places, offsets = places[kept], torch.nn.functional.pad(kept.cumsum(0), (1, 0))[offsets]
        summed: Tensor = embedding_bag(places, weight, offsets, mode="sum", include_last_offset=True)
        return summed / (1 - share)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        return torch.maximum(states * torch.sigmoid(self.kept).repeat(2), rows)

    def logits(self, states: Tensor) -> Tensor:
        session, conversation = states.chunk(2, dim=1)
        return self.of_evidence(session + conversation)

    def per_modality_logits(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What the sessions alone and the conversations alone say, (n, I) each."""
        session, conversation = states.chunk(2, dim=1)
        return self.of_evidence(session), self.of_evidence(conversation)

    def of_evidence(self, evidence: Tensor) -> Tensor:
        """(n, units) -> (n, I)."""
        return cast("Tensor", self.head(dropout(evidence, self.config.dropout, self.training)))
