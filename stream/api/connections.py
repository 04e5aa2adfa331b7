"""Connections of clients: how many there are, how large a request's head may be, and how long a client may take.

uvicorn bounds none of these before a request has arrived whole. What an application can bound, bodies and rates, is bounded there.
"""

import asyncio
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Callable, Sized
from http import HTTPStatus
from typing import Any, Final, Literal

import httptools
import msgspec
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from stream.api.addresses import counted_as
from stream.api.problems import MEDIA_TYPE, PRIVATE, Problem
from stream.api.request_heads import MALFORMED, Reason, Refusal, refusal_of, too_large
from stream.api.stream_places import ABORT
from stream.metrics import Metrics
from stream.process_settings import ApiSettings

LINGER_S: Final = 2.0
"""How long a refused client may go on sending: where its connection is reset at once, it does not see the answer."""
_LOG_EVERY_S: Final = 60.0
_ADVICE: Final[dict[Reason, str]] = {
    "malformed": "not HTTP/1.1, or a request that two servers could read in two ways",
    "large_head": "api.max_header_bytes and api.max_headers bound request line and headers",
    "slow_head": "api.header_timeout_s bounds the time for request line and headers",
    "slow_rest": "api.header_timeout_s bounds the time for the rest of a body that was answered already",
    "too_many_pipelined": "api.max_pipelined bounds the requests of a connection that wait for an answer",
    "unread_answer": "api.answer_timeout_s bounds the time for reading an answer",
    "too_many_connections": "api.max_connections bounds them; run more replicas, or raise it",
    "too_many_of_an_address": "api.max_connections_of_an_address bounds them, but not those of api.trusted_proxies",
}
logger = logging.getLogger("isthmus")


