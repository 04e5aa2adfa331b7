"""What a list that only the API knows was: a signed statement that the list itself carries as its `served_id`.

The topic `recommendations` holds each list as the step made it. One that was filtered, filled, cut to another length, or made here
(strangers, guests) is found nowhere later, so its answer states what was shown, and feedback brings the statement back. Nothing is
stored: any replica with the secret reads it.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from stream.api.signing import Signer
from stream.core.limits import DAY_MS, HOUR_MS

PREFIX: Final = "isl"
VALID_MS: Final = DAY_MS
_WINDOW_MS: Final = 12 * HOUR_MS
"""A list keeps its id within one window, so that its ETag stays the same; the id then ends a window later."""


class ServedList(msgspec.Struct, frozen=True, array_like=True):
    """What a served list was.

    Attributes:
        model_version: Version that ranked it, or popularity's; "": none.
        items: The items in shown order.
        issued_at: Beginning of the 12 hours in which it was served, ms.
        placement: Where it was shown: a declared placement, `other`, or "" for none.
    """

    model_version: str
    items: tuple[str, ...]
    issued_at: int
    placement: str = ""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(ServedList).decode


class ServedLists:
    """Issues and verifies served ids."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def issue(
        self, user_id: str, model_version: str, items: Sequence[str], now_ms: int, placement: str | None = None
    ) -> str | None:
        """Returns the id of a list; `user_id` "": a guest's. None where the setting `api.token_secrets` is empty."""
        if not self._signer.can_sign:
            return None
        issued_at = now_ms - now_ms % _WINDOW_MS
        served = ServedList(model_version, tuple(items), issued_at, placement or "")
        return self._signer.sign(PREFIX, _encode(served), user_id)

    def verify(self, served_id: str, user_id: str, now_ms: int) -> ServedList | None:
        """Returns what was served under an id to this user, or to a guest, who may be any user, in the last 24 h at least.

        None where nothing was.
        """
        for bound_to in (user_id, ""):
            content = self._signer.content_of(PREFIX, served_id, bound_to)
            if content is None:
                continue
            try:
                served = _decode(content)
            except msgspec.MsgspecError:  # a later version's
                return None
            return served if now_ms < served.issued_at + _WINDOW_MS + VALID_MS else None
        return None
