"""A served API under attack, over real sockets: each attack is refused with the right status, or its connection is closed.

The memory of the process stays bounded, its log is not forged, and others are answered meanwhile.
"""

import json
import re
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Final

import pytest

from tests.api import NOW
from tests.raw_http import ITEMS, MEMORY_BYTES, WITHIN_S, authorised, connected, exchange, still_answers, with_key, with_length
from tests.served_replica import Served, served_replica

MARK: Final = "evil-marker"
MALFORMED: Final = "RFC 9112"
LIST: Final = b'{"users":["u"]}'
BATCH: Final = b"POST /v1/users/batch HTTP/1.1\r\nContent-Type: application/json\r\n"


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


def in_chunks(body: bytes, *lines: bytes) -> bytes:
    chunks = [b"%x\r\n%s\r\n" % (len(part), part) for at in range(0, len(body), 50_000) if (part := body[at : at + 50_000])]
    return b"".join([*(line + b"\r\n" for line in lines), b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"])


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


IDS: Final[dict[bytes, bytes]] = {
    b"POST /v1/users/batch": b'{"users":["%s"]}',
    b"POST /v1/tokens": b'{"user_id":"%s"}',
    b"POST /v1/visitors": b'{"user_id":"%s"}',
    b"POST /v1/events": b'{"events":[{"type":"click","user_id":"%%s","event_id":"%%s","occurred_at":%d,"tags":["home"]}]}' % NOW,
    b"POST /v1/feedback": b'{"events":[{"user_id":"%%s","occurred_at":%d,"channel":"%%s","action":"shown","items":["%%s"]}]}' % NOW,
}


@pytest.mark.parametrize("line", IDS)
def test_line_ends_in_ids_forge_neither_headers_nor_lines_of_the_log(served: Served, line: bytes) -> None:
    """They may be users, or unknown ones: the answer holds them as JSON, if at all."""
    body = IDS[line].replace(b"%s", f"a\\r\\n{MARK}: 1\\n2026-11-29 00:00:00,000 INFO {MARK}".encode())
    answer = exchange(served.port, with_key(served, "admin", line, body))
    assert answer.status in {200, 201, 202, 403, 422}
    assert MARK not in answer.headers
    assert b"\n" not in answer.body


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