class Connections:
    """The connections of a replica, and why some were closed."""

    def __init__(self, own: ApiSettings, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self.bounds = own
        self._metrics = metrics
        self._clock = clock
        self._proxies = [ipaddress.ip_network(proxy) for proxy in own.trusted_proxies]
        self._open = 0
        self._open_of: Counter[str] = Counter()
        self._logged_at: dict[Reason, float] = {}
        self._unlogged: Counter[Reason] = Counter()
        metrics.gauge("api_connections").set_function(lambda: self._open)

    def opened(self, host: str) -> Refusal | None:
        """Counts a connection; returns why it must be refused, if it must."""
        address, own = counted_as(host), self.bounds
        self._open += 1
        self._open_of[address] += 1
        if self._open > own.max_connections:
            return Refusal("too_many_connections", 503, "too many connections are open here")
        most = own.max_connections_of_an_address
        if most and self._open_of[address] > most and not self._is_proxy(host):
            return Refusal("too_many_of_an_address", 429, "too many connections of this address are open here")
        return None

    def _is_proxy(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        return any(address in network for network in self._proxies)

    def closed(self, host: str) -> None:
        address = counted_as(host)
        self._open -= 1
        self._open_of[address] -= 1
        if not self._open_of[address]:
            del self._open_of[address]

    def note(self, reason: Reason) -> None:
        """Counts a refusal, and logs the first of its kind, then one line a minute: attackers must not fill the log."""
        self._metrics.counter("api_refused_connections", reason).inc()
        self._unlogged[reason] += 1
        now = self._clock()
        if now - self._logged_at.get(reason, -_LOG_EVERY_S) < _LOG_EVERY_S:
            return
        self._logged_at[reason] = now
        logger.warning("connections closed (%s): %d; %s", reason, self._unlogged.pop(reason), _ADVICE[reason])


class _Flow(FlowControl):
    """Reads no further while requests wait for the answer to an earlier one: uvicorn would read on after each answer."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds. Each refusal is a problem (RFC 9457) where the client can still get an answer.

    It relies on how uvicorn calls its parser, its cycles and its transport; the tests that attack a served port notice where that
    changes.
    """

    def __init__(self, open_ones: Connections, **uvicorns: Any) -> None:
        super().__init__(**uvicorns)
        self._open_ones = open_ones
        self._bounds = open_ones.bounds
        self._host = ""
        self._parsing: Literal["", "head", "body"] = ""
        self._unaccounted = 0
        self._is_refused = False
        self._refusal: Refusal | None = None
        self._receiving_timer: asyncio.TimerHandle | None = None
        self._sending_timer: asyncio.TimerHandle | None = None
        self.url = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self.app_state = {**self.app_state, ABORT: transport.abort}
        self._host = self.client[0] if self.client else ""
        refusal = self._open_ones.opened(self._host)
        if refusal is None:
            self._await("slow_head")
            return
        self._is_refused = True
        self._open_ones.note(refusal.reason)
        self._answer(refusal)
        transport.close()  # at once: else those that are refused would be open too

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._open_ones.closed(self._host)
        for timer in (self._receiving_timer, self._sending_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._unset_keepalive_if_required()
        if not self._parsing and not self._is_answering() and self._receiving_timer is None:
            self._await("slow_head")
        self._unaccounted += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # what follows in another protocol is not read
            self.cycle.keep_alive = False
        except httptools.HttpParserError:
            self._refuse(self._refusal or MALFORMED)
        else:
            if self._unaccounted > self._bounds.max_header_bytes:
                self._refuse(too_large(self.url, self._bounds.max_header_bytes))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._parsing = "head"

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._parsing == "head":  # a trailer is no header (RFC 9110, section 6.5.1): a proxy has not looked at it
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        bounds, version = self._bounds, self.parser.get_http_version()
        self._refusal = refusal_of(self.url, self.headers, version, bounds.max_header_bytes, bounds.max_headers)
        if len(self.pipeline) >= bounds.max_pipelined:
            self._refusal = Refusal("too_many_pipelined", 429, "too many requests were sent before the first was answered")
        if self._refusal is not None:
            raise ValueError(self._refusal.detail)
        self._parsing, self._unaccounted = "body", 0
        self._stop_awaiting()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unaccounted = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._parsing, self._unaccounted = "", 0
        super().on_message_complete()
        if self.cycle.response_complete:
            self._stop_awaiting()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._parsing and not self._is_answering():
            self._await("slow_head" if self._parsing == "head" else "slow_rest")
        self._bound_sending_of_the_rest()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._bound_sending_of_the_rest()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._bound_sending()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._sending_timer is not None and not self.transport.is_closing():
            self._sending_timer.cancel()
            self._sending_timer = None

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _await(self, reason: Literal["slow_head", "slow_rest"]) -> None:
        """Gives the client time for what has yet to come."""
        self._stop_awaiting()
        bound_s = self._bounds.header_timeout_s
        refusal = Refusal(reason, HTTPStatus.REQUEST_TIMEOUT, f"request line and headers did not come within {bound_s:g} s")
        self._receiving_timer = self.loop.call_later(bound_s, self._refuse, refusal)

    def _stop_awaiting(self) -> None:
        if self._receiving_timer is not None:
            self._receiving_timer.cancel()
            self._receiving_timer = None

    def _bound_sending_of_the_rest(self) -> None:
        """A closed connection lasts until the client has read what was sent before: for ever where it reads nothing."""
        if self.transport.is_closing() and self.transport.get_write_buffer_size():
            self._bound_sending()

    def _bound_sending(self) -> None:
        if self._sending_timer is None:
            self._sending_timer = self.loop.call_later(self._bounds.answer_timeout_s, self._give_up_sending)

    def _give_up_sending(self) -> None:
        self._open_ones.note("unread_answer")
        self.transport.abort()

    def _refuse(self, refusal: Refusal) -> None:
        """Answers, where that cannot be taken for the answer to an earlier request, and reads no more."""
        if self._is_refused or self.transport.is_closing():
            return
        self._is_refused = True
        self._stop_awaiting()
        self._open_ones.note(refusal.reason)
        waits_for_body = self._parsing == "body" and self._is_answering() and not self.cycle.response_started and not self.pipeline
        if refusal.reason == "slow_rest" or (self._is_answering() and not waits_for_body):
            self.transport.abort()
            return
        if waits_for_body:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._answer(refusal)
        self.flow.resume_reading()
        self._receiving_timer = self.loop.call_later(LINGER_S, self.transport.abort)

    def _answer(self, refusal: Refusal) -> None:
        body = msgspec.json.encode(Problem(HTTPStatus(refusal.status).phrase, refusal.status, refusal.detail))
        headers = [
            *self.server_state.default_headers,
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            *PRIVATE,
            *((b"retry-after", b"1") for _ in range(refusal.status in {429, 503})),
            (b"connection", b"close"),
        ]
        lines = [b"%s: %s\r\n" % header for header in headers]
        self.transport.write(b"".join([STATUS_LINE[refusal.status], *lines, b"\r\n", body]))
        if self.transport.can_write_eof():
            self.transport.write_eof()
