"""The layers that networks share. They are initialised as in Keras, which the paper's authors used.

A GRU receives its input's share of the gates ready-made. A linear layer on a bag of tags is a sum of rows, and over all
interactions of a batch it is one product. So a network's `embed` returns gates, and a step costs the recurrent part alone.
"""

from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, pad, relu

from models.features import Bag, FeatureBatch

_UNKNOWN: Final = 0.5  # share of users whose holdings training hides


def linear(inputs: int, outputs: int) -> nn.Linear:
    """Returns a dense layer with Glorot's uniform weights and zero bias."""
    layer = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class BagLayer(nn.Module):
    """A dense layer on the multi-hot vector of one token field, (n interactions) -> (n, outputs).

    An interaction without a known token yields the bias.
    """

    def __init__(self, token_field: str, tokens: int, outputs: int) -> None:
        super().__init__()
        self.token_field = token_field
        self.weight = nn.Parameter(torch.empty(max(tokens, 1), outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, inputs: FeatureBatch) -> Tensor:
        return bag_sums(inputs.bags[self.token_field], self.weight) + self.bias

    def of_multi_hot(self, rows: Tensor) -> Tensor:
        """Applies the layer to multi-hot rows, (n, tokens) -> (n, outputs)."""
        return rows @ self.weight + self.bias


class TextLayer(nn.Module):
    """A dense layer on the conversations' vectors, (n interactions) -> (n, outputs); zero for sessions."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))
        if width:  # 0 where training saw no conversation
            nn.init.xavier_uniform_(self.weight)

    def forward(self, inputs: FeatureBatch) -> Tensor:
        of_texts = inputs.texts @ self.weight + self.bias
        outputs: Tensor = of_texts.new_zeros(len(inputs), of_texts.shape[1]).index_copy(0, inputs.text_rows, of_texts)
        return outputs


def bag_sums(bag: Bag, weight: Tensor, dropped: float = 0.0) -> Tensor:
    """Returns the sum of each bag's rows of `weight`, (n bags, outputs); with dropout of so large a share of the tokens."""
    indices, offsets = bag
    if dropped:
        kept = torch.rand(len(indices), device=indices.device) >= dropped
        indices, offsets = indices[kept], pad(kept.cumsum(0), (1, 0))[offsets]
    summed: Tensor = embedding_bag(indices, weight, offsets, mode="sum", include_last_offset=True)
    return summed / (1 - dropped) if dropped else summed


class HoldingsLayer(nn.Module):
    """A linear layer on what users own and are not eligible for (`models.holdings`), (n users) -> (n, outputs).

    A user of whom nothing is known yields zero. Training drops a share of the tokens, and of half of the users all of them: few
    users own anything, so their weights would be overfitted long before the others have learned enough, and the network must know
    users without holdings too. The weights begin at zero; a model folder of an earlier version has none, which is the same.
    """

    def __init__(self, items: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.weight = nn.Parameter(torch.zeros(2 * items + 1, outputs))

    def forward(self, holdings: Bag) -> Tensor:
        if not self.training:
            return bag_sums(holdings, self.weight)
        summed = bag_sums(holdings, self.weight, self.dropout)
        return summed * (torch.rand(len(summed), 1, device=summed.device) >= _UNKNOWN)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        state_dict.setdefault(f"{prefix}weight", torch.zeros_like(self.weight))
        super()._load_from_state_dict(state_dict, prefix, *args)


class Gru(nn.Module):
    """A gated recurrent unit (Cho et al. 2014; reset after the product, as in Keras) whose input gates are computed beforehand."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.recurrent = linear(hidden, 3 * hidden)
        nn.init.orthogonal_(self.recurrent.weight)

    @property
    def gates(self) -> int:
        return 3 * self.hidden

    def forward(self, states: Tensor, gates: Tensor) -> Tensor:
        """Advances by one step: (n, hidden), (n, 3 hidden) -> (n, hidden)."""
        reset_in, update_in, new_in = gates.chunk(3, dim=1)
        reset_own, update_own, new_own = self._of_states(states).chunk(3, dim=1)
        reset, update = torch.sigmoid(reset_in + reset_own), torch.sigmoid(update_in + update_own)
        return torch.lerp(torch.tanh(new_in + reset * new_own), states, update)

    def _of_states(self, states: Tensor) -> Tensor:
        """The recurrent product. In serving, that of a state of zeros, as of users in their first interaction, is not computed: it
        is the bias.
        """
        if torch.is_inference_mode_enabled():
            used = states.abs().amax(dim=1).nonzero()[:, 0]
            if not len(used):
                return self.recurrent.bias.expand(len(states), -1)
            if len(used) < len(states):
                return self.recurrent.bias.repeat(len(states), 1).index_copy_(0, used, self.recurrent(states[used]))
        product: Tensor = self.recurrent(states)
        return product


class Head(nn.Module):
    """Dropout, dense ReLU, one logit per item: (n, inputs) -> (n, items)."""

    def __init__(self, inputs: int, dense: int, items: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = linear(inputs, dense)
        self.output = linear(dense, items)

    def forward(self, states: Tensor) -> Tensor:
        return cast("Tensor", self.output(relu(self.dense(self.dropout(states)))))
