"""Places of open event streams: how many a replica, a user and an address may hold, and how a client that stops reading loses one.

A place is taken when a stream is admitted, and given back when its request ends, however that comes about: also where the client
went away before the first byte.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from stream.api.problems import ApiError

ABORT: Final = "isthmus_abort"
"""Key of the scope's state: closes the connection at once, without waiting for what the client has not read."""
_PLACE: Final = "isthmus_place"
_AGAIN: Final = {"Retry-After": "5"}


class Place:
    """The place of one stream.

    Attributes:
        names: What the place counts for.
    """

    def __init__(
        self, names: tuple[str, ...], stream: AsyncGenerator[bytes], is_allowed: Callable[[], bool], send_s: float
    ) -> None:
        """`is_allowed` says whether the client's credential is still live; `send_s` is how long one event may take to be sent."""
        self.names = names
        self._stream = stream
        self._is_allowed = is_allowed
        self._send_s = send_s
        self._is_sending = False

    @contextmanager
    def sending(self, abort: Callable[[], None]) -> Iterator[None]:
        """Around the sending of one message, which is aborted where it takes too long."""
        self._is_sending = True
        timer = asyncio.get_running_loop().call_later(self._send_s, abort)
        try:
            yield
        finally:
            self._is_sending = False
            timer.cancel()

    def is_lost(self) -> bool:
        """Whether the client has not read yet what was sent when its credential ended."""
        return self._is_sending and not self._is_allowed()

    async def close(self) -> None:
        await self._stream.aclose()


class Places:
    """The places of a replica."""

    def __init__(self, most: int, of_a_user: int, of_an_address: int, heartbeat_s: float) -> None:
        """`most` in all; `of_a_user` and `of_an_address`: 0 for no bound. An event may take two heartbeats to be sent."""
        self._most = most
        self._of_a_user = of_a_user
        self._of_an_address = of_an_address
        self._send_s = 2 * heartbeat_s
        self._taken: Counter[str] = Counter()
        self.taken = 0

    def take(
        self,
        scope: Scope,
        stream: AsyncGenerator[bytes],
        is_allowed: Callable[[], bool],
        user: str | None = None,
        address: str | None = None,
    ) -> None:
        """Takes a place for a request until it ends. `user` and `address` are those that it counts for, if any.

        Raises:
            ApiError: too many are taken.
        """
        for kind, name, bound in (("user", user, self._of_a_user), ("address", address, self._of_an_address)):
            if name is not None and bound and self._taken[f"{kind}:{name}"] >= bound:
                raise ApiError(429, f"too many streams of this {kind} are open here", dict(_AGAIN))
        if self.taken >= self._most:
            raise ApiError(503, "too many streams are open here", dict(_AGAIN))
        names = tuple(f"{kind}:{name}" for kind, name in (("user", user), ("address", address)) if name is not None)
        self.taken += 1
        self._taken.update(names)
        scope["state"][_PLACE] = Place(names, stream, is_allowed, self._send_s)

    def give_back(self, place: Place) -> None:
        self.taken -= 1
        for name in place.names:
            self._taken[name] -= 1
            if not self._taken[name]:
                del self._taken[name]


class KeepsPlaces(ASGIMiddleware):
    """Gives places back, and ends the requests of clients that have lost theirs."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, places: Places, look_s: float) -> None:
        """`look_s` is how often it looks whether a credential ended."""
        self._places = places
        self._look_s = look_s

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        state = scope.setdefault("state", {})
        abort: Callable[[], None] = state.get(ABORT, lambda: None)

        async def timed(message: Message) -> None:
            place = state.get(_PLACE)
            if place is None:
                await send(message)
                return
            with place.sending(abort):
                await send(message)

        async def received() -> Any:
            place = state.get(_PLACE)
            return await (receive() if place is None else self._received(receive, place, abort))

        try:
            await next_app(scope, received, timed)
        finally:
            place = state.pop(_PLACE, None)
            if place is not None:
                self._places.give_back(place)
                await place.close()

    async def _received(self, receive: Receive, place: Place, abort: Callable[[], None]) -> Any:
        """What the client sends; or that it went away, where it has lost its place."""
        receiving = asyncio.ensure_future(receive())
        try:
            while not receiving.done() and not place.is_lost():
                await asyncio.wait({receiving}, timeout=self._look_s)
            if receiving.done():
                return receiving.result()
            abort()
            await asyncio.wait({receiving}, timeout=1)  # the server notes it, and misses no end of the answer
            return {"type": "http.disconnect"}
        finally:
            receiving.cancel()
