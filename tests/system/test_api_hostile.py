"""A served API under attack, over real sockets: each attack is refused with the right status, or its connection is closed.

The memory of the process stays bounded, its log is not forged, and others are answered meanwhile.
"""

import json
import os
import re
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.api import NOW
from tests.served_replica import Served, served_replica

MARK: Final = "evil-marker"
MEMORY_BYTES: Final = 64_000_000
REQUESTS: Final = int(os.environ.get("HOSTILE_REQUESTS", "2000"))
WITHIN_S: Final = 60
MALFORMED: Final = "RFC 9112"
LIST: Final = b'{"users":["u"]}'
ITEMS: Final = b"GET /v1/items?limit=1 HTTP/1.1\r\n"
BATCH: Final = b"POST /v1/users/batch HTTP/1.1\r\nContent-Type: application/json\r\n"


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


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One replica for all attacks that leave it as it is; in the end its memory and its log are looked at."""
    folder = tmp_path_factory.mktemp("hostile")
    with served_replica(folder, failures_per_minute=0, header_timeout_s=1, body_timeout_s=1) as running:
        before = running.peak_bytes()
        yield running
        assert running.peak_bytes() - before < MEMORY_BYTES
        log = running.log.read_text()
        assert MARK not in log
        assert not [line for line in log.splitlines() if not re.match(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ", line)]
        assert log.count("connections closed (") < 10


def still_answers(served: Served) -> bool:
    return exchange(served.port, ITEMS + authorised(served.keys["read"]) + b"\r\n").status == 200


def with_length(body: bytes, *lines: bytes) -> bytes:
    return b"".join([*(line + b"\r\n" for line in lines), b"Content-Length: %d\r\n\r\n" % len(body), body])


def in_chunks(body: bytes, *lines: bytes) -> bytes:
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for at in range(0, len(body), 50_000) if (part := body[at : at + 50_000])]
    return b"".join([*(line + b"\r\n" for line in lines), b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"])


CLICK: Final = b'{"type":"click","user_id":"u","occurred_at":%d,"tags":["home"]}' % NOW
MILLION: Final = b'{"events":[' + b",".join([b"{}"] * 1_000_000) + b"]}"
BOMB: Final = zlib.compress(b'{"users":["' + b"x" * 20_000_000 + b'"]}', 9)
DEEP: Final = b"[" * 50_000 + b"]" * 50_000
HEADS: Final[dict[str, tuple[bytes, int, str]]] = {
    "a line feed in a header": (b"X-A: a\nX-B: evil-marker\r\n\r\n", 400, MALFORMED),
    "a carriage return in a header": (b"X-A: a\rX-B: evil-marker\r\n\r\n", 400, MALFORMED),
    "a NUL in a header": (b"If-None-Match: a\0evil-marker\r\n\r\n", 400, MALFORMED),
    "a NUL in a header's name": (b"X\0A: evil-marker\r\n\r\n", 400, MALFORMED),
    "a folded header": (b"X-A: a\r\n evil-marker\r\n\r\n", 400, MALFORMED),
    "a space before a colon": (b"Content-Length : 5\r\n\r\nhello", 400, MALFORMED),
    "two hosts": (b"Host: evil-marker\r\n\r\n", 400, "`host`"),
    "two credentials": (b"Authorization: Bearer evil-marker\r\n\r\n", 400, "`authorization`"),
    "two user tokens": (b"Isthmus-User-Token: a\r\nIsthmus-User-Token: b\r\n\r\n", 400, "`isthmus-user-token`"),
    "a huge header": (b"X-A: " + b"a" * 5_000_000 + b"\r\n\r\n", 431, "32768 bytes"),
    "many headers": (b"X-A: a\r\n" * 200 + b"\r\n", 431, "100 headers"),
    "a million headers": (b"X-A: a\r\n" * 1_000_000 + b"\r\n", 431, "32768 bytes"),
    "a header without an end": (b"X-A: " + b"a" * 100_000, 431, "32768 bytes"),
}
BODIES: Final[dict[str, tuple[bytes, int, str]]] = {
    "two lengths": (b"Content-Length: 15\r\nContent-Length: 15\r\n\r\n" + LIST, 400, MALFORMED),
    "two lengths that differ": (b"Content-Length: 15\r\nContent-Length: 3\r\n\r\n" + LIST, 400, MALFORMED),
    "a list of lengths": (b"Content-Length: 15, 15\r\n\r\n" + LIST, 400, MALFORMED),
    "a signed length": (b"Content-Length: +15\r\n\r\n" + LIST, 400, MALFORMED),
    "a negative length": (b"Content-Length: -1\r\n\r\n" + LIST, 400, MALFORMED),
    "a length that overflows": (b"Content-Length: 18446744073709551631\r\n\r\n" + LIST, 400, MALFORMED),
    "a length and chunks": (b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, MALFORMED),
    "chunks and a length": (b"Transfer-Encoding: chunked\r\nContent-Length: 15\r\n\r\n0\r\n\r\n", 400, MALFORMED),
    "chunks twice": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400, MALFORMED),
    "another coding": (b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501, "`chunked`"),
    "a coding around chunks": (b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501, "`chunked`"),
    "a chunk without a size": (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n", 400, MALFORMED),
    "a chunk that overflows": (b"Transfer-Encoding: chunked\r\n\r\n10000000000000000f\r\n\r\n", 400, MALFORMED),
    "a chunk extension without an end": (b"Transfer-Encoding: chunked\r\n\r\n1;a=" + b"a" * 500_000, 431, "32768 bytes"),
    "a trailer without an end": (b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-A: " + b"a" * 500_000, 431, "32768 bytes"),
    "a compressed body": (with_length(BOMB, b"Content-Encoding: deflate"), 415, "Content-Encoding"),
    "a body said to be compressed": (with_length(LIST, b"Content-Encoding: gzip, br"), 415, "Content-Encoding"),
    "a field twice": (with_length(b'{"users":["u"],"users":["v"]}'), 400, "same name"),
    "an inner field twice": (with_length(b'{"users":["u"],"more":[{"a":1,"\\u0061":2}]}'), 400, "same name"),
    "deep lists": (with_length(DEEP), 400, "nested too deeply"),
    "deep lists where nobody looks": (with_length(b'{"users":["u"],"more":' + DEEP + b"}"), 400, "nested too deeply"),
    "a million events": (with_length(MILLION), 413, "1048576 bytes"),
    "a million events in chunks": (in_chunks(MILLION), 413, "1048576 bytes"),
    "a terabyte": (b"Content-Length: 1099511627776\r\n\r\n", 413, "1048576 bytes"),
}
LINES: Final[dict[str, tuple[bytes, int]]] = {
    "a huge query": (b"GET /v1/items?" + b"after=a&" * 10_000 + b" HTTP/1.1", 414),
    "a huge path": (b"GET /v1/users/" + b"a" * 100_000 + b"/profile HTTP/1.1", 414),
    "a space in a path": (b"GET /v1/users/u evil-marker HTTP/1.1", 400),
    "bytes in a path": (b"GET /v1/users/\xff\xfe/profile HTTP/1.1", 400),
    "an encoded line end": (b"GET /v1/users/u%0d%0aevil-marker:%201/profile HTTP/1.1", 400),
    "an encoded NUL": (b"GET /v1/users/u%00/profile HTTP/1.1", 400),
    "an encoded slash": (b"GET /v1/users/u%2Fprofile/profile HTTP/1.1", 400),
    "an encoded backslash": (b"GET /v1/users/u%5C..%5Cv/profile HTTP/1.1", 400),
    "dot segments": (b"GET /v1/users/u/../v/profile HTTP/1.1", 400),
    "encoded dot segments": (b"GET /v1/users/%2e%2e/items HTTP/1.1", 400),
    "a doubled slash": (b"GET //v1/items HTTP/1.1", 400),
    "two slashes in a row": (b"GET /v1//users/u/profile HTTP/1.1", 400),
    "another host's URL": (b"CONNECT evil-marker:443 HTTP/1.1", 400),
    "the whole server": (b"OPTIONS * HTTP/1.1", 400),
    "TRACE": (b"TRACE /v1/items HTTP/1.1", 405),
    "a method of its own": (b"EVIL-MARKER /v1/items HTTP/1.1", 400),
    "HTTP/2": (b"PRI * HTTP/2.0", 400),
    "HTTP/0.9": (b"GET /v1/items", 505),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a limit that is a line": (b"GET /v1/items?limit=1%0d%0aevil-marker HTTP/1.1", 400),
}


def check_refused(served: Served, request: bytes, status: int, detail: str = "") -> None:
    answer = exchange(served.port, request)
    assert answer.status == status, answer
    assert "application/problem+json" in answer.headers
    assert "no-cache" in answer.headers
    problem = json.loads(answer.body)
    assert problem["status"] == status
    assert detail in problem["detail"]
    assert MARK not in answer.headers
    assert still_answers(served)


@pytest.mark.parametrize("attack", HEADS)
def test_a_hostile_header_is_refused(served: Served, attack: str) -> None:
    """Two readers could take it in two ways, or it is too large; nothing of it comes back."""
    rest, status, detail = HEADS[attack]
    check_refused(served, ITEMS + authorised(served.keys["admin"]) + rest, status, detail)


@pytest.mark.parametrize("attack", BODIES)
def test_a_hostile_body_is_refused(served: Served, attack: str) -> None:
    """Before it is unpacked, and before it has come whole where its length is known."""
    rest, status, detail = BODIES[attack]
    check_refused(served, BATCH + authorised(served.keys["admin"]) + rest, status, detail)


@pytest.mark.parametrize("attack", LINES)
def test_a_hostile_request_line_is_refused(served: Served, attack: str) -> None:
    """Also where it names no method, path or version that exists here."""
    line, status = LINES[attack]
    check_refused(served, line + b"\r\n" + authorised(served.keys["admin"]) + b"\r\n", status)


def test_a_request_names_its_host(served: Served) -> None:
    """RFC 9112, section 3.2."""
    check_refused(served, ITEMS + f"Authorization: Bearer {served.keys['admin']}\r\n\r\n".encode(), 400, "`host`")


CREDENTIALS: Final[dict[str, tuple[Callable[[Served], str], bytes, int]]] = {
    "no key": (lambda _: "", b"GET /v1/items", 401),
    "a key that is no key": (lambda _: "isk_" + "A" * 20_000, b"GET /v1/items", 401),
    "half a key": (lambda served: served.keys["read"][:-1], b"GET /v1/items", 401),
    "a token that was changed": (lambda served: served.tokens["u"][:-2], b"GET /v1/me/recommendations", 401),
    "a token with another's name": (
        lambda served: ".".join([*served.tokens["v"].split(".")[:2], served.tokens["u"].split(".")[2]]),
        b"GET /v1/me/recommendations",
        401,
    ),
    "another user's token": (lambda served: served.tokens["v"], b"GET /v1/users/u/profile", 401),
    "a token of no algorithm": (lambda _: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1In0.", b"GET /v1/items", 401),
    "a scope too few": (lambda served: served.keys["write"], b"GET /v1/users/u/profile", 403),
    "a public key that reads": (lambda served: served.keys["public"], b"GET /v1/users/u/recommendations", 403),
    "a reader that erases": (lambda served: served.keys["read"], b"DELETE /v1/users/u", 403),
}


@pytest.mark.parametrize("attack", CREDENTIALS)
def test_a_hostile_credential_is_refused(served: Served, attack: str) -> None:
    """And the answer does not repeat it."""
    credential, line, status = CREDENTIALS[attack]
    check_refused(served, line + b" HTTP/1.1\r\n" + authorised(credential(served)) + b"\r\n", status)


def test_nothing_that_a_client_names_comes_back_in_a_header(served: Served) -> None:
    """Placements, ETags, origins and idempotency keys, encoded line ends in them included."""
    line = f"GET /v1/users/u/recommendations?placement={MARK}%0d%0aX-Evil:1 HTTP/1.1\r\n".encode()
    sent = f"Origin: https://{MARK}\r\nIf-None-Match: {MARK}\r\nIdempotency-Key: {MARK}\r\nLast-Event-ID: {MARK}\r\n\r\n".encode()
    answer = exchange(served.port, line + authorised(served.keys["read"]) + sent)
    assert (answer.status, json.loads(answer.body)["placement"]) == (200, "other")
    assert MARK not in answer.headers
    assert "X-Evil" not in answer.headers


def test_a_trailer_is_no_header(served: Served) -> None:
    """A proxy has judged the headers alone."""
    trailers = b"Transfer-Encoding: chunked\r\n\r\nf\r\n" + LIST + b"\r\n0\r\n"
    request = BATCH + b"Host: x\r\n" + trailers + f"Authorization: Bearer {served.keys['read']}\r\n\r\n".encode()
    assert exchange(served.port, request).status == 401


def test_a_client_without_patience_is_no_error_of_the_server(served: Served) -> None:
    """One that leaves in the middle of a body, or of a stream whose request announced one."""
    stream = b"GET /v1/me/events HTTP/1.1\r\n" + authorised(served.tokens["u"])
    for request in (BATCH + authorised(served.keys["read"]), stream):
        with closing(connected(served.port)) as connection:
            connection.sendall(request + b"Content-Length: 100\r\n\r\n")
            received = b""
            while request is stream and received.count(b"still here") < 8:  # longer than a body may take
                part = connection.recv(10_000)
                assert part
                received += part
    assert still_answers(served)


SLOW: Final[dict[str, tuple[bytes, bytes, int]]] = {
    "a request line": (b"", b"GET /v1/items?after=" + b"a" * 10_000, 408),
    "headers": (b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"X-A: a\r\n" * 10_000, 408),
    "empty lines": (b"", b"\r\n" * 10_000, 408),
    "a body": (BATCH + b"{key}Content-Length: 10000\r\n\r\n", b"[" * 10_000, 408),
    "chunks": (BATCH + b"{key}Transfer-Encoding: chunked\r\n\r\n", b"1\r\n[\r\n" * 10_000, 408),
    "a body that nobody waits for": (b"GET /livez HTTP/1.1\r\n{key}Content-Length: 10000\r\n\r\n", b"[" * 10_000, 200),
    "the next request": (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /v1/items?after=" + b"a" * 10_000, 200),
}


def test_a_client_that_sends_byte_by_byte_is_disconnected(served: Served) -> None:
    """However regularly its bytes come, and others are answered meanwhile."""
    with ThreadPoolExecutor(len(SLOW)) as clients:
        dripping = {attack: clients.submit(drip, served, *SLOW[attack][:2]) for attack in SLOW}
        assert still_answers(served)
        for attack, (_, _, status) in SLOW.items():
            assert dripping[attack].result().startswith(b"HTTP/1.1 %d" % status), attack


def drip(served: Served, at_once: bytes, dripping: bytes) -> bytes:
    """What comes until the server closes the connection, which it must do before all was sent."""
    received, ends_at = b"", time.monotonic() + WITHIN_S
    with closing(connected(served.port)) as connection:
        connection.sendall(at_once.replace(b"{key}", authorised(served.keys["read"])))
        connection.settimeout(0.01)
        for byte in dripping:
            assert time.monotonic() < ends_at
            try:
                connection.sendall(bytes([byte]))
                part = connection.recv(10_000)
            except TimeoutError:
                continue
            except OSError:
                return received
            if not part:
                return received
            received += part
    raise AssertionError(f"it is still connected: {received!r}")


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


def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < ends_at


def with_key(served: Served, scope: str, line: bytes, body: bytes, *lines: bytes) -> bytes:
    head = line + b" HTTP/1.1\r\nContent-Type: application/json\r\n" + authorised(served.keys[scope])
    return head + with_length(body, *lines)


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


def test_requests_that_wait_for_an_answer_are_bounded(served: Served) -> None:
    """Some hundred at once are answered in their order; nobody makes the server keep many thousand."""
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    with closing(connected(served.port)) as connection:
        connection.sendall(request * 100)
        received = b""
        while received.count(b"ok\n") < 100:
            received += connection.recv(100_000)
    received = b""
    with closing(connected(served.port)) as connection, suppress(OSError):
        connection.sendall(request * 10_000)
        while part := connection.recv(100_000):
            received += part
    assert received.count(b"ok\n") < 200


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
