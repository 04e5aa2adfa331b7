"""Errors as problem details (RFC 9457): every answer that is no success has this form."""

import json
import logging
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from stream.api.store import StoreAwayError

AMBIGUOUS: Final = (
    "a path segment is empty, or holds a slash, dots alone, a control character or no UTF-8: send such an id in a body"
)
_UNROUTED: Final = {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
logger = logging.getLogger("isthmus")
MEDIA_TYPE: Final = "application/problem+json"
PRIVATE: Final = (
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"Authorization, Origin"),
    (b"x-content-type-options", b"nosniff"),
)
"""Headers of every answer, errors included: no cache may keep it for somebody else."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request was not answered (RFC 9457).

    Attributes:
        title: Name of the status.
        status: HTTP status.
        detail: What to do about it.
    """

    title: str
    status: int
    detail: str | None = None


class ApiRequest(Request[Any, Any, Any]):
    """A request whose body must be JSON in UTF-8 that each reader reads alike (RFC 7493), and not compressed."""

    async def body(self) -> bytes:
        """Refuses a compressed body unread: what it unpacks to has no bound."""
        if self.headers.get("content-encoding", "identity").lower() != "identity":
            raise ApiError(415, "compressed bodies are not read: send it without Content-Encoding", {"Accept-Encoding": "identity"})
        return await super().body()

    async def json(self) -> Any:
        try:
            decoded = await super().json()
            json.loads(await self.body() or b"null", object_pairs_hook=_once)
        except UnicodeDecodeError:
            raise ApiError(400, "the body is not UTF-8") from None
        return decoded


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are unique: of two equal ones a gateway may have judged the first, while the last would count here."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ApiError(400, "an object of the body has two fields of the same name")
    return found


class ApiError(HTTPException):
    """An error response with its own headers."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail=detail, status_code=status, headers=headers)


def problem_response(request: Request[Any, Any, Any], error: Exception) -> Response[Problem]:
    """Turns any exception of a handler into a problem. What was not foreseen is logged without the request's path or body."""
    if isinstance(error, HTTPException):
        status, detail, headers = error.status_code, _detail(request, error), error.headers
    elif isinstance(error, RecursionError):
        status, detail, headers = HTTPStatus.BAD_REQUEST, "the body is nested too deeply", None
    elif isinstance(error, StoreAwayError):
        status, detail, headers = HTTPStatus.SERVICE_UNAVAILABLE, "the store does not answer: try again", {"Retry-After": "1"}
    else:
        logger.error("a request could not be answered", exc_info=error)
        status, detail, headers = HTTPStatus.INTERNAL_SERVER_ERROR, None, None
    if status in _UNROUTED and is_ambiguous(request.scope["raw_path"]):
        status, detail = HTTPStatus.BAD_REQUEST, AMBIGUOUS
    problem = Problem(HTTPStatus(status).phrase, int(status), detail)
    return Response(problem, status_code=status, media_type=MEDIA_TYPE, headers=headers)


def _detail(request: Request[Any, Any, Any], error: HTTPException) -> str:
    """The text, and which fields did not fit."""
    if isinstance(error, RequestEntityTooLarge):
        return f"the body has more than {request.route_handler.resolve_request_max_body_size()} bytes"
    extra = error.extra if isinstance(error.extra, list) else []
    fields = [f"{one.get('key', 'body')}: {one.get('message')}" for one in extra if isinstance(one, dict)]
    return "; ".join(fields) or error.detail


def is_ambiguous(raw_path: bytes) -> bool:
    """Whether a proxy or a router may read a path as another user's: an encoded or doubled slash, a dot segment, a control
    character, or bytes that are not UTF-8. Such a user id is sent in a body (`POST /v1/users/batch`).
    """
    for segment in (unquote_to_bytes(part) for part in raw_path.split(b"?")[0][1:].split(b"/")):
        if segment in {b"", b".", b".."} or b"/" in segment or b"\\" in segment or min(segment) < 32:
            return True
        try:
            segment.decode()
        except UnicodeDecodeError:
            return True
    return False
