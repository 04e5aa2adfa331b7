"""Beacons: what a page sends when it closes, by `navigator.sendBeacon`.

A beacon sets no headers, and one of another type than text/plain would need a preflight, which a closed page does not await (Fetch
standard, CORS-safelisted request headers; W3C Beacon). So its credentials stand in the body: a public key and a user token, which
the door checks as it checks headers. Any page can send such a request, as any program can: nothing in it is ambient, for this API
sets no cookie and reads none, so no page borrows the rights of the browser that it runs in.
"""

from typing import Any, Final

import msgspec
from litestar import Request
from litestar.exceptions import SerializationException

from stream.api.problems import ApiError

MAX_BYTES: Final = 65_536
"""What browsers queue of beacons at most (Fetch standard, HTTP-network-or-cache fetch). More is refused unread."""
_TYPE: Final = "text/plain"


class BeaconCredentials(msgspec.Struct, frozen=True):
    """What a beacon presents in place of headers.

    Attributes:
        key: A public key: `isk_...`.
        user_token: The token of the user who is named: alone where a user's token is enough, else beside the key.
    """

    key: str | None = None
    user_token: str | None = None


class _Body(msgspec.Struct):
    """The part of a body that the door reads."""

    credentials: BeaconCredentials = BeaconCredentials()


def is_beacon(request: Request[Any, Any, Any]) -> bool:
    """Whether the credentials are to be sought in the body: it is text, and no header presents any."""
    return "authorization" not in request.headers and request.content_type[0] == _TYPE


async def credentials_of(request: Request[Any, Any, Any]) -> BeaconCredentials:
    """Reads the body, which the route then gets too.

    Raises:
        ApiError: it is too large, or no JSON object.
    """
    size = request.content_length
    if size is None:
        raise ApiError(411, "a beacon states its length")
    if size > MAX_BYTES:
        raise ApiError(413, f"a beacon has at most {MAX_BYTES} bytes")
    try:
        return msgspec.convert(await request.json(), _Body).credentials
    except (SerializationException, msgspec.ValidationError):
        raise ApiError(400, "a beacon is a JSON object; `credentials` holds its `key` and `user_token`") from None
