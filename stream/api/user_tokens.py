"""User tokens: what a site's backend gives a browser, so that it reads its own user's list and nobody else's.

A token is a signed statement and stored nowhere: every replica that has the secret accepts it, for minutes and for one user. The
first secret signs and all of them verify, so that a secret can be replaced while tokens of the former one live.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

import msgspec

PREFIX: Final = "ist"
_PARTS: Final = 3
_SECRET_BYTES: Final = 32


class UserToken(msgspec.Struct, frozen=True):
    """What a token states.

    Attributes:
        user_id: Whose list it opens.
        issued_at: When it was made, ms.
        expires_at: When it ends, ms.
    """

    user_id: str
    issued_at: int
    expires_at: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(UserToken).decode


class TokenSigner:
    """Makes and reads tokens. Without secrets it makes none and knows none."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Raises ValueError for a secret of fewer than 32 bytes, which could be guessed."""
        if any(len(secret) < _SECRET_BYTES for secret in secrets):
            raise ValueError(f"a token secret must have at least {_SECRET_BYTES} bytes")
        self._secrets = tuple(secrets)

    @property
    def can_sign(self) -> bool:
        return bool(self._secrets)

    def sign(self, token: UserToken) -> str:
        """Returns the text that a client presents."""
        payload = _base64(_encode(token))
        return f"{PREFIX}.{payload}.{_signature(self._secrets[0], payload)}"

    def read(self, presented: str, now_ms: int) -> UserToken | None:
        """Returns what a presented token states; None where it is none of ours, or has ended."""
        parts = presented.split(".")
        if len(parts) != _PARTS or parts[0] != PREFIX:
            return None
        presented_signature = parts[2].encode()
        if not any(hmac.compare_digest(_signature(secret, parts[1]).encode(), presented_signature) for secret in self._secrets):
            return None
        try:
            token = _decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        except (msgspec.MsgspecError, binascii.Error):
            return None
        return token if now_ms < token.expires_at else None


def _signature(secret: bytes, payload: str) -> str:
    return _base64(hmac.digest(secret, payload.encode(), hashlib.sha256))


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
