"""User tokens: what a site's backend gives a browser, so that it reads its own user's list and nobody else's.

A token is a signed statement (`stream.api.signing`): every replica that has the secret accepts it, for minutes and for one user.
"""

from typing import Final

import msgspec

from stream.api.signing import Signer

PREFIX: Final = "ist"


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


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(UserToken).decode


def sign_token(signer: Signer, token: UserToken) -> str:
    """Returns the text that a client presents."""
    return signer.sign(PREFIX, _encode(token))


def read_token(signer: Signer, presented: str, now_ms: int) -> UserToken | None:
    """Returns what a presented token states; None where it is none of ours, or has ended."""
    content = signer.content_of(PREFIX, presented)
    if content is None:
        return None
    try:
        token = _decode(content)
    except msgspec.MsgspecError:  # a later version's
        return None
    return token if now_ms < token.expires_at else None
