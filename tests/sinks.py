"""Runs a sink of any kind on an embedded log, and changes the log."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from unittest.mock import patch

from stream.api.follower import Follower
from stream.api.store import FollowedStore
from stream.core.outputs import Output
from stream.kafka.embedded.log import Log, compact
from stream.kafka.embedded.log_reader import EmbeddedLogReader
from stream.metrics import Metrics
from stream.services.sinks import make_follower
from stream.settings import Settings
from tests import api
from tests.api import TOPICS


class Sink:
    """A running sink. `problem` returns what is wrong with its target; None if nothing is."""

    def __init__(self, log: Log, follower: Follower, metrics: Metrics, problem: Callable[[], str | None]) -> None:
        self._log = log
        self._follower = follower
        self.metrics = metrics
        self.problem = problem

    async def settled(self) -> None:
        """Waits until the sink has written everything that is in the log now."""
        partitions = enumerate(self._log.topics[TOPICS.recommendations].partitions)
        ends = {(TOPICS.recommendations, number): partition.end for number, partition in partitions}
        await self.until(lambda: self._follower.ready.is_set() and self._is_at(ends))

    def _is_at(self, ends: dict[tuple[str, int], int]) -> bool:
        positions = self._follower.positions()
        return all(positions.get(one, -1) >= end for one, end in ends.items())

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running_sink(
    log: Log,
    settings: Settings,
    store: FollowedStore,
    name: str,
    metrics: Metrics,
    problem: Callable[[], str | None],
    reconcile_after_s: int,
) -> AsyncIterator[Sink]:
    """Follows the log into the store, with short pauses after errors, and closes the store at the end."""
    follower = make_follower(settings, name, store, EmbeddedLogReader(log), metrics, reconcile_after_s)
    with patch("stream.api.follower.AGAIN_S", 0.05):
        running = asyncio.create_task(follower.run())
        try:
            yield Sink(log, follower, metrics, problem)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await store.close()


def forget(log: Log, *users: str) -> None:
    for user in users:
        api.append(log, TOPICS.recommendations, user, Output(user.encode(), None))


def drop_tombstones(log: Log) -> None:
    """Compacts as a broker does after `delete.retention.ms`."""
    for partition in log.topics[TOPICS.recommendations].partitions:
        partition.records = [record for record in compact(partition.records) if record.value is not None]
