"""Latent Feature (paper, section 4): one dense tanh layer per modality into one space, a GRU over the interactions, sigmoid over
items.

A session is the set of its tags (multi-hot, max-pooled over its clicks), a conversation its mean sentence vector. What is missing
adds nothing. Deviations: the conversation indicator is an input of the GRU beside the latent vector, and the size of the latent
space is 128.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, linear, relu

from models.vocabulary import Vocabulary
from stream.core.interactions import Interaction, Session
from stream.core.ranking import Rows


class LatentFeatureConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes of the network. `text_width` is the text encoder's (384 for MiniLM)."""

    latent: int = 128
    hidden: int = 256
    dense: int = 128
    dropout: float = 0.5
    text_width: int = 384


class LatentFeatureNetwork(nn.Module):
    """The network as training sees it. Shapes: n interactions, b users, T interactions a user, V tags, I items."""

    def __init__(self, config: LatentFeatureConfig, tags: int, items: int) -> None:
        super().__init__()
        self.config = config
        self.tag_layer = nn.EmbeddingBag(max(tags, 1), config.latent, mode="sum", include_last_offset=True)
        nn.init.normal_(self.tag_layer.weight, std=0.1)
        self.tag_bias = nn.Parameter(torch.zeros(config.latent))
        self.text_layer = nn.Linear(config.text_width, config.latent)
        self.gru = nn.GRU(config.latent + 1, config.hidden, batch_first=True)
        self.dropout = nn.Dropout(config.dropout)
        self.dense = nn.Linear(config.hidden, config.dense)
        self.output = nn.Linear(config.dense, items)

    def latents(self, tags: Tensor, offsets: Tensor, texts: Tensor, is_text: Tensor) -> Tensor:
        """Each interaction in the shared space, with its conversation indicator: (n, latent + 1).

        `tags` and `offsets` (n + 1,) are the sessions' tags as bags, empty for conversations; `texts` are the conversations'
        vectors in their order, (m, text_width); `is_text` (n,) says which interactions those are.
        """
        summed: Tensor = self.tag_layer(tags, offsets)
        z = torch.tanh(summed + self.tag_bias)  # (n, latent)
        if len(texts):
            z = z.index_copy(0, is_text.nonzero().squeeze(1), torch.tanh(self.text_layer(texts)))
        return torch.cat([z, is_text.to(z.dtype).unsqueeze(1)], dim=1)

    def forward(self, latents: Tensor, lengths: Tensor) -> Tensor:
        """Logits (b, I) of padded sequences (b, T, latent + 1)."""
        packed = nn.utils.rnn.pack_padded_sequence(latents, lengths, batch_first=True, enforce_sorted=False)
        _, last = self.gru(packed)  # (1, b, hidden)
        return self.head(last[0])

    def head(self, representations: Tensor) -> Tensor:
        """Logits (b, I) of representations (b, hidden)."""
        return cast("Tensor", self.output(relu(self.dense(self.dropout(representations)))))


def bags(interactions: Sequence[Interaction], vocabulary: Vocabulary, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The inputs of `latents`: tags, offsets (n + 1,), texts (m, width), is_text (n,)."""
    tags: list[int] = []
    offsets = [0]
    texts: list[Rows] = []
    is_text: list[bool] = []
    for interaction in interactions:
        if isinstance(interaction, Session):
            tags += vocabulary.places(interaction.tags)
            is_text.append(False)
        else:
            texts.append(interaction.vector())
            is_text.append(True)
        offsets.append(len(tags))
    stacked = np.stack(texts) if texts else np.zeros((0, width), dtype=np.float32)
    return (
        torch.from_numpy(np.array(tags, dtype=np.int64)),
        torch.from_numpy(np.array(offsets)),
        torch.from_numpy(stacked),
        torch.from_numpy(np.array(is_text, dtype=np.bool_)),
    )


@dataclass(frozen=True)
class LatentFeature:
    """The network as serving sees it (`stream.core.ranking.Ranker`): rows in, rows out, one interaction at a time."""

    version: str
    fingerprint: str
    items: tuple[str, ...]
    prior: Rows
    text_model: str | None
    vocabulary: Vocabulary
    network: LatentFeatureNetwork
    name: str = "latent_feature"
    _weights: tuple[Tensor, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.network.eval()
        gru = self.network.gru
        weights = (gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0)
        object.__setattr__(self, "_weights", weights)

    @property
    def width(self) -> int:
        return self.network.config.hidden

    def initial(self) -> Rows:
        return np.zeros(self.width, dtype=np.float32)

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        with torch.inference_mode():
            network = self.network
            tags, offsets, texts, is_text = bags(interactions, self.vocabulary, network.config.text_width)
            z = embedding_bag(tags, network.tag_layer.weight, offsets, mode="sum", include_last_offset=True) + network.tag_bias
            if len(texts):
                z[is_text] = network.text_layer(texts)
            x = torch.cat([torch.tanh(z), is_text.to(z.dtype).unsqueeze(1)], dim=1)
            return cast("Rows", self._turn(x, torch.from_numpy(np.ascontiguousarray(representations))).numpy())

    def _turn(self, x: Tensor, h: Tensor) -> Tensor:
        """One step of the GRU, as torch defines it: (n, latent + 1), (n, hidden) -> (n, hidden)."""
        w_ih, w_hh, b_ih, b_hh = self._weights
        turned: Tensor = torch.gru_cell(x, h, w_ih, w_hh, b_ih, b_hh)
        return turned

    def encode_many(self, histories: Sequence[Sequence[Interaction]]) -> Rows:
        rows = np.zeros((len(histories), self.width), dtype=np.float32)
        for turn in range(max(map(len, histories), default=0)):
            due = [row for row, history in enumerate(histories) if len(history) > turn]
            rows[due] = self.advance_many(rows[due], [histories[row][turn] for row in due])
        return rows

    def rank_many(self, representations: Rows) -> Rows:
        with torch.inference_mode():
            h = torch.from_numpy(np.ascontiguousarray(representations))
            network = self.network
            dense = relu(linear(h, network.dense.weight, network.dense.bias))
            return cast("Rows", torch.sigmoid(linear(dense, network.output.weight, network.output.bias)).numpy())
