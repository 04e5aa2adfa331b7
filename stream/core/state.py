"""A user's state as stored: two records, `Head` and `Facts`, and the `ErasureMarker` that an erasure leaves.

The user's feedback is a third record (`stream.core.feedback`).

An event that extends a growing interaction touches the head only. The facts, which may be 30 kB, are read and written when an
interaction begins or an event arrives late. All are bounded by `limits` and carry a version: `decode_*` reads every version ever
written.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, TypeVar
from zlib import crc32

import msgspec

from stream.core.events import Source
from stream.core.feedback import UNREADABLE, UserFeedback, decode_feedback
from stream.core.kept_interactions import KeptInteraction
from stream.core.outputs import Fallback
from stream.core.tokens import SEPARATOR

Stored = TypeVar("Stored")
VERSION: Final = 1
SOURCE_NUMBERS: Final = {source: number for number, source in enumerate(Source)}
"""Keys of the applied offsets in a stored state: they never change, so a new source goes to the end of `Source`."""

NEVER_ERASED: Final = -1
"""As `erased_at`. An erasure at this very millisecond is kept as one a millisecond later."""
NO_EVENT: Final = 0
"""As `newest_at`. No event is at this millisecond: nothing in January 1970 is plausible."""

HEAD_PREFIX: Final = b"h"
FACTS_PREFIX: Final = b"f"
ERASURE_MARKER_PREFIX: Final = b"m"
FEEDBACK_PREFIX: Final = b"s"  # what was shown
WATERMARK_PREFIX: Final = b"w"


class Prefix(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The cached encoding of the window's interactions that no longer grow.

    Attributes:
        fingerprint: Of the ranker that made it, and the only one that may use it; "" without a ranker.
        vector: Representation, little-endian float32 of the ranker's width.
        sessions: Number of sessions that it encodes.
        conversations: Number of conversations that it encodes.
    """

    fingerprint: str
    vector: bytes
    sessions: int
    conversations: int


