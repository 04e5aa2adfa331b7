"""Scores items by what their texts mean, so that an item that nobody has bought yet can be ranked.

Tags, calls and items have vectors of one frozen text model. Here they share one space of few dimensions: a user's memory in it
fades with each interaction, and an item's score is its likeness to that memory. Few weights are learned, and none belongs to an
item, so that what was learned from items with sales holds for those without.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

from models.features import FeatureBatch
from models.layers import bag_sums

_STRENGTH: Final = 2.0
_SHARPNESS: Final = 0.1
_EPSILON: Final = 1e-4
_ENOUGH: Final = 20.0  # purchases that say as much of an item as its text
_RAREST: Final = 0.05  # weight of a tag that every session has


class ItemTexts(nn.Module):
    """Shapes: n interactions or states, V tags, I items, W the size of a text vector, d units.

    Attributes:
        base: Logit of an item whose text says nothing.
        sold: (I,) 1 for items with a purchase in training; the others are scored by their texts alone.
        reliance: (I,) what the text counts in an item's score: 1 without sales, and less the more purchases speak for themselves.
    """

    projection: Tensor
    call_mean: Tensor
    item_mean: Tensor
    tags: Tensor
    items: Tensor
    sold: Tensor
    reliance: Tensor

    def __init__(self, tags: int, items: int, text_width: int, units: int, base: Tensor) -> None:
        super().__init__()
        self.units = units
        self.register_buffer("projection", torch.zeros(text_width, units))
        self.register_buffer("call_mean", torch.zeros(text_width))
        self.register_buffer("item_mean", torch.zeros(text_width))
        self.register_buffer("tags", torch.zeros(max(tags, 1), units))
        self.register_buffer("items", torch.zeros(items, units))
        self.register_buffer("sold", torch.ones(items))
        self.register_buffer("reliance", torch.ones(items))
        self.tag_weights = nn.Parameter(torch.zeros(max(tags, 1)))  # logarithms
        self.strength = nn.Parameter(torch.full((2,), _STRENGTH))  # of sessions and of conversations
        self.kept = nn.Parameter(torch.zeros(()))  # logit of the memory's decay
        self.sharpness = nn.Parameter(torch.full((), _SHARPNESS))
        self.base = nn.Parameter(base.clone())

    def fit(self, tags: Tensor, items: Tensor, calls: Tensor, rarity: Tensor, purchases: Tensor) -> None:
        """Finds the space: the principal directions of tags, items and calls, each kind around its own mean and of equal weight.

        Texts of one kind resemble one another more than they resemble what they are about: without their means, all items of an
        insurer are alike, and unlike any tag.

        Args:
            tags: (V, W) vectors of the tags.
            items: (I, W) vectors of the items' texts; zeros where there is none.
            calls: (m, W) vectors of the calls.
            rarity: (V,) logarithm of sessions to sessions with the tag: the initial weights.
            purchases: (I,) how often each item was bought in training.
        """
        kinds = [normalize(one[one.norm(dim=1) > 0], dim=1) for one in (tags, items, calls)]
        tag_mean, item_mean, call_mean = (one.mean(dim=0) if len(one) else torch.zeros(one.shape[1]) for one in kinds)
        scatter = torch.zeros(len(self.projection), len(self.projection))
        for one, mean in zip(kinds, (tag_mean, item_mean, call_mean), strict=True):
            centred = normalize(one - mean, dim=1)
            scatter += centred.T @ centred / max(len(one), 1)
        directions = torch.linalg.eigh(scatter).eigenvectors.flip(1)[:, : self.units]
        with torch.no_grad():
            self.projection.zero_()[:, : directions.shape[1]] = directions
            self.call_mean.copy_(call_mean)
            self.item_mean.copy_(item_mean)
            self.tags.zero_()[: len(tags)] = self._project(tags, tag_mean)
            self.items.copy_(self.project_items(items))
            self.sold.copy_(purchases > 0)
            self.reliance.copy_(_ENOUGH / (_ENOUGH + purchases))
            self.tag_weights.zero_()[: len(tags)] = rarity.clamp(min=_RAREST).log()

    def project_items(self, vectors: Tensor) -> Tensor:
        """Returns items in the space, (n, W) -> (n, d); zeros for zeros."""
        has_text: Tensor = vectors.norm(dim=1, keepdim=True) > 0
        return self._project(vectors, self.item_mean) * has_text

    def _project(self, vectors: Tensor, mean: Tensor) -> Tensor:
        in_space: Tensor = normalize((normalize(vectors, dim=1) - mean) @ self.projection, dim=1)
        return in_space

    def embed(self, inputs: FeatureBatch, dropped: float) -> Tensor:
        """Returns each interaction in the space, (n, d); `dropped` is the share of tags that is left out."""
        summed = bag_sums(inputs.bags["tags"], self.tags * self.tag_weights.exp().unsqueeze(1), dropped)
        sessions = summed / (summed.square().sum(dim=1, keepdim=True) + _EPSILON).sqrt() * self.strength[0]
        calls = self._project(inputs.texts, self.call_mean) * self.strength[1]
        return sessions.index_add(0, inputs.text_rows, calls)

    def advance(self, states: Tensor, rows: Tensor) -> Tensor:
        return states * torch.sigmoid(self.kept) + rows

    def logits(self, states: Tensor, items: Tensor | None = None) -> Tensor:
        """Returns the logits of items in the space, or of the model's own, (n, d) -> (n, items).

        They grow faster than likeness: a little of it says little, and an item that a user named is almost certain.
        """
        likeness = states @ (self.items if items is None else items).T
        return self.base + likeness + self.sharpness * relu(likeness).square()
