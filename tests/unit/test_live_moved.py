"""The live page of a replica whose partitions move to another one that fills the same store."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from stream.api.follower import Follower
from stream.api.live_feed import LiveFeed
from stream.api.store import FollowedStore, Position, Table
from stream.core.events import Click, Erasure, Source, UserEvent
from stream.core.records import PlainRecord
from stream.kafka.cluster.log_reader import Bounds, Fetched, LogReader, PartitionsChanged, TopicPartition
from stream.metrics import Metrics
from tests import world

TOPIC = "changelog"


class Position0:
    """The part of a shared store that counts here: how far partition 0 was read."""

    def __init__(self) -> None:
        self.kept: Position | None = None

    async def position(self, *_: Any) -> Position | None:
        return self.kept

    async def begin(self, _table: Any, _partition: int, epoch: int, now_ms: int, _former: Any) -> Position:
        self.kept = Position(epoch, 1, as_of_ms=now_ms)
        return self.kept

    async def write(self, _table: Any, _partition: int, _rows: Any, position: Position, **_: Any) -> bool:
        self.kept = position
        return True

    async def complete(self, *_: Any) -> int:
        return 0


class Member:
    """A reader whose group gives it the partition while `owns`."""

    def __init__(self, log: list[PlainRecord], *, owns: bool) -> None:
        self.log, self.owns, self.opened, self.offset = log, owns, owns, 0

    async def open(self, _: Any) -> Mapping[TopicPartition, Bounds]:
        self.opened = self.owns
        return {(TOPIC, 0): Bounds(0, len(self.log))} if self.owns else {}

    async def epochs(self, _: Any) -> Mapping[str, int]:
        return {TOPIC: 1}

    def seek(self, _topic: str, _partition: int, offset: int) -> None:
        self.offset = offset

    async def fetch(self) -> list[Fetched]:
        await asyncio.sleep(0.001)
        if self.owns != self.opened:
            raise PartitionsChanged("the partition moved")
        if not self.owns or self.offset >= len(self.log):
            return []
        found, self.offset = self.log[self.offset :], len(self.log)
        return [Fetched(TOPIC, 0, found, self.offset)]

    def read_to_end_at(self, *_: Any) -> int:
        return world.NOW


async def test_a_user_who_was_erased_while_another_replica_read_the_partition_is_forgotten() -> None:
    """The first replica no longer reads the partition, or reads it again where the other one stopped."""
    log: list[PlainRecord] = []
    state, shared = world.Store(), Position0()
    members = [Member(log, owns=True), Member(log, owns=False)]
    feeds = [LiveFeed(lambda: world.NOW) for _ in members]

    def work(source: Source, event: UserEvent) -> None:
        outcome = world.run(state, world.batch_of(source, [(0, event)]))
        log.extend(PlainRecord(len(log) + number, world.NOW, *write) for number, write in enumerate(outcome.writes.items()))

    async def move(owner: int) -> None:
        members[1 - owner].owns = False
        async with asyncio.timeout(30):
            while members[1 - owner].opened:
                await asyncio.sleep(0.001)
            members[owner].owns = True
            while members[owner].offset < len(log) or not members[owner].opened:
                await asyncio.sleep(0.001)

    tasks = [
        asyncio.create_task(
            Follower(
                cast("FollowedStore", shared),
                cast("LogReader", member),
                {TOPIC: Table.STATES},
                lambda _: None,
                Metrics(),
                lambda: world.NOW,
                watcher=feed,
            ).run()
        )
        for member, feed in zip(members, feeds, strict=True)
    ]
    try:
        work(Source.CLICK, Click("u", world.NOW - 1_000, ("tag",)))
        await move(0)
        assert b"u" in feeds[0].users
        await move(1)
        assert not feeds[0].users
        work(Source.ERASURE, Erasure("u", world.NOW))
        await move(1)
        await move(0)
        assert not feeds[0].users
        assert not feeds[1].users
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