class LastList(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last list sent. It suppresses repetitions, and hits of purchases are counted against it.

    Attributes:
        items: Item ids in order.
        fingerprint: Of the ranker; "" without one.
        version: Of the ranker.
        fallback: As in `Recommendation`.
        as_of: Newest event time that the list knew of, ms.
        reserve: Hash of the reserve's item ids, see `hash_reserve`; 0 without a reserve.
    """

    items: tuple[str, ...]
    fingerprint: str
    version: str
    fallback: Fallback | None
    as_of: int
    reserve: int = 0


def hash_reserve(items: Sequence[str]) -> int:
    """Identifies a reserve among those of one user. Stored whole, it would take twice the list's room.

    32 bits suffice: if two reserves share a hash, readers keep the former one, and judge its items at each reading.
    """
    return crc32(SEPARATOR.join(items).encode()) if items else 0


class Head(msgspec.Struct, array_like=True):
    """What every event writes. Mutable inside one step only.

    Attributes:
        version: Version of the stored form.
        applied: Source number -> epoch of the topic and last offset that this state contains.
        event_ids: Hashes of event ids, 8 bytes each, as earlier versions kept them; now an id is kept with what it names.
        tail: Newest interactions of the history, those that may still grow.
        prefix: Cached encoding of the window before the tail.
        newest_at: Newest event time seen, ms; 0: none.
        newest_purchase_at: Time of the newest kept purchase, ms.
        owned: Items owned now.
        excluded: Items not eligible now.
        erased_at: Events up to this time are dropped, ms; -1: none.
        last_list: Last list sent.
    """

    version: int = VERSION
    applied: dict[int, tuple[int, int]] = {}
    event_ids: bytes = b""
    tail: list[KeptInteraction] = []
    prefix: Prefix | None = None
    newest_at: int = 0
    newest_purchase_at: int = 0
    owned: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    erased_at: int = -1
    last_list: LastList | None = None


class KeptPurchase(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A purchase or cancellation.

    Attributes:
        occurred_at: Its time, ms.
        purchase_id: Its event id. Id, time and `bought` identify it.
        bought: False for a cancellation.
        items: Item ids.
        revision: Number of the last example sent for it. A crash may repeat a number.
        example: Hash of the last one; b"" for none.
    """

    occurred_at: int
    purchase_id: str
    bought: bool
    items: tuple[str, ...]
    revision: int = 0
    example: bytes = b""


class EligibilityList(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Items that the user may not be offered.

    Attributes:
        occurred_at: When the list became valid, ms. It identifies the list; earlier versions kept several of one time.
        excluded: Item ids.
        hashed_id: Hash of an event id, as earlier versions kept it; b"" now.
    """

    occurred_at: int
    excluded: tuple[str, ...]
    hashed_id: bytes = b""


class Evicted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What has been evicted from the state in its lifetime.

    Attributes:
        sessions: Number of sessions.
        conversations: Number of conversations.
        purchases: Number of purchases.
        newest_started_at: Latest start that an evicted interaction can have had before any time, ms; -1: none.
        newest_ended_at: Latest end of an evicted interaction, ms; -1: none. What is older may belong to an evicted interaction.
    """

    sessions: int = 0
    conversations: int = 0
    purchases: int = 0
    newest_started_at: int = -1
    newest_ended_at: int = -1


class Facts(msgspec.Struct, array_like=True):
    """What changes seldom. Mutable inside one step only.

    Attributes:
        version: Version of the stored form.
        interactions: The history before the tail.
        purchases: The last 8 purchases and cancellations.
        owned_before: Item -> (time, bought) of its newest action among the evicted purchases.
        eligibility: The eligibility lists of the last 4 times.
        evicted: What has left the state.
        example_ids: (time, purchase id) of evicted purchases whose examples an erasure must still reach. If this state sent none, a
            state that was lost may have sent one.
        evicted_eligibility_at: Time of the oldest eligibility list that has left, ms; None: none, or not known in earlier states.
    """

    version: int = VERSION
    interactions: list[KeptInteraction] = []
    purchases: list[KeptPurchase] = []
    owned_before: dict[str, tuple[int, bool]] = {}
    eligibility: list[EligibilityList] = []
    evicted: Evicted = Evicted()
    example_ids: list[tuple[int, str]] = []
    evicted_eligibility_at: int | None = None


_NOT_HISTORY: Final = frozenset(
    {
        *("version", "applied", "event_ids", "prefix", "newest_at", "newest_purchase_at", "owned", "excluded", "erased_at"),
        *("last_list", "evicted", "example_ids", "evicted_eligibility_at"),
    }
)
"""Fields of head and facts that alone are no reason to keep an erased user: bookkeeping, and what follows from other fields."""
_BLANK: Final = (Head(), Facts())


def holds_history(head: Head, facts: Facts) -> bool:
    """Whether there is more to keep than the fact that the user was erased. A new field counts, unless it is in `_NOT_HISTORY`."""
    return any(
        getattr(record, name) != getattr(blank, name)
        for record, blank in zip((head, facts), _BLANK, strict=True)
        for name in record.__struct_fields__
        if name not in _NOT_HISTORY
    )


class ErasureMarker(msgspec.Struct, frozen=True, array_like=True):
    """What an erasure leaves under a keyed hash of the user, to keep late and redelivered events out.

    Attributes:
        version: Version of the stored form.
        erased_at: Events up to this time are dropped, ms.
        written_at: When the marker was written, ms; it expires after `marker_retention_ms`, if that is bounded.
        applied: As in `Head`.
        erasure_ids: As in `KnownErasures`.
    """

    version: int
    erased_at: int
    written_at: int
    applied: dict[int, tuple[int, int]]
    erasure_ids: bytes = b""


encode_state: Final = msgspec.msgpack.Encoder().encode
_decode_head: Final = msgspec.msgpack.Decoder(Head).decode
_decode_facts: Final = msgspec.msgpack.Decoder(Facts).decode
_decode_erasure_marker: Final = msgspec.msgpack.Decoder(ErasureMarker).decode


class StatesUnreadableError(Exception):
    """The state store failed or contains what cannot be decoded. No event is at fault."""


def decode_head(stored: bytes) -> Head:
    """Raises StatesUnreadableError."""
    return _decoded(_decode_head, stored)


def decode_facts(stored: bytes) -> Facts:
    """Raises StatesUnreadableError."""
    return _decoded(_decode_facts, stored)


def decode_user_feedback(stored: bytes) -> UserFeedback:
    """Raises StatesUnreadableError."""
    return _decoded(decode_feedback, stored)


def decode_erasure_marker(stored: bytes) -> ErasureMarker:
    """Raises StatesUnreadableError."""
    return _decoded(_decode_erasure_marker, stored)


def _decoded(decode: Callable[[bytes], Stored], stored: bytes) -> Stored:
    try:
        return decode(stored)
    except UNREADABLE as error:
        raise StatesUnreadableError("a user's state cannot be read: it is damaged, or a later version wrote it") from error


def newest_erasure(known: int, new: int) -> int:
    """The later of two times up to which a user is erased, ms; `known` may be `NEVER_ERASED`."""
    new = new + 1 if new == NEVER_ERASED else new
    return new if known == NEVER_ERASED else max(known, new)


def head_key(user: bytes) -> bytes:
    return HEAD_PREFIX + user


def facts_key(user: bytes) -> bytes:
    return FACTS_PREFIX + user


def feedback_key(user: bytes) -> bytes:
    return FEEDBACK_PREFIX + user


def erasure_marker_key(user: bytes, erasure_key: bytes) -> bytes:
    """A keyed hash: only with `erasure_key` (at most 64 bytes, RFC 7693) can a marker be attributed to its user."""
    return ERASURE_MARKER_PREFIX + blake2b(user, key=erasure_key, digest_size=16).digest()


def former_event_id_hash(source: Source, event_id: str) -> bytes:
    """As `Head.event_ids` holds it."""
    return blake2b(f"{source}|{event_id}".encode(), digest_size=8).digest()
