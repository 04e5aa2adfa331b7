"""The tokens that a model knows of one kind (tags, keywords ...), and the places of an interaction's tokens among them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Final

MIN_SHARE: Final = 0.001  # of the interactions that have any: rarer tokens are dropped (paper, section 5)
_UNKNOWN: Final = repeat(-1)


class Vocabulary:
    """Tokens in a fixed order."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self.tokens = tuple(tokens)
        self._places = {token: place for place, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def places(self, tokens: Iterable[str]) -> list[int]:
        """The place of each token, -1 for unknown ones."""
        return list(map(self._places.get, tokens, _UNKNOWN))


def vocabulary_of(bags: Iterable[Sequence[str]], min_share: float = MIN_SHARE) -> Vocabulary:
    """The tokens in at least `min_share` of the bags that hold any, in alphabetical order.

    >>> vocabulary_of([["a", "b"], ["b"], []], min_share=0.6).tokens
    ('b',)
    """
    counts: Counter[str] = Counter()
    total = 0
    for bag in bags:
        total += bool(bag)
        counts.update(set(bag))
    return Vocabulary(sorted(token for token, count in counts.items() if count >= min_share * total))
