"""Anonymous visitors, and for whom a public key may write.

A public key stands in a page, so everybody has it. It may write only for ids that nobody can guess or make: those that the API
itself issued, 128 random bits with a signature inside the id, and the user of a token that is sent along. So with the public key
alone nobody changes a named user's list.
"""

import base64
import binascii
import secrets
from collections.abc import Iterable
from typing import Final

from stream.api.callers import Caller
from stream.api.problems import ApiError
from stream.api.service import ReadService
from stream.api.signing import Signer, to_base64

PREFIX: Final = "anon-"
_RANDOM_BYTES: Final = 16
_MAC_BYTES: Final = 12
_MAC_AT: Final = len(PREFIX) + 22
_LENGTH: Final = _MAC_AT + 16


def new_visitor_id(signer: Signer) -> str:
    """Returns an id that nobody has: `anon-`, 22 characters of chance, 16 of signature."""
    named = PREFIX + to_base64(secrets.token_bytes(_RANDOM_BYTES))
    return named + to_base64(signer.mac(named, _MAC_BYTES))


def is_visitor_id(user_id: str, signer: Signer) -> bool:
    """Whether the API issued an id. Another spelling of the same bytes (`+` for `-`) is another user's id, and was not issued."""
    if len(user_id) != _LENGTH or not user_id.startswith(PREFIX) or not user_id.isascii():
        return False
    try:
        mac = base64.b64decode(user_id[_MAC_AT:], altchars=b"-_", validate=True)
    except binascii.Error:
        return False
    return to_base64(mac) == user_id[_MAC_AT:] and signer.has_mac(user_id[:_MAC_AT], mac)


async def refuse_foreign_users(caller: Caller, users: Iterable[str], signer: Signer, service: ReadService) -> None:
    """Raises ApiError (403) where a public key writes for a user whom it may not write for. A secret key may for all."""
    if not caller.is_public:
        return
    for user_id in set(users) - {caller.user_id}:
        if not is_visitor_id(user_id, signer):
            raise ApiError(
                403, "a public key sends for ids of POST /v1/visitors, or for the user of the token in Isthmus-User-Token"
            )
        if await service.erased_at(user_id) >= 0:
            raise ApiError(403, "this visitor was erased: ask for a new id with POST /v1/visitors")
