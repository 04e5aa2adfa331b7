"""Scores all users for one item from their states. The scores equal those in the step's lists."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from stream.core.outputs import Fallback, Modalities
from stream.core.ranking import SCORE_DIGITS, Catalogue, Ranker
from stream.core.recommend import represent, score_users
from stream.core.state import HEAD_PREFIX, StatesUnreadableError, decode_head
from stream.core.user_state import StateStore, UserState
from stream.errors import IsthmusError

CHUNK: Final = 2_000
"""Users scored in one batch."""
_NOTHING: Final = Modalities(0, 0)


class Member(NamedTuple):
    """A user who may be offered the item.

    Attributes:
        score: The champion's score of the item, or its popularity with `fallback`; 4 digits, as in the lists.
        user_id: The user.
        fallback: "popularity" where the model reads nothing of the user's history.
    """

    score: float
    user_id: str
    fallback: Fallback | None


class Audience:
    """Scores users for one item.

    Attributes:
        unreadable: Number of states that could not be read; their users are skipped.
    """

    def __init__(self, item: str, ranker: Ranker, catalogue: Catalogue, now_ms: int) -> None:
        """Raises IsthmusError if the item is not on offer, or the champion does not know it."""
        if item not in ranker.items:
            raise IsthmusError(f"{ranker.name} version {ranker.version} does not know {item!r}: train with purchases of it")
        if catalogue.is_published and item not in catalogue.offered_at(now_ms):
            raise IsthmusError(f"the item {item!r} is not on offer now: it is withdrawn, or its offer has ended or not begun")
        self._item = item
        self._column = ranker.items.index(item)
        self._ranker = ranker
        self._catalogue = catalogue
        self.unreadable = 0

    def members(self, heads: Sequence[tuple[bytes, bytes]], states: StateStore) -> list[Member]:
        """Returns the users among these head records, (key, value) each, who may be offered the item."""
        users = [user for key, value in heads if (user := self._user(key, value, states)) is not None]
        if not users:
            return []
        rows, supports = represent(users, self._ranker)
        scores = score_users(users, rows, self._ranker)
        usable = np.atleast_1d(np.isfinite(scores).all(axis=1))
        prior = round(float(self._ranker.prior[self._column]), SCORE_DIGITS)
        return [
            Member(prior, user.user_id, "popularity")
            if support == _NOTHING or not is_usable
            else Member(round(float(row[self._column]), SCORE_DIGITS), user.user_id, None)
            for user, support, row, is_usable in zip(users, supports, scores, usable, strict=True)
        ]

    def _user(self, key: bytes, value: bytes, states: StateStore) -> UserState | None:
        """Returns the user of a head; None if the item may not be offered to the user, or the state cannot be read."""
        user = key[len(HEAD_PREFIX) :]
        try:
            head = decode_head(value)
            found = UserState(user, user.decode(), head, states, stored=True)
            if head.prefix is not None and head.prefix.fingerprint != self._ranker.fingerprint:
                found.load_facts()  # here, so that facts that cannot be read cost one user
        except (StatesUnreadableError, UnicodeDecodeError):
            self.unreadable += 1
            return None
        return None if self._item in self._catalogue.blocked(head.owned, head.excluded) else found


def best(members: Iterable[Member], top: int, min_score: float) -> list[Member]:
    """Returns the `top` best with at least `min_score`, best first, ties by user. Keeps at most `top` in memory."""
    wanted = (one for one in members if one.score >= min_score)
    return heapq.nsmallest(top, wanted, key=lambda one: (-one.score, one.user_id))


def chunks(heads: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    """Groups head records into batches of `CHUNK`."""
    chunk: list[tuple[bytes, bytes]] = []
    for head in heads:
        chunk.append(head)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
