"""The tags that a model knows, and the places of a session's tags among them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final, cast

from stream.core.interactions import Session

MIN_SHARE: Final = 0.001  # of sessions: rarer tags are dropped (paper, section 5)


class Vocabulary:
    """Tags in a fixed order. Unknown tags have no place."""

    def __init__(self, tags: Sequence[str]) -> None:
        self.tags = tuple(tags)
        self._places = {tag: place for place, tag in enumerate(self.tags)}

    def __len__(self) -> int:
        return len(self.tags)

    def places(self, tags: Iterable[str]) -> list[int]:
        places = list(map(self._places.get, tags))
        return [place for place in places if place is not None] if None in places else cast("list[int]", places)


def vocabulary_of(sessions: Iterable[Session], min_share: float = MIN_SHARE) -> Vocabulary:
    """The tags of at least `min_share` of the sessions, in alphabetical order."""
    counts: Counter[str] = Counter()
    total = 0
    for session in sessions:
        total += 1
        counts.update(set(session.tags))
    return Vocabulary(sorted(tag for tag, count in counts.items() if count >= min_share * total))
