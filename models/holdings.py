"""What users own and are not eligible for, as networks read it: one bag of tokens a user.

Of I items, token i says that item i is owned, token I + i that it is not eligible, and token 2 I that holdings are known at all.
So a user of whom nothing is known has an empty bag, and one who owns nothing does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.features import Bag, spans
from models.vocabulary import Indices
from stream.core.ranking import Holdings


@dataclass(frozen=True)
class HoldingsBags:
    """The bags of n users, one after another.

    Attributes:
        tokens: of all bags.
        starts: (n + 1,) where each bag begins, and the end.
    """

    tokens: Indices
    starts: Indices

    def select(self, rows: Indices) -> "HoldingsBags":
        """Returns the bags at `rows`, in that order."""
        lengths = self.starts[rows + 1] - self.starts[rows]
        return HoldingsBags(self.tokens[spans(self.starts[rows], lengths)], np.concatenate([[0], np.cumsum(lengths)]))

    def tensors(self, device: torch.device | None = None) -> Bag:
        tokens, starts = torch.from_numpy(self.tokens), torch.from_numpy(self.starts)
        return Bag(tokens, starts) if device is None else Bag(tokens.to(device), starts.to(device))


class HoldingsReader:
    """Reads holdings for a model of these items; items that it does not know say nothing."""

    def __init__(self, items: Sequence[str]) -> None:
        self._owned = {item: index for index, item in enumerate(items)}
        self._ineligible = {item: len(items) + index for index, item in enumerate(items)}
        self._known = 2 * len(items)

    def read(self, holdings: Sequence[Holdings | None]) -> HoldingsBags:
        """Returns the bags of n users; None: not known."""
        tokens: list[int] = []
        starts = [0]
        for one in holdings:
            if one is not None:
                tokens.append(self._known)
                if one.owned:
                    tokens += [self._owned[item] for item in one.owned if item in self._owned]
                if one.ineligible:
                    tokens += [self._ineligible[item] for item in one.ineligible if item in self._ineligible]
            starts.append(len(tokens))
        return HoldingsBags(np.array(tokens, dtype=np.int64), np.array(starts, dtype=np.int64))
