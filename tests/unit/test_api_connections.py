"""Bounds of connections where a socket shows too little: what is left in a buffer, what is logged, whose connections count."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from stream.api.addresses import counted_as
from stream.api.connections import BoundedProtocol, Connections
from stream.metrics import Metrics
from stream.process_settings import ApiSettings


class Transport:
    """A transport whose client reads nothing."""

    def __init__(self, left_bytes: int) -> None:
        self.left_bytes = left_bytes
        self.closing = False
        self.aborted = asyncio.Event()

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 1) if name == "peername" else None

    def write(self, data: bytes) -> None:
        """Keeps nothing."""

    def close(self) -> None:
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.left_bytes

    def abort(self) -> None:
        self.aborted.set()


async def answered(_: Any, __: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def connected(transport: Transport, **settings: Any) -> BoundedProtocol:
    config = uvicorn.Config(answered, lifespan="off", log_config=None)
    connections = Connections(ApiSettings(answer_timeout_s=0.01, **settings), Metrics())
    protocol = BoundedProtocol(
        connections, config=config, server_state=ServerState(), app_state={}, _loop=asyncio.get_running_loop()
    )
    protocol.connection_made(cast("Any", transport))
    return protocol


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("last", [True, False])
async def test_a_closed_connection_ends_although_its_last_answer_is_not_read(last: bool) -> None:
    """Closed with the answer, or later for want of another request: a close waits for what is left."""
    transport = Transport(left_bytes=1)
    protocol = connected(transport, keep_alive_s=0)
    protocol.timeout_keep_alive = 0
    close = b"Connection: close\r\n" if last else b""
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n" + close + b"\r\n")
    await until(lambda: transport.closing)
    await until(transport.aborted.is_set)


async def test_a_closed_connection_whose_answer_was_read_is_left_alone() -> None:
    """Nothing is reset."""
    transport = Transport(left_bytes=0)
    protocol = connected(transport)
    protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await until(lambda: transport.closing)
    protocol.connection_lost(None)
    await asyncio.sleep(0.05)
    assert not transport.aborted.is_set()


def test_attackers_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The first of a kind is logged, then how many there were in each minute; all are counted."""
    now, metrics = 0.0, Metrics()
    connections = Connections(ApiSettings(), metrics, lambda: now)
    caplog.set_level(logging.WARNING)
    for _ in range(1_000):
        connections.note("malformed")
    connections.note("slow_head")
    now = 60.0
    connections.note("malformed")
    assert [record.getMessage().split(";")[0] for record in caplog.records] == [
        "connections closed (malformed): 1",
        "connections closed (slow_head): 1",
        "connections closed (malformed): 1000",
    ]
    assert metrics.registry.get_sample_value("isthmus_api_refused_connections_total", {"reason": "malformed"}) == 1_001


def test_a_proxy_may_have_more_connections_than_others() -> None:
    """It has those of all its clients; one that is closed makes room."""
    connections = Connections(ApiSettings(max_connections_of_an_address=2, trusted_proxies=("192.0.2.0/24",)), Metrics())
    assert [connections.opened("192.0.2.7") for _ in range(3)] == [None] * 3
    refused = [connections.opened(f"2001:db8::{number}") for number in range(3)]
    assert [None if one is None else one.status for one in refused] == [None, None, 429]
    for number in range(2):
        connections.closed(f"2001:db8::{number}")
    assert connections.opened("2001:db8::9") is None


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown", "unknown"),
        ("a:b", "a:b"),
        ("", ""),
    ],
)
def test_an_address_counts_as_what_one_client_has(host: str, name: str) -> None:
    """Of IPv6 a whole network; what is no address counts as it is written."""
    assert counted_as(host) == name
