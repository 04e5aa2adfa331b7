"""Which erasures without a time a user's state has applied, by hashes of their ids.

Such an erasure reaches up to its record's Kafka timestamp. Sent again it has a later one, and would erase what came since. One with
a time of its own reaches no further the second time, so that its id need not be known.
"""

from hashlib import blake2b

from stream.core import limits
from stream.core.events import Erasure
from stream.core.kept_interactions import ID_BYTES


def split_ids(ids: bytes) -> list[bytes]:
    """The hashes that an erasure marker keeps one after the other."""
    return [ids[start : start + ID_BYTES] for start in range(0, len(ids), ID_BYTES)]


def joined_ids(before: bytes, newer: bytes) -> bytes:
    """The hashes of two markers of one user, the newer ones last, each once. The first are pushed out where there are too many."""
    known = set(split_ids(newer))
    both = b"".join(one for one in split_ids(before) if one not in known) + newer
    return both[-limits.ERASURES * ID_BYTES :]


class KnownErasures:
    """The last 8 of a user.

    Attributes:
        ids: Their hashes one after the other, as the erasure marker keeps them. Keyed, because an id may name the user.
        is_changed: Whether the marker must be written.
    """

    __slots__ = ("_key", "_user", "ids", "is_changed")

    def __init__(self, user: bytes, key: bytes, ids: bytes = b"") -> None:
        self._user = user
        self._key = key
        self.ids = ids
        self.is_changed = False

    def contains(self, erasure: Erasure) -> bool:
        hashed = self._hash(erasure)
        return bool(hashed) and hashed in split_ids(self.ids)

    def add(self, erasure: Erasure) -> bool:
        """Notes an erasure, unless it has a time or no id. Returns whether this pushes the oldest one out."""
        hashed = self._hash(erasure)
        if not hashed or self.contains(erasure):
            return False
        ids = self.ids + hashed
        self.ids, self.is_changed = ids[-limits.ERASURES * ID_BYTES :], True
        return len(self.ids) < len(ids)

    def _hash(self, erasure: Erasure) -> bytes:
        if erasure.occurred_at is not None or erasure.event_id is None:
            return b""
        return blake2b(self._user + b"|" + erasure.event_id.encode(), key=self._key, digest_size=ID_BYTES).digest()
