"""A user's state: two records, `Head` and `Facts`, and the `ErasureMarker` that an erasure leaves.

An event of a growing interaction touches the head alone; the facts, which may be 30 kB, are read and written only when an
interaction begins or something arrives late. All three are bounded by `limits` and carry a version: `decode_*` reads every
version ever written.
"""

from collections.abc import Callable
from hashlib import blake2b
from typing import Final, TypeVar

import msgspec

from stream.core.events import Source
from stream.core.interactions import Interaction
from stream.core.outputs import Fallback

Stored = TypeVar("Stored")
VERSION: Final = 1
SOURCE_NUMBERS: Final = {source: number for number, source in enumerate(Source)}
"""Part of the stored form: new sources are added at the end of `Source`."""


class Prefix(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The cached encoding of the window's interactions before the growing ones.

    `vector` is little-endian float32 of the ranker's width; `sessions` and `conversations` count what it rests on. It is valid
    for the ranker of that `fingerprint` ("" = no ranker) alone.
    """

    fingerprint: str
    vector: bytes
    sessions: int
    conversations: int


class LastList(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The last list sent: what suppresses its repetition and what a purchase is judged against. `as_of` in event time, ms."""

    items: tuple[str, ...]
    fingerprint: str
    version: str
    fallback: Fallback | None
    as_of: int


class Head(msgspec.Struct, array_like=True):
    """What every event writes. Mutable inside one step only.

    `applied` is, per source number, the topic's epoch and the last offset that this state contains; `tail` the interactions that
    may still grow, the newest ones of the history; `owned` and `excluded` the post filter as of now; times in ms.
    """

    version: int = VERSION
    applied: dict[int, tuple[int, int]] = {}
    event_ids: bytes = b""
    tail: list[Interaction] = []
    prefix: Prefix | None = None
    newest_at: int = 0
    newest_purchase_at: int = 0
    owned: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    erased_at: int = -1
    last_list: LastList | None = None


class KeptPurchase(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A purchase or cancellation. `example` hashes the newest example made from it (b"": none), `revision` counts them."""

    occurred_at: int
    purchase_id: str
    bought: bool
    items: tuple[str, ...]
    revision: int = 0
    example: bytes = b""


class EligibilityList(msgspec.Struct, frozen=True, array_like=True, gc=False):
    occurred_at: int
    excluded: tuple[str, ...]


class Evicted(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Counts of what left the state since ever, and the start of the newest interaction that did (-1: none)."""

    sessions: int = 0
    conversations: int = 0
    purchases: int = 0
    newest_started_at: int = -1


class Facts(msgspec.Struct, array_like=True):
    """What changes seldom: the interactions before the tail, purchases, eligibility. Mutable inside one step only.

    `owned_before` is the newest action per item of the purchases no longer kept: (time, bought). `example_ids` are (time,
    purchase id) of purchases no longer kept whose examples an erasure must still reach.
    """

    version: int = VERSION
    interactions: list[Interaction] = []
    purchases: list[KeptPurchase] = []
    owned_before: dict[str, tuple[int, bool]] = {}
    eligibility: list[EligibilityList] = []
    gone: Evicted = Evicted()
    example_ids: list[tuple[int, str]] = []


class ErasureMarker(msgspec.Struct, frozen=True, array_like=True):
    """What an erasure leaves under a keyed hash of the user, so that late and redelivered events stay out. Times in ms."""

    version: int
    erased_at: int
    written_at: int
    applied: dict[int, tuple[int, int]]


_encoder: Final = msgspec.msgpack.Encoder()
encode_state: Final = _encoder.encode
_head: Final = msgspec.msgpack.Decoder(Head).decode
_facts: Final = msgspec.msgpack.Decoder(Facts).decode
_marker: Final = msgspec.msgpack.Decoder(ErasureMarker).decode


class StatesUnreadableError(Exception):
    """The store of the users' states failed, or holds what cannot be read: no event's fault."""


def decode_head(stored: bytes) -> Head:
    """Raises StatesUnreadableError."""
    return _decoded(_head, stored)


def decode_facts(stored: bytes) -> Facts:
    """Raises StatesUnreadableError."""
    return _decoded(_facts, stored)


def decode_erasure_marker(stored: bytes) -> ErasureMarker:
    """Raises StatesUnreadableError."""
    return _decoded(_marker, stored)


def _decoded(decode: Callable[[bytes], Stored], stored: bytes) -> Stored:
    try:
        return decode(stored)
    except msgspec.MsgspecError as error:
        raise StatesUnreadableError("a user's state cannot be read: it is damaged, or a later version wrote it") from error


def head_key(user: bytes) -> bytes:
    return b"h" + user


def facts_key(user: bytes) -> bytes:
    return b"f" + user


def erasure_marker_key(user: bytes, erasure_key: bytes) -> bytes:
    """Where the marker lies: only who holds the key can tell whose it is. At most 64 bytes of the key count (RFC 7693)."""
    return b"m" + blake2b(user, key=erasure_key, digest_size=16).digest()


def event_id_hash(source: Source, event_id: str) -> bytes:
    return blake2b(f"{source}|{event_id}".encode(), digest_size=8).digest()
