"""A share of a list's places for items that the model knows by their texts alone, so that they are seen, and bought, at all.

Nothing is left to chance: a hash of user, item and day decides, so that a list that is made again is the same.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import Final, NamedTuple

from stream.core import limits
from stream.core.ranking import PostFilter

_ONE: Final = 1 << 64


class Exploration(NamedTuple):
    """Who is shown new items.

    Attributes:
        share: Of a list's places, 0 to 1.
        user: The user's key.
        newest_at: Time of the user's newest event, ms. What is explored changes with its day (UTC).
    """

    share: float
    user: bytes
    newest_at: int

    def places(self, k: int) -> int:
        """How many of k places are for new items: the share in the mean over users and days."""
        return int(self.share * k + self._hash(b"") / _ONE)

    def order(self, item: str) -> int:
        return self._hash(item.encode())

    def _hash(self, item: bytes) -> int:
        day = self.newest_at // limits.DAY_MS
        of_user = blake2b(b"%d %b" % (day, self.user), digest_size=16).digest()
        return int.from_bytes(blake2b(item, key=of_user, digest_size=8).digest())


def explored_lists(
    tops: Sequence[Sequence[int]],
    explorers: Sequence[Exploration],
    blocked: Sequence[AbstractSet[str]],
    post_filter: PostFilter,
    k: int,
) -> list[list[int]]:
    """The positions of each user's list and reserve, with places for new items.

    Args:
        tops: Positions of the best items of each user, k and the reserve.
        explorers: Share, user and day.
        blocked: Items that each user may not be offered.
        post_filter: The items that may be offered to anybody, and which of them are new.
        k: Length of a list.
    """
    items, candidates = post_filter.items, post_filter.new_positions()
    return [
        explored(top, [position for position in candidates if items[position] not in excluded], items, k, explorer)
        for top, explorer, excluded in zip(tops, explorers, blocked, strict=True)
    ]


def explored(ranked: Sequence[int], offered: Sequence[int], items: Sequence[str], k: int, exploration: Exploration) -> list[int]:
    """The positions of a list and its reserve, with new items, of those `offered`, in the last of the k places.

    Those that the list holds already count. What must make room comes first in the reserve.
    """
    top, new = ranked[:k], set(offered)
    missing = exploration.places(k) - len(new.intersection(top))
    others = new.difference(top)
    chosen = sorted(others, key=lambda position: exploration.order(items[position]))[: max(missing, 0)]
    known = [position for position in top if position not in new]
    room = known[max(len(known) - len(chosen), 0) :] if chosen else []
    kept = [position for position in top if position not in room]
    reserve = [position for position in ranked[k:] if position not in chosen]
    return [*kept, *chosen, *room, *reserve][: len(ranked)]
