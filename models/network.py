"""The interface of all networks, and the ranker that serves any of them.

A network embeds each interaction as a row, advances states by one row each, and computes logits from states. Encoding a history is
advancing over its rows, so the two cannot disagree. A composite system is a network that holds others: its state is theirs side by
side.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from models.features import Bag, FeatureBatch, Featurizer
from models.holdings import HoldingsReader
from stream.core.calibration import Calibration
from stream.core.interactions import Interaction
from stream.core.ranking import Holdings, Rows


class GruConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a network.

    Attributes:
        hidden: size of the GRU's state.
        dense: size of the dense layer.
        dropout: share of the state that training drops.
    """

    hidden: int = 256
    dense: int = 256
    dropout: float = 0.3


class Network(nn.Module):
    """Base of all networks, built from (config, featurizer, prior), the last being the items' popularity (I,).

    Shapes: n interactions or states, `width` the size of a state, I items.
    """

    default: ClassVar[msgspec.Struct]
    """The paper's configuration; its type is the type of the network's configurations."""
    token_fields: ClassVar[tuple[str, ...]] = ()
    """The token fields that the network reads (`models.features.TOKENS`)."""
    uses_text_vectors: ClassVar[bool] = False
    uses_conversations: ClassVar[bool] = True
    uses_sessions: ClassVar[bool] = True
    uses_holdings: ClassVar[bool] = False
    """Whether `holder_logits` reads what users own. Such a network learns only from items that could be offered
    (`training.example_arrays`)."""
    width: int

    def embed(self, inputs: FeatureBatch) -> Tensor:
        """Returns each interaction as a row, in the form that `advance` takes."""
        raise NotImplementedError

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        """Returns each state one interaction further, (n, width). The initial state is zero."""
        raise NotImplementedError

    def logits(self, states: Tensor) -> Tensor:
        """(n, width) -> (n, I)."""
        raise NotImplementedError

    def scores(self, states: Tensor) -> Tensor:
        """Returns probabilities, (n, I)."""
        return torch.sigmoid(self.logits(states))

    def holder_logits(self, states: Tensor, holdings: Bag) -> Tensor:
        """As `logits`, with what each user owns and is not eligible for (`models.holdings`)."""
        del holdings
        return self.logits(states)

    def holder_scores(self, states: Tensor, holdings: Bag) -> Tensor:
        """As `scores`, with what each user owns and is not eligible for."""
        return torch.sigmoid(self.holder_logits(states, holdings))

    @property
    def sold(self) -> Tensor | None:
        """(I,) 1 for items with a purchase in training, 0 for those scored by their texts; None: the network knows no texts."""
        return None

    def item_units(self, vectors: Tensor) -> Tensor:
        """Returns what `new_logits` needs of items by the vectors of their texts, (n, text width) -> (n, units)."""
        raise NotImplementedError

    def new_logits(self, states: Tensor, units: Tensor) -> Tensor:
        """As `logits`, of items that training did not know, by their `item_units`."""
        raise NotImplementedError


