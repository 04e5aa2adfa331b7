"""Places of event streams: nobody takes them all, and each is given back, however its stream ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from stream.api.user_tokens import UserToken, sign_token
from stream.api.visitors import new_visitor_id
from tests import api
from tests.api import NOW, Replica, replica


def token(running: Replica, user: str, lifetime_ms: int = 3_600_000) -> str:
    return sign_token(running.parts.api.signer, UserToken(user, NOW, NOW + lifetime_ms))


class Request:
    """One request for a stream, as a server makes it; `takes` messages are read, and then no more."""

    def __init__(self, running: Replica, credential: str, address: str = "192.0.2.1", takes: int = 1_000) -> None:
        self._running = running
        self._takes = takes
        self._asked = False
        self.sent: list[Any] = []
        self.leaves = asyncio.Event()
        self.aborted = False
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/v1/me/events",
            "raw_path": b"/v1/me/events",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"authorization", f"Bearer {credential}".encode())],
            "client": (address, 1),
            "server": ("x", 80),
            "state": {"isthmus_abort": self._abort},
        }
        self.task = asyncio.create_task(running.app(self._scope, self._receive, self._send))  # type: ignore[arg-type]

    def _abort(self) -> None:
        self.aborted = True
        self.leaves.set()

    async def _receive(self) -> Any:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if len(self.sent) >= self._takes:
            await self.leaves.wait()
            return
        self.sent.append(message)

    async def status(self) -> int:
        await self._running.until(lambda: asyncio.sleep(0, bool(self.sent)))
        return int(self.sent[0]["status"])

    async def ended(self) -> None:
        async with asyncio.timeout(5):
            await self.task


@asynccontextmanager
async def asking(folder: Path, **settings: Any) -> AsyncIterator[tuple[Replica, Callable[..., Request]]]:
    """A replica, and what makes requests, which all leave in the end."""
    made: list[Request] = []
    async with replica(api.new_log(), folder, requests_per_s_of_a_user=0, **settings) as running:

        def ask(*arguments: Any, **more: Any) -> Request:
            made.append(Request(running, *arguments, **more))
            return made[-1]

        yield running, ask
        for one in made:
            one.leaves.set()
            await one.ended()
        assert running.parts.api.places.taken == running.parts.api.changes.open == 0


async def test_one_users_tokens_take_a_few_places(tmp_path: Path) -> None:
    """More get 429, others still get theirs; a place that is given back is free again."""
    async with asking(tmp_path, max_streams=4, max_streams_of_a_user=2) as (running, ask):
        first = ask(token(running, "u"))
        assert await first.status() == 200
        assert [await ask(token(running, "u")).status() for _ in range(2)] == [200, 429]
        assert await ask(token(running, "v")).status() == 200
        first.leaves.set()
        await first.ended()
        assert await ask(token(running, "u")).status() == 200


async def test_visitors_of_one_address_take_a_bounded_number_of_places(tmp_path: Path) -> None:
    """A visitor's id costs nothing, so each has few and all of an address together too; named users are not counted."""
    async with asking(tmp_path, max_streams_of_an_address=2) as (running, ask):
        signer = running.parts.api.signer
        statuses = [await ask(token(running, new_visitor_id(signer))).status() for _ in range(3)]
        assert statuses == [200, 200, 429]
        assert await ask(token(running, new_visitor_id(signer)), address="192.0.2.2").status() == 200
        assert await ask(token(running, "u")).status() == 200


async def test_a_client_that_goes_before_the_first_byte_gives_its_place_back(tmp_path: Path) -> None:
    """Nothing of the stream is left, although it was never read."""
    async with asking(tmp_path) as (running, ask):
        gone = ask(token(running, "u"), takes=0)
        await running.until(lambda: asyncio.sleep(0, running.parts.api.places.taken == 1))
        gone.leaves.set()
        await gone.ended()
        assert running.parts.api.places.taken == 0


@pytest.mark.parametrize("takes", [0, 1, 2])
async def test_a_client_that_stops_reading_loses_its_place(tmp_path: Path, takes: int) -> None:
    """After two heartbeats, and with its connection."""
    async with asking(tmp_path, heartbeat_s=0.05) as (running, ask):
        stuck = ask(token(running, "u"), takes=takes)
        await stuck.ended()
        assert stuck.aborted
        assert running.parts.api.places.taken == 0


async def test_a_stream_ends_with_its_token_although_nothing_is_read(tmp_path: Path) -> None:
    """Long before two heartbeats have passed."""
    async with asking(tmp_path, heartbeat_s=100) as (running, ask):
        expires_in_ms = running.parts.api.service.clock_ms() - NOW + 500
        stuck = ask(token(running, "u", expires_in_ms), takes=2)
        async with asyncio.timeout(10):
            await stuck.task
        assert stuck.aborted
