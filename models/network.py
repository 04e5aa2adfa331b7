"""The one form of all networks, and the one class that serves them.

A network turns each interaction into a row, takes states on by one row each, and makes logits of states. Encoding a history is
nothing but advancing over its rows, so the two cannot disagree. A composite system is a network that holds others: its state is
theirs side by side, with what says which modalities were seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn

from models.features import FeatureBatch, Featurizer
from stream.core.interactions import Interaction
from stream.core.ranking import Rows


class GruConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of a network: its GRU's state, its dense layer, and the share of the state that training drops."""

    hidden: int = 256
    dense: int = 256
    dropout: float = 0.3


class Network(nn.Module):
    """What a network must do. It is made of (config, reader, prior): a configuration, the reader that reads for it, and the items'
    popularity (I,). Shapes: n interactions or states, `width` of a state, I items.
    """

    default: ClassVar[msgspec.Struct]
    """The paper's configuration; a network's configurations are of this type."""
    token_fields: ClassVar[tuple[str, ...]] = ()
    """The bags of tokens that it reads (`models.features.TOKENS`)."""
    uses_text_vectors: ClassVar[bool] = False
    uses_conversations: ClassVar[bool] = True
    width: int

    def embed(self, inputs: FeatureBatch) -> Tensor:
        """Each interaction as a row, (n, whatever `advance` takes)."""
        raise NotImplementedError

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        """Each state one interaction further, (n, width). The first state is nought."""
        raise NotImplementedError

    def logits(self, states: Tensor) -> Tensor:
        """(n, width) -> (n, I)."""
        raise NotImplementedError

    def scores(self, states: Tensor) -> Tensor:
        """Probabilities, (n, I)."""
        return torch.sigmoid(self.logits(states))


def encode(network: Network, rows: Tensor, lengths: Tensor) -> Tensor:
    """States after all of each history's rows, (b, width). `rows` stand one history after another; `lengths` (b,) on the CPU."""
    order = torch.argsort(lengths, descending=True, stable=True)
    sizes = lengths[order]
    starts = (torch.cumsum(lengths, 0) - lengths)[order]
    active = [int((sizes > turn).sum()) for turn in range(int(sizes[0]) if len(sizes) else 0)]
    places = torch.cat([torch.zeros(0, dtype=torch.long), *(starts[:count] + turn for turn, count in enumerate(active))])
    turns = torch.split(rows.index_select(0, places.to(rows.device)), active)  # by turn, so that a turn is a slice
    states = rows.new_zeros(len(lengths), network.width)
    finished = []
    for count, due in zip(active, turns, strict=True):
        finished.append(states[count:])
        states = network.advance(states[:count], due)
    states = torch.cat([states, *reversed(finished)])
    return states.index_select(0, torch.argsort(order).to(rows.device))


@dataclass(frozen=True)
class NeuralRanker:
    """Any network as serving sees it (`stream.core.ranking.Ranker`): rows in, rows out, on the CPU."""

    name: str
    version: str
    fingerprint: str
    items: tuple[str, ...]
    prior: Rows
    text_model: str | None
    reader: Featurizer
    network: Network
    config: msgspec.Struct
    """What the network was made with; kept with its weights."""

    def __post_init__(self) -> None:
        self.network.eval()

    @property
    def width(self) -> int:
        return self.network.width

    def initial(self) -> Rows:
        return np.zeros(self.width, dtype=np.float32)

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        with torch.inference_mode():
            rows = self.network.embed(self.reader.read(interactions).inputs())
            states = torch.from_numpy(np.ascontiguousarray(representations))
            return cast("Rows", self.network.advance(states, rows).numpy())

    def encode_many(self, histories: Sequence[Sequence[Interaction]]) -> Rows:
        with torch.inference_mode():
            flat = [interaction for history in histories for interaction in history]
            rows = self.network.embed(self.reader.read(flat).inputs())
            lengths = torch.tensor([len(history) for history in histories], dtype=torch.long)
            return cast("Rows", encode(self.network, rows, lengths).numpy())

    def rank_many(self, representations: Rows) -> Rows:
        with torch.inference_mode():
            return cast("Rows", self.network.scores(torch.from_numpy(np.ascontiguousarray(representations))).numpy())
