"""Signed statements: texts that any replica with the secret accepts, and that are stored nowhere.

The first secret signs and all of them verify, so that a secret can be replaced while statements of the former one live. Each kind
of statement has its own prefix, which is signed with it: none can stand in for another.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

_SECRET_BYTES: Final = 32
_PARTS: Final = 3


class Signer:
    """Signs and verifies. Without secrets it signs nothing and knows nothing."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Raises ValueError for a secret of fewer than 32 bytes, which could be guessed."""
        if any(len(secret) < _SECRET_BYTES for secret in secrets):
            raise ValueError(f"a token secret must have at least {_SECRET_BYTES} bytes")
        self._secrets = tuple(secrets)

    @property
    def can_sign(self) -> bool:
        return bool(self._secrets)

    def sign(self, prefix: str, content: bytes, bound_to: str = "") -> str:
        """Returns `prefix.content.signature`. What it is bound to is signed, but not part of the text."""
        payload = to_base64(content)
        return f"{prefix}.{payload}.{to_base64(_digest(self._secrets[0], prefix, payload, bound_to))}"

    def content_of(self, prefix: str, text: str, bound_to: str = "") -> bytes | None:
        """Returns the content of a text that was signed here, under this prefix and binding; otherwise None."""
        parts = text.split(".")
        if len(parts) != _PARTS or parts[0] != prefix:
            return None
        signature = _from_base64(parts[2])
        if not any(hmac.compare_digest(_digest(secret, prefix, parts[1], bound_to), signature) for secret in self._secrets):
            return None
        return _from_base64(parts[1])

    def mac(self, content: str, size: int) -> bytes:
        """Returns the first bytes of a content's signature by the first secret."""
        return hmac.digest(self._secrets[0], content.encode(), hashlib.sha256)[:size]

    def has_mac(self, content: str, mac: bytes) -> bool:
        """Whether a secret of ours made these bytes of a signature."""
        encoded = content.encode()
        made = (hmac.digest(secret, encoded, hashlib.sha256)[: len(mac)] for secret in self._secrets)
        return any(hmac.compare_digest(one, mac) for one in made)


def _digest(secret: bytes, prefix: str, payload: str, bound_to: str) -> bytes:
    """HMAC-SHA-256 of lengths and texts, so that no two statements share the signed bytes."""
    bound = bound_to.encode()
    return hmac.digest(secret, f"{prefix}.{payload}.{len(bound)}.".encode() + bound, hashlib.sha256)


def to_base64(content: bytes) -> str:
    """URL-safe base64 without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _from_base64(text: str) -> bytes:
    """The bytes of a text; none where it is no base64."""
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return b""
