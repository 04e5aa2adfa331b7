"""Which requests are refused by their line and headers alone, before any route sees them.

A proxy in front and this server must read the same request (RFC 9112, sections 3.2, 6.1 and 11.2). So what two readers could take
in two ways is refused, also where a lenient server would answer.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

Headers = Sequence[tuple[bytes, bytes]]
Reason = Literal[
    "malformed",
    "large_head",
    "slow_head",
    "slow_rest",
    "too_many_pipelined",
    "unread_answer",
    "too_many_connections",
    "too_many_of_an_address",
]


class Refusal(NamedTuple):
    """Why a connection is closed.

    Attributes:
        reason: For the metric.
        status: HTTP status of the answer.
        detail: What the client should know.
    """

    reason: Reason
    status: int
    detail: str


VERSIONS: Final = frozenset({"1.0", "1.1"})
_ONCE: Final = frozenset(
    {b"host", b"authorization", b"isthmus-user-token", b"idempotency-key", b"content-type", b"content-encoding"}
)
_PER_HEADER: Final = len(": \r\n")
MALFORMED: Final = Refusal("malformed", 400, "this is no request as HTTP/1.1 (RFC 9112) defines it")


def too_large(url: bytes, most_bytes: int) -> Refusal:
    """Says which part does not fit."""
    if len(url) > most_bytes:
        return Refusal("large_head", 414, f"the URL is longer than {most_bytes} bytes")
    return Refusal("large_head", 431, f"request line and headers have more than {most_bytes} bytes")


def refusal_of(url: bytes, headers: Headers, version: str, most_bytes: int, most_headers: int) -> Refusal | None:
    """Returns why a request must not be answered; None where it may. Names of headers are in lower case."""
    if len(headers) > most_headers:
        return Refusal("large_head", 431, f"the request has more than {most_headers} headers")
    if len(url) + sum(len(name) + len(value) + _PER_HEADER for name, value in headers) > most_bytes:
        return too_large(url, most_bytes)
    if version not in VERSIONS:
        return Refusal("malformed", 505, "HTTP/1.1 is spoken here")
    return _ambiguity(headers, version)


def _ambiguity(headers: Headers, version: str) -> Refusal | None:
    names = [name for name, _ in headers]
    repeated = next((name for name in _ONCE if names.count(name) > 1), None)
    if repeated is not None:
        return Refusal("malformed", 400, f"the header `{repeated.decode()}` is there more than once")
    if version == "1.1" and b"host" not in names:
        return Refusal("malformed", 400, "the header `host` is missing")
    if any(name == b"transfer-encoding" and value.lower() != b"chunked" for name, value in headers):
        return Refusal("malformed", 501, "the only transfer coding that is read here is `chunked`")
    return None
