"""The live page's stream: every half second what changed, for as long as somebody watches."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import msgspec
from prometheus_client.metrics_core import Metric

from stream.api.answers import Popularity
from stream.api.live_bodies import Followed, Frame, Kind, LiveMessage, Picture
from stream.api.live_feed import LiveFeed
from stream.api.live_frames import FrameMaker
from stream.api.live_numbers import Numbers, numbers_of
from stream.api.live_users import Scene
from stream.api.service import ReadService
from stream.api.store import StoreAwayError
from stream.core.poison import failure_location
from stream.core.ranking import Catalogue

logger = logging.getLogger("isthmus")
EVERY_S: Final = 0.5
NUMBERS_EVERY_S: Final = 2.0
_LISTED: Final = 5
_encode: Final = msgspec.json.Encoder().encode
ReadMetrics = Callable[[], Awaitable[tuple[Sequence[Iterable[Metric]], int]]]
"""Reads the metrics of each process that answers, and returns with them how many were asked."""


class _Moment(NamedTuple):
    """What one frame consists of.

    Attributes:
        scene: With what users are looked at.
        picture: The map.
        frame: What changed.
        changed: The users who did.
    """

    scene: Scene
    picture: Picture
    frame: Frame
    changed: frozenset[bytes]


class LiveView:
    """Makes frames while somebody watches. All pages see the same ones.

    Attributes:
        feed: What the follower tells.
    """

    def __init__(
        self, feed: LiveFeed, service: ReadService, kinds: Mapping[str, Kind], read_metrics: ReadMetrics | None = None
    ) -> None:
        """`kinds` of events by input topic."""
        self.feed = feed
        self._service = service
        self._read_metrics = read_metrics
        self._maker = FrameMaker(feed, kinds)
        self._moment: _Moment | None = None
        self._numbers: Numbers | None = None
        self._numbers_at_s = 0.0
        self._problem = ""
        self._watching = 0
        self._someone = asyncio.Event()
        self._made = asyncio.Condition()

    async def run(self) -> None:
        """Makes frames for ever. One that fails is left out: the page is a view, and must cost nobody a list."""
        while True:
            await self._someone.wait()
            problem = ""
            try:
                await self._make()
            except Exception as error:  # noqa: BLE001
                problem = failure_location(error)
            if problem and problem != self._problem:
                logger.warning("the live page shows nothing new for as long as its frames fail (%s)", problem)
            self._problem = problem
            await asyncio.sleep(EVERY_S)

    async def messages(self, user: str | None, goes_on: Callable[[], bool]) -> AsyncGenerator[bytes]:
        """Server-sent events for one page, which follows `user`, while `goes_on`."""
        with self._watched():
            picture: Picture | None = None
            numbers: Numbers | None = None
            while goes_on():
                moment = await self._next()
                if moment is None or not goes_on():
                    continue
                is_new = picture is None or (picture.model, picture.version) != (moment.picture.model, moment.picture.version)
                if is_new:
                    picture = moment.picture
                    yield _event("picture", picture)
                yield _event("frame", moment.frame)
                if self._numbers is not None and self._numbers is not numbers:
                    numbers = self._numbers
                    yield _event("numbers", numbers)
                if user and (is_new or user.encode() in moment.changed):
                    try:
                        followed = await self._followed(moment.scene, user)
                    except StoreAwayError:
                        return  # the page asks again, and is told
                    yield _event("followed", followed)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watching += 1
        self._someone.set()
        try:
            yield
        finally:
            self._watching -= 1
            if not self._watching:
                self._someone.clear()
                self._maker.begin()

    async def _next(self) -> _Moment | None:
        """The next moment; None where none came in time."""
        try:
            async with asyncio.timeout(4 * EVERY_S), self._made:
                await self._made.wait()
        except TimeoutError:
            return None
        return self._moment

    async def _make(self) -> None:
        current, feed, now_ms = self._service.current, self.feed, self._service.clock_ms()
        keys, changed, gone = list(feed.users), feed.take_changed(), feed.take_gone()
        self._moment = await asyncio.to_thread(self._moment_of, current.catalogue, current.popularity, keys, changed, gone, now_ms)
        await self._count()
        async with self._made:
            self._made.notify_all()

    def _moment_of(
        self,
        catalogue: Catalogue,
        champion: Popularity | None,
        keys: Sequence[bytes],
        changed: Sequence[bytes],
        gone: Sequence[bytes],
        now_ms: int,
    ) -> _Moment:
        """In a thread: the network runs here."""
        scene = self._maker.scene(catalogue, champion, keys)
        frame = self._maker.frame(scene, now_ms, time.monotonic(), changed, gone)
        return _Moment(scene, self._maker.picture(scene), frame, frozenset(changed))

    async def _count(self) -> None:
        """Reads the numbers anew where they are old."""
        if self._read_metrics is None or time.monotonic() - self._numbers_at_s < NUMBERS_EVERY_S:
            return
        self._numbers_at_s = time.monotonic()
        processes, asked = await self._read_metrics()
        self._numbers = numbers_of(processes, self._maker.names, asked)

    async def _followed(self, scene: Scene, user: str) -> Followed:
        (offered,) = await self._service.lists([user], _LISTED)
        return await asyncio.to_thread(self._maker.followed, scene, user, offered)


def _event(name: str, message: LiveMessage) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), _encode(message))