def encode(network: Network, rows: Tensor, lengths: Tensor) -> Tensor:
    """Returns the state after all rows of each history, (b, width).

    `rows` stand one history after another; `lengths` (b,) is on the CPU. Histories are advanced together, the longest first, so
    that the rows of one turn are a slice.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = lengths[order]
    starts = (torch.cumsum(lengths, 0) - lengths)[order]
    active = [int((sizes > turn).sum()) for turn in range(int(sizes[0]) if len(sizes) else 0)]
    indices = torch.cat([torch.zeros(0, dtype=torch.long), *(starts[:count] + turn for turn, count in enumerate(active))])
    turns = torch.split(rows.index_select(0, indices.to(rows.device)), active)
    states = rows.new_zeros(len(lengths), network.width)
    finished = []
    for count, turn_rows in zip(active, turns, strict=True):
        finished.append(states[count:])
        states = network.advance(states[:count], turn_rows)
    states = torch.cat([states, *reversed(finished)])
    return states.index_select(0, torch.argsort(order).to(rows.device))


@dataclass(frozen=True)
class NeuralRanker:
    """Serves a network as a `stream.core.ranking.Ranker`: rows in, rows out, on the CPU."""

    name: str
    version: str
    fingerprint: str
    items: tuple[str, ...]
    prior: Rows
    text_model: str | None
    featurizer: Featurizer
    network: Network
    config: msgspec.Struct
    """The network's configuration; written beside its weights."""
    calibration: Calibration | None = None
    added: Tensor | None = None
    """(n, units) what the network makes of the last n items' texts; None: it was trained with all of them."""
    _holdings: HoldingsReader = field(init=False, repr=False, compare=False)
    _new: frozenset[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.network.eval()
        base, sold = self.base_items, self.network.sold
        unsold = () if sold is None else (base[index] for index in (sold == 0).nonzero()[:, 0].tolist())
        object.__setattr__(self, "_holdings", HoldingsReader(base))
        object.__setattr__(self, "_new", frozenset((*unsold, *self.items[len(base) :])))

    @property
    def width(self) -> int:
        return self.network.width

    @property
    def reads_sessions(self) -> bool:
        return self.network.uses_sessions

    @property
    def reads_holdings(self) -> bool:
        return self.network.uses_holdings

    @property
    def reads_item_texts(self) -> bool:
        return self.network.sold is not None

    @property
    def base_items(self) -> tuple[str, ...]:
        return self.items[: len(self.items) - (0 if self.added is None else len(self.added))]

    @property
    def new_items(self) -> frozenset[str]:
        return self._new

    def with_new_items(self, vectors: Mapping[str, Rows]) -> "NeuralRanker":
        base = self.base_items
        known = set(base)
        width = self.featurizer.text_width
        new = {item: vector for item, vector in vectors.items() if item not in known and len(vector) == width}
        if not new or not self.reads_item_texts:
            return replace(self, items=base, prior=self.prior[: len(base)], added=None)
        with torch.inference_mode():
            added = self.network.item_units(torch.from_numpy(np.stack(list(new.values()))))
        prior = np.concatenate([self.prior[: len(base)], np.zeros(len(new), dtype=np.float32)])
        return replace(self, items=(*base, *new), prior=prior, added=added)

    def initial(self) -> Rows:
        return np.zeros(self.width, dtype=np.float32)

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        with torch.inference_mode():
            rows = self.network.embed(self.featurizer.featurize(interactions).batch())
            states = torch.from_numpy(np.ascontiguousarray(representations))
            return cast("Rows", self.network.advance(states, rows).numpy())

    def encode_many(self, histories: Sequence[Sequence[Interaction]]) -> Rows:
        with torch.inference_mode():
            flat = [interaction for history in histories for interaction in history]
            rows = self.network.embed(self.featurizer.featurize(flat).batch())
            lengths = torch.tensor([len(history) for history in histories], dtype=torch.long)
            return cast("Rows", encode(self.network, rows, lengths).numpy())

    def rank_many(self, representations: Rows) -> Rows:
        with torch.inference_mode():
            states = torch.from_numpy(np.ascontiguousarray(representations))
            return cast("Rows", self._with_added(self.network.scores(states), states).numpy())

    def rank_holders(self, representations: Rows, holdings: Sequence[Holdings | None]) -> Rows:
        with torch.inference_mode():
            states, bag = torch.from_numpy(np.ascontiguousarray(representations)), self._holdings.read(holdings).tensors()
            return cast("Rows", self._with_added(self.network.holder_scores(states, bag), states).numpy())

    def _with_added(self, scores: Tensor, states: Tensor) -> Tensor:
        if self.added is None:
            return scores
        return torch.cat([scores, torch.sigmoid(self.network.new_logits(states, self.added))], dim=1)
