"""API keys: what the compacted topic `api-keys` holds of them, and who a presented key is.

The topic holds no secret, only its SHA-256: 256 random bits cannot be guessed, so a slow hash would add nothing. It is read whole
at each start and never stored, or a revoked key would outlive its tombstone.
"""

import hashlib
import hmac
import logging
import secrets
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec

from stream.core.parsing import UNUSABLE
from stream.core.records import Record

logger = logging.getLogger("isthmus")
PREFIX: Final = "isk"
_PARTS: Final = 3


class Scope(StrEnum):
    """What a key may do. `ADMIN` may do everything. A key with `PUBLIC` stands in a page and may do nothing else."""

    READ = "read"
    WRITE = "write"
    FEEDBACK = "feedback"
    ERASE = "erase"
    TOKENS = "tokens"
    LIVE = "live"
    ADMIN = "admin"
    PUBLIC = "public"


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """One API key (topic `api-keys`, key = key id; a tombstone revokes it).

    Attributes:
        key_id: The key's public part.
        name: Who uses it, for people.
        scopes: What it may do.
        sha256: Hex digest of the secret.
        created_at: When it was made, ms.
        expires_at: When it ends, ms; None: never.
    """

    key_id: str
    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    created_at: int
    expires_at: int | None = None

    def is_live(self, now_ms: int) -> bool:
        return self.expires_at is None or now_ms < self.expires_at


encode_api_key: Final = msgspec.json.Encoder().encode
decode_api_key: Final = msgspec.json.Decoder(ApiKey).decode


def make_api_key(name: str, scopes: Sequence[Scope], now_ms: int, expires_at: int | None = None) -> tuple[str, ApiKey]:
    """Returns what the client presents, which is stored nowhere, and the record of it."""
    key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    key = ApiKey(key_id=key_id, name=name, scopes=tuple(scopes), sha256=_digest(secret), created_at=now_ms, expires_at=expires_at)
    return f"{PREFIX}_{key_id}_{secret}", key


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class ApiKeys:
    """The live keys, as the topic's records make them, and those of this process."""

    def __init__(self, own: Sequence[ApiKey] = ()) -> None:
        """`own` are keys of this process alone, which are in no topic."""
        self._own = {key.key_id: key for key in own}
        self._keys: dict[str, ApiKey] = {}

    async def on_records(self, records: Sequence[Record], *, replace: bool = False) -> None:
        """Applies keys and tombstones; with `replace`, keys that the records do not hold open nothing any more."""
        if replace:
            self._keys = {}
        for record in records:
            if record.key is None:
                continue
            self._keys.pop(record.key.decode(errors="replace"), None)
            if record.value:
                self._add(record.value)

    def _add(self, value: bytes) -> None:
        try:
            key = decode_api_key(value)
        except UNUSABLE as error:  # written by a later version, or damaged: a key that is not understood opens nothing
            logger.warning("a record of the API's keys cannot be read (%s): that key opens nothing", type(error).__name__)
            return
        self._keys[key.key_id] = key

    def find(self, presented: str, now_ms: int) -> ApiKey | None:
        """Returns the live key that a client presents, or None."""
        parts = presented.split("_")
        if len(parts) != _PARTS or parts[0] != PREFIX:
            return None
        key = self._own.get(parts[1]) or self._keys.get(parts[1])
        if key is None or not hmac.compare_digest(_digest(parts[2]), key.sha256) or not key.is_live(now_ms):
            return None
        return key

    def is_live(self, key: ApiKey, now_ms: int) -> bool:
        """Whether a key that was found before is still what the topic holds."""
        return (self._own.get(key.key_id) or self._keys.get(key.key_id)) == key and key.is_live(now_ms)

    def all(self) -> list[ApiKey]:
        return sorted(self._keys.values(), key=lambda key: key.created_at)
