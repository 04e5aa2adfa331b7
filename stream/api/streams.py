"""Server-sent events: a user's new list the moment it changes."""

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import Final, NamedTuple

import msgspec

from stream.api.answers import ListAnswer
from stream.api.service import ReadService
from stream.api.store import StoreAwayError

LOOK_S: Final = 5.0
"""How long a stream may outlive its key, and how often offers that end are noticed."""
MARKER_S: Final = 10.0
"""How much later than the end of list and state the marker of an erasure may arrive: they are in different topics and records."""
SOON_S: Final = 0.1
_encode: Final = msgspec.json.Encoder().encode


class Changes:
    """Wakes the streams of users whose lists changed."""

    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.open = 0
        self.ended = False

    @contextmanager
    def of(self, user: str) -> Iterator[asyncio.Event]:
        """Gives an event that is set whenever the user's list changes."""
        changed = asyncio.Event()
        self._waiting[user].add(changed)
        self.open += 1
        try:
            yield changed
        finally:
            self.open -= 1
            self._waiting[user].discard(changed)
            if not self._waiting[user]:
                del self._waiting[user]

    def end(self) -> None:
        """Ends all streams: the process stops."""
        self.ended = True
        self.notify(list(self._waiting))

    def notify(self, users: Iterable[str]) -> None:
        for user in users:
            for changed in self._waiting.get(user, ()):
                changed.set()


class Stream(NamedTuple):
    """One client's stream.

    Attributes:
        user: Whose list.
        limit: Items of it.
        last_id: Id of the last event that the client saw; "": none.
        heartbeat_s: Seconds between comments that keep the connection open.
        is_allowed: Whether the client's credential is still live.
        issued_at: When the client's user token was made, ms: an erasure since then ends the stream. None: one since its beginning.
    """

    user: str
    limit: int
    last_id: str
    heartbeat_s: float
    is_allowed: Callable[[], bool]
    issued_at: int | None = None


async def stream_lists(service: ReadService, changes: Changes, stream: Stream) -> AsyncGenerator[bytes]:
    """Gives the present list, unless the client saw it, and then each other one. Ends when the key does, the user is erased, the
    process stops, or the store is away or has lost the user: the client's next request says what is wrong.

    A user who returns at once after an erasure was erased all the same: the time of the newest erasure is compared, which no later
    event takes back.

    Changes that come faster than the client reads are merged: it gets the newest list.
    """
    with changes.of(stream.user) as changed:
        try:
            async with aclosing(_events(service, changes, stream, changed)) as events:
                async for event in events:
                    yield event
        except StoreAwayError:
            return


async def _events(service: ReadService, changes: Changes, stream: Stream, changed: asyncio.Event) -> AsyncGenerator[bytes]:
    last_id, said_at, lost = stream.last_id, time.monotonic(), _Lost()
    lasts_until = (await service.trace(stream.user)).erased_at if stream.issued_at is None else stream.issued_at - 1
    while stream.is_allowed() and not changes.ended:
        changed.clear()
        known, erased_at = await service.trace(stream.user)
        if erased_at > lasts_until:
            yield b"event: erased\ndata: {}\n\n"
            return
        lost_s = lost.for_s(known=known)
        if lost_s is not None:
            if lost_s >= MARKER_S:
                return
            await asyncio.sleep(SOON_S)
            continue
        (found,) = await service.lists([stream.user], stream.limit)
        if event_id(found) != last_id:
            last_id, said_at = event_id(found), time.monotonic()
            yield b"id: %s\nevent: list\ndata: %s\n\n" % (last_id.encode(), _encode(found))
        elif time.monotonic() - said_at >= stream.heartbeat_s:
            said_at = time.monotonic()
            yield b": still here\n\n"
        await _wait(changed, min(LOOK_S, stream.heartbeat_s))


class _Lost:
    """Since when a store that knew the user does not: erased or lost, which only an erasure's marker tells. It may come last."""

    def __init__(self) -> None:
        self._was_known = False
        self._since: float | None = None

    def for_s(self, *, known: bool) -> float | None:
        """Returns for how long the user has been lost; None: is not."""
        if known or not self._was_known:
            self._was_known, self._since = known, None
            return None
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        return now - self._since


def event_id(answer: ListAnswer) -> str:
    return answer.etag.strip('"')


async def _wait(changed: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await changed.wait()
    except TimeoutError:
        return


async def begun(events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """A comment first, so that a client sees the stream begin."""
    async with aclosing(events):
        yield b": follows\n\n"
        async for event in events:
            yield event
