"""Isthmus, our own model: max-pools ReLU evidence over interactions with a learned decay.

A session contributes its tags and clicks (which tags occurred together), a conversation its sentence vector and keywords; both
become ReLU units of one space. The maximum over interactions is kept rather than the sum, because looking at the same thing twice
is not twice the evidence. Each modality has its own memory; both are added before one head, so that the evidence of one modality
counts the same whether the other is present or not. Training also predicts the label from each memory alone (`training.recipes`).

An item's logit is that of its text (`models.item_texts`) and, for items with sales, what the evidence adds to it. So an item
without sales has one too, and it begins there when the first sales come.
The experiments behind this design are in training/LOG.md.
"""

from typing import ClassVar, Final, cast

import msgspec
import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, relu

from models.features import Bag, FeatureBatch, Featurizer
from models.item_texts import ItemTexts
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
        text_units: of the memory that items' texts are compared with; 0 as in models of earlier versions, which know no texts.
        text_scale: what sentence vectors count, beside tokens; 1 as in models of earlier versions. They are shorter than one and
            much alike, so at 1 they are learned last.
    """

    units: int = 128
    dropout: float = 0.3
    input_dropout: float = 0.2
    text_units: int = 0
    text_scale: float = 1.0


class IsthmusNetwork(Network):
    """A row holds an interaction's evidence in its modality's half and zero in the other's, (n, 2 units), then what it means,
    (n, text units); so does a state.
    """

    default: ClassVar = IsthmusConfig(dropout=0.5, text_units=40, text_scale=4.0)
    token_fields: ClassVar = ("tags", "clicks", "keywords")
    uses_text_vectors: ClassVar = True
    uses_holdings: ClassVar = True

    def __init__(self, config: IsthmusConfig, featurizer: Featurizer, prior: Tensor) -> None:
        super().__init__()
        self.config = config
        self.width = 2 * config.units + config.text_units
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
        popularity = torch.logit(prior, eps=1e-4)
        self.item_texts: ItemTexts | None = None
        if config.text_units:
            base = popularity[prior > 0].mean() if bool((prior > 0).any()) else popularity.mean()
            tags = len(featurizer.vocabularies["tags"])
            self.item_texts = ItemTexts(tags, len(prior), featurizer.text_width, config.text_units, base)
            popularity = popularity - base
        with torch.no_grad():
            self.head.bias.copy_(popularity)

    def embed(self, inputs: FeatureBatch) -> Tensor:
        is_text = inputs.is_text
        evidence = torch.lerp(self.bias[0], self.bias[1], is_text)  # (n, units)
        for name, weight in self.tokens.items():
            evidence = evidence + bag_sums(inputs.bags[name], weight, self.config.input_dropout if self.training else 0.0)
        texts = dropout(inputs.texts, self.config.input_dropout, self.training) @ self.texts.T
        evidence = relu(evidence.index_add(0, inputs.text_rows, texts * self.config.text_scale))
        rows = [evidence * (1 - is_text), evidence * is_text]
        if self.item_texts is not None:
            rows.append(self.item_texts.embed(inputs, self.config.input_dropout if self.training else 0.0))
        return torch.cat(rows, dim=1)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        evidence = torch.maximum(self._evidence(states) * torch.sigmoid(self.kept).repeat(2), self._evidence(rows))
        if self.item_texts is None:
            return evidence
        return torch.cat([evidence, self.item_texts.advance(self._meaning(states), self._meaning(rows))], dim=1)

    def logits(self, states: Tensor) -> Tensor:
        session, conversation = self._evidence(states).chunk(2, dim=1)
        return self._with_texts(self._of_evidence(session + conversation), states)

    def holder_logits(self, states: Tensor, holdings: Bag) -> Tensor:
        session, conversation = self._evidence(states).chunk(2, dim=1)
        return self._with_texts(self._of_evidence(session + conversation + self.holdings(holdings)), states)

    def training_logits(self, states: Tensor, holdings: Bag) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the logits from both modalities, from the sessions alone and from the conversations alone, (n, I) each."""
        session, conversation = self._evidence(states).chunk(2, dim=1)
        held = self.holdings(holdings)
        evidence = session + conversation + held, session + held, conversation + held
        joint, of_sessions, of_conversations = (self._with_texts(self._of_evidence(one), states) for one in evidence)
        return joint, of_sessions, of_conversations

    def text_logits(self, states: Tensor) -> Tensor:
        """Returns the logits of the items' texts alone, (n, I)."""
        assert self.item_texts is not None
        return self.item_texts.logits(self._meaning(states))

    def item_units(self, vectors: Tensor) -> Tensor:
        assert self.item_texts is not None
        return self.item_texts.project_items(vectors)

    def new_logits(self, states: Tensor, units: Tensor) -> Tensor:
        assert self.item_texts is not None
        return self.item_texts.logits(self._meaning(states), units)

    @property
    def sold(self) -> Tensor | None:
        return None if self.item_texts is None else self.item_texts.sold

    def _evidence(self, states: Tensor) -> Tensor:
        return states[:, : 2 * self.config.units]

    def _meaning(self, states: Tensor) -> Tensor:
        return states[:, 2 * self.config.units :]

    def _of_evidence(self, evidence: Tensor) -> Tensor:
        return cast("Tensor", self.head(dropout(evidence, self.config.dropout, self.training)))

    def _with_texts(self, own: Tensor, states: Tensor) -> Tensor:
        """Adds what the texts say. They learn from their own loss alone: what items with sales need would not hold for others."""
        if self.item_texts is None:
            return own
        return own * self.item_texts.sold + self.item_texts.reliance * self.text_logits(states).detach()
