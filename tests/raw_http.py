"""Requests over plain sockets, byte by byte as they are written: no client library would send what attackers do."""

import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from http.client import HTTPResponse
from typing import Final, NamedTuple

from tests.served_replica import Served

WITHIN_S: Final = 60
MEMORY_BYTES: Final = 64_000_000
ITEMS: Final = b"GET /v1/items?limit=1 HTTP/1.1\r\n"


class Answer(NamedTuple):
    status: int
    headers: str
    body: bytes


def connected(port: int, receive_bytes: int | None = None) -> socket.socket:
    made = socket.socket()
    if receive_bytes is not None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    made.settimeout(WITHIN_S)
    made.connect(("127.0.0.1", port))
    return made


def read_answer(connection: socket.socket) -> Answer:
    answer = HTTPResponse(connection)
    answer.begin()
    return Answer(answer.status, str(answer.headers), answer.read())


def exchange(port: int, request: bytes) -> Answer:
    """The answer to a request that may be refused while it is still being sent."""
    with closing(connected(port)) as connection:
        with suppress(OSError):
            connection.sendall(request)
        return read_answer(connection)


def authorised(credential: str) -> bytes:
    return f"Host: x\r\nAuthorization: Bearer {credential}\r\n".encode()


def still_answers(served: Served) -> bool:
    return exchange(served.port, ITEMS + authorised(served.keys["read"]) + b"\r\n").status == 200


def with_length(body: bytes, *lines: bytes) -> bytes:
    return b"".join([*(line + b"\r\n" for line in lines), b"Content-Length: %d\r\n\r\n" % len(body), body])


def with_key(served: Served, scope: str, line: bytes, body: bytes, *lines: bytes) -> bytes:
    head = line + b" HTTP/1.1\r\nContent-Type: application/json\r\n" + authorised(served.keys[scope])
    return head + with_length(body, *lines)


def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < ends_at
