"""The tokens of one field (tags, keywords ...) that a model knows, and the indices of an interaction's tokens among them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final

import numpy as np
from numpy.typing import NDArray

MIN_SHARE: Final = 0.001  # of the interactions that have any token: rarer tokens are dropped (paper, section 5)
_UNKNOWN: Final = repeat(-1)

Indices = NDArray[np.int64]


class Vocabulary:
    """Tokens in a fixed order."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tuple(tokens)
        self._indices = {token: index for index, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def indices(self, tokens: Iterable[str]) -> list[int]:
        """Returns the index of each token, -1 for unknown ones."""
        return list(map(self._indices.get, tokens, _UNKNOWN))


def fit_vocabulary(bags: Iterable[Sequence[str]], min_share: float = MIN_SHARE) -> Vocabulary:
    """Returns the tokens that occur in at least `min_share` of the non-empty bags, in alphabetical order.

    >>> fit_vocabulary([["a", "b"], ["b"], []], min_share=0.6).tokens
    ('b',)
    """
    counts: Counter[str] = Counter()
    total = 0
    for bag in bags:
        total += bool(bag)
        counts.update(set(bag))
    return Vocabulary(sorted(token for token, count in counts.items() if count >= min_share * total))
