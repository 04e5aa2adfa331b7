"""Clients of a served API that take too much: they do not read, hold connections, guess and repeat. Others are not held up."""

import json
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from tests.api import NOW
from tests.raw_http import (
    ITEMS,
    MEMORY_BYTES,
    WITHIN_S,
    authorised,
    connected,
    exchange,
    read_answer,
    still_answers,
    until,
    with_key,
)
from tests.served_replica import Served, served_replica

REQUESTS: Final = int(os.environ.get("HOSTILE_REQUESTS", "2000"))
CLICK: Final = b'{"type":"click","user_id":"u","occurred_at":%d,"tags":["home"]}' % NOW


@contextmanager
def streaming(port: int, credential: str, receive_bytes: int | None = None) -> Iterator[int]:
    """An open stream of which nothing but the status is read."""
    with closing(connected(port, receive_bytes)) as connection:
        connection.sendall(b"GET /v1/me/events?limit=100 HTTP/1.1\r\n" + authorised(credential) + b"\r\n")
        yield int(connection.recv(12).split()[1])


@pytest.mark.parametrize("named", [True, False])
def test_a_client_that_never_reads_its_stream_loses_its_place(tmp_path: Path, named: bool) -> None:
    """The one place of its user, or of its address, is free again while it still holds its end of the connection."""
    bound = {"max_streams_of_a_user": 1} if named else {"max_streams_of_an_address": 1}
    with served_replica(tmp_path, heartbeat_s=0.2, requests_per_s_of_a_user=0, **bound) as served:
        visitor = json.loads(exchange(served.port, with_key(served, "public", b"POST /v1/visitors", b"{}")).body)
        user, token = ("u", served.tokens["u"]) if named else (visitor["user_id"], visitor["token"])
        with streaming(served.port, token, receive_bytes=2_048) as status:
            assert status == 200
            with streaming(served.port, token) as refused:
                assert refused == 429
            served.flood(user)
            until(lambda: gets_a_place(served, token))


def gets_a_place(served: Served, token: str) -> bool:
    with streaming(served.port, token) as status:
        return status == 200


def test_a_client_that_does_not_read_its_answer_is_disconnected(tmp_path: Path) -> None:
    """After the set time, and long before the kernel would notice."""
    many = json.dumps({"users": ["u"] * 1_000, "limit": 100}).encode()
    with served_replica(tmp_path, answer_timeout_s=1) as served, closing(connected(served.port, 2_048)) as connection:
        connection.sendall(with_key(served, "read", b"POST /v1/users/batch", many))
        until(lambda: "unread_answer" in served.log.read_text())
        until(lambda: is_disconnected(connection))
        assert still_answers(served)


def is_disconnected(connection: socket.socket) -> bool:
    """Whether the other end is gone: what it has sent before stays to be read, so only a byte to it shows that."""
    try:
        connection.send(b"\n")
    except OSError:
        return True
    return False


BOUNDED: Final[dict[str, tuple[dict[str, Any], int]]] = {
    "all": ({"max_connections": 3}, 503),
    "of an address": ({"max_connections_of_an_address": 3}, 429),
}


@pytest.mark.parametrize("which", BOUNDED)
def test_connections_are_bounded(tmp_path: Path, which: str) -> None:
    """One more is told so and closed; it gets in once another has gone."""
    settings, status = BOUNDED[which]
    with served_replica(tmp_path, header_timeout_s=WITHIN_S, **settings) as served:
        idle = [connected(served.port) for _ in range(3)]
        try:
            until(lambda: refused_at_once(served.port) == status)
            idle.pop().close()
            until(lambda: still_answers(served))
        finally:
            for one in idle:
                one.close()


def refused_at_once(port: int) -> int | None:
    """The status of an answer that comes before anything was asked; None: nothing came."""
    with closing(connected(port)) as connection:
        connection.settimeout(0.2)
        with suppress(OSError):
            return read_answer(connection).status
    return None


FORWARDED: Final[dict[str, tuple[bytes, bool]]] = {
    "itself": (b"X-Forwarded-For: 192.0.2.1\r\n\r\n", True),
    "itself, with a port": (b"X-Forwarded-For: 192.0.2.1:4711\r\n\r\n", True),
    "itself, as IPv6": (b"X-Forwarded-For: ::ffff:192.0.2.1\r\n\r\n", True),
    "itself behind what it wrote": (b"X-Forwarded-For: 192.0.2.9, 192.0.2.1\r\n\r\n", True),
    "itself behind a header of its own": (b"X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n", True),
    "itself behind two proxies": (b"X-Forwarded-For: 192.0.2.1, 127.0.0.7\r\n\r\n", True),
    "itself before a trailer": (
        b"X-Forwarded-For: 192.0.2.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n",
        True,
    ),
    "its network": (b"X-Forwarded-For: 2001:db8::ffff\r\n\r\n", True),
    "its neighbour": (b"X-Forwarded-For: 192.0.2.2\r\n\r\n", False),
    "another network": (b"X-Forwarded-For: 2001:db8:0:1::1\r\n\r\n", False),
    "the proxy": (b"\r\n", False),
}


def test_a_proxied_client_locks_out_itself_alone(tmp_path: Path) -> None:
    """Whatever it writes in front of what the proxy appends. Of IPv6 it has a whole network."""
    with served_replica(tmp_path, trusted_proxies=["127.0.0.0/8"], failures_per_minute=3) as served:
        wrong, right = (ITEMS + authorised(key) for key in ("isk_1_2", served.keys["read"]))
        for address in (b"192.0.2.1", b"2001:db8::1"):
            tries = [exchange(served.port, wrong + b"X-Forwarded-For: %s\r\n\r\n" % address).status for _ in range(4)]
            assert tries == [401, 401, 401, 429]
        for who, (rest, is_locked_out) in FORWARDED.items():
            assert exchange(served.port, right + rest).status == (429 if is_locked_out else 200), who


@pytest.mark.timeout(180 + REQUESTS / 500)
def test_requests_over_the_rate_are_refused_and_cost_no_memory(tmp_path: Path) -> None:
    """As many as HOSTILE_REQUESTS says, from one address with a public key."""
    with served_replica(tmp_path, requests_per_s_of_an_address=1) as served:
        before, visitor = served.peak_bytes(), exchange(served.port, with_key(served, "public", b"POST /v1/visitors", b"{}"))
        click = CLICK.replace(b'"u"', json.dumps(json.loads(visitor.body)["user_id"]).encode())
        request, began, statuses = (
            with_key(served, "public", b"POST /v1/events", b'{"events":[' + click + b"]}"),
            time.monotonic(),
            b"",
        )
        with closing(connected(served.port)) as connection:
            for _ in range(REQUESTS // 50):
                connection.sendall(request * 50)
                received = b""
                while received.count(b"HTTP/1.1 ") < 50 or not received.endswith(b"}"):
                    received += connection.recv(100_000)
                assert received.count(b"HTTP/1.1 429") == received.lower().count(b"retry-after: ")
                statuses += b"".join(re.findall(rb"HTTP/1.1 (\d)\d\d", received))
        assert statuses.count(b"2") <= 4 + time.monotonic() - began
        assert statuses.count(b"4") == REQUESTS - statuses.count(b"2")
        assert served.peak_bytes() - before < MEMORY_BYTES
