"""The follower: records of `recommendations` and of the users' changelog into the store, and how old the store is.

It answers for three things: late changelog records are left out as recovery leaves them out, a store that missed tombstones is
reconciled, and its process is not ready before each partition was read to its end once. The sinks follow with it too.

An embedded store is followed by its replica alone. A shared one is followed by all replicas, each in the partitions that the
consumer group assigns to it: how far all of them are, `stream.api.shared_age` reads from the store.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from stream.api.profiles import is_kept, summary_of
from stream.api.store import RECONCILE_AFTER_MS, FollowedStore, Position, Row, Table, must_reconcile
from stream.core.records import Record
from stream.core.state import StatesUnreadableError
from stream.kafka.cluster.log_reader import Bounds, Fetched, LogReader, PartitionsChanged, TopicPartition
from stream.kafka.faust.changelog import term_of
from stream.metrics import Metrics

logger = logging.getLogger("isthmus")
AGAIN_S: Final = 1.0
EPOCHS_EVERY_MS: Final = 30_000
SAY_EVERY_MS: Final = 30_000
TOUCH_EVERY_MS: Final = 60_000
MINUTE_MS: Final = 60_000


class Followed(NamedTuple):
    """One partition while it is followed. `touched_ms` is when its position was last written."""

    table: Table
    position: Position
    touched_ms: int


class Watcher(Protocol):
    """Sees the records that a follower reads."""

    def saw(self, table: Table, partition: int, record: Record) -> None:
        """Takes one record. Those that an earlier owner wrote late are left out."""
        ...

    def missed(self) -> None:
        """Says that records may have been read by another replica only."""
        ...


class Follower:
    """Follows topics into a store for as long as `run` runs."""

    def __init__(
        self,
        store: FollowedStore,
        reader: LogReader,
        tables: Mapping[str, Table],
        changed: Callable[[Iterable[str]], None],
        metrics: Metrics,
        clock_ms: Callable[[], int],
        reconcile_after_ms: int = RECONCILE_AFTER_MS,
        reconciled: tuple[str, ...] = ("api_reconciled",),
        touch_every_ms: int = TOUCH_EVERY_MS,
        *,
        keep_clicks: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        """`tables` by topic; `changed` gets the users whose lists changed; `clock_ms` is the wall clock; `reconciled` names the
        counter of partitions that are read from their beginning, and its labels; `touch_every_ms` is how often the store learns
        that nothing new came. With `keep_clicks` the store keeps the newest clicks of sessions.
        """
        self._store = store
        self._reader = reader
        self._tables = tables
        self._changed = changed
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._reconcile_after_ms = reconcile_after_ms
        self._reconciled = reconciled
        self._touch_every_ms = touch_every_ms
        self._keep_clicks = keep_clicks
        self._watcher = watcher
        self._followed: dict[TopicPartition, Followed] = {}
        self._bounds: Mapping[TopicPartition, Bounds] = {}
        self._reached: set[TopicPartition] = set()
        self._said: tuple[str, int] = ("", 0)
        self._epochs: Mapping[str, int] = {}
        self._epochs_at_ms = 0
        self.ready = asyncio.Event()

    def age_ms(self) -> int:
        """How old the answers may be: the time since the end of the log was last reached."""
        if not self._followed:
            return 0 if self.ready.is_set() else self._clock_ms()
        return max(0, self._clock_ms() - min(followed.position.as_of_ms for followed in self._followed.values()))

    def positions(self) -> dict[TopicPartition, int]:
        """The next offset of each partition."""
        return {partition: followed.position.next_offset for partition, followed in self._followed.items()}

    def progress(self) -> float:
        """The share of the partitions' offsets, as they were at the beginning, that was read, 0 to 1."""
        held = sum(end - begin for begin, end in self._bounds.values())
        positions = self.positions()
        left = sum(max(0, end - max(begin, positions.get(one, 0))) for one, (begin, end) in self._bounds.items())
        return 1.0 if not held else 1 - left / held

    def missing(self) -> str | None:
        """Why the store must not be answered from; None where it may."""
        if self.ready.is_set():
            return None
        return f"{len(self._followed) - len(self._reached)} of {len(self._followed)} partitions are not read to their end yet"

    async def run(self) -> None:
        """Follows for ever; begins again where the log was away or a topic was recreated."""
        while True:
            try:
                await self._open()
                while not await self._recreated():
                    await self._follow_once()
            except PartitionsChanged as change:
                logger.info("%s", change)
            except OSError as error:
                self._warn(str(error) or type(error).__name__)
                await asyncio.sleep(AGAIN_S)

    def _warn(self, problem: str) -> None:
        """Says a problem, and again every half minute while it lasts."""
        now_ms = self._clock_ms()
        if problem != self._said[0] or now_ms - self._said[1] >= SAY_EVERY_MS:
            self._said = (problem, now_ms)
            logger.warning("%s; trying again", problem)

    async def _open(self) -> None:
        """Decides for each partition whether the store continues or is reconciled."""
        self._bounds = bounds = await self._reader.open(self._tables)
        former, self._followed = self._followed, {one: followed for one, followed in self._followed.items() if one in bounds}
        self._reached &= bounds.keys()
        self._epochs, self._epochs_at_ms = await self._reader.epochs(self._tables), self._clock_ms()
        for (topic, number), held in bounds.items():
            table = self._tables[topic]
            position = await self._store.position(table, number)
            reason = must_reconcile(position, self._epochs[topic], held, self._clock_ms(), self._reconcile_after_ms)
            if position is None or reason is not None:
                logger.info("%s-%d is read from its beginning: %s", topic, number, reason)
                self._metrics.counter(*self._reconciled).inc()
                position = await self._store.begin(table, number, self._epochs[topic], self._clock_ms(), position)
                if position is None:
                    raise ConnectionError(f"another process has begun to fill the store of {topic}-{number}")
                self.ready.clear()
                self._reached.discard((topic, number))
            self._followed[topic, number] = Followed(table, position, self._clock_ms())
            self._reader.seek(topic, number, max(position.next_offset, held.begin))
        if self._watcher is not None and any(self._has_missed(one, followed) for one, followed in former.items()):
            self._watcher.missed()

    def _has_missed(self, partition: TopicPartition, before: Followed) -> bool:
        """Returns whether another process has followed the partition in the meantime, or a new pass has begun."""
        now = self._followed.get(partition)
        return now is None or now.position.next_offset != before.position.next_offset

    async def _recreated(self) -> bool:
        now_ms = self._clock_ms()
        if now_ms - self._epochs_at_ms < EPOCHS_EVERY_MS:
            return False
        self._epochs_at_ms = now_ms
        try:
            epochs = await self._reader.epochs(self._tables)
        except OSError:
            return False
        return epochs != self._epochs

    async def _follow_once(self) -> None:
        for partition in self._followed:
            await self._note_end(partition)
        if self._reached >= self._followed.keys():
            self.ready.set()
        for fetched in await self._reader.fetch():
            self._refuse_after_absence(fetched)
            await self._apply(fetched)
            await asyncio.sleep(0)

    def _refuse_after_absence(self, fetched: Fetched) -> None:
        """Raises ConnectionError where the process was paused, or the broker away, for so long that tombstones may be missing."""
        position = self._followed[fetched.topic, fetched.partition].position
        if self._clock_ms() - position.as_of_ms > max(self._reconcile_after_ms, MINUTE_MS):
            raise ConnectionError(f"nothing was heard of {fetched.topic}-{fetched.partition} for longer than tombstones are kept")

    async def _apply(self, fetched: Fetched) -> None:
        followed = self._followed[fetched.topic, fetched.partition]
        position = followed.position
        rows = self._list_rows(fetched) if followed.table is Table.LISTS else None
        if rows is None:
            rows, position = self._state_rows(fetched, position)
        newest_ms = max((record.timestamp for record in fetched.records), default=0)
        position = msgspec.structs.replace(
            position, next_offset=fetched.next_offset, as_of_ms=max(position.as_of_ms, min(newest_ms, self._clock_ms()))
        )
        await self._write(fetched.topic, fetched.partition, rows, position)
        if followed.table is Table.LISTS:
            self._changed(row.key.decode() for row in rows)

    async def _write(self, topic: str, partition: int, rows: list[Row], position: Position) -> None:
        followed = self._followed[topic, partition]
        if not await self._store.write(followed.table, partition, rows, position, after=followed.position.next_offset):
            raise ConnectionError(f"the store of {topic}-{partition} was begun anew, or lost what was written")
        self._followed[topic, partition] = Followed(followed.table, position, self._clock_ms())

    def _list_rows(self, fetched: Fetched) -> list[Row]:
        for record in fetched.records:
            self._see(Table.LISTS, fetched.partition, record)
        return [
            Row(record.key, record.value, record.offset, record.timestamp) for record in fetched.records if record.key is not None
        ]

    def _state_rows(self, fetched: Fetched, position: Position) -> tuple[list[Row], Position]:
        """Rows of users' state records, without those that an earlier owner wrote late (`UserTable.restore`)."""
        rows: list[Row] = []
        late, term = 0, position.term
        for record in fetched.records:
            stamped = term_of(record.headers)
            if stamped < term or record.key is None:
                late += 1
                continue
            term = stamped
            self._see(Table.STATES, fetched.partition, record)
            if is_kept(record.key):
                rows.append(Row(record.key, self._summary(record.key, record.value), record.offset))
        if late:
            self._metrics.counter("late_records").inc(late)
        return rows, msgspec.structs.replace(position, term=term)

    def _see(self, table: Table, partition: int, record: Record) -> None:
        if self._watcher is not None:
            self._watcher.saw(table, partition, record)

    def _summary(self, key: bytes, value: bytes | None) -> bytes | None:
        """What is kept of a state record. One that cannot be read is deleted: its predecessor is no longer true."""
        try:
            return None if value is None else summary_of(key, value, keep_clicks=self._keep_clicks)
        except StatesUnreadableError:
            self._metrics.counter("api_unreadable").inc()
            return None

    async def _note_end(self, partition: TopicPartition) -> None:
        """Takes over that the partition was read to its end; writes it down once a minute, or when a pass ends."""
        at_ms = self._reader.read_to_end_at(*partition)
        if at_ms is None:
            return
        topic, number = partition
        table, position, touched_ms = self._followed[partition]
        position = msgspec.structs.replace(position, as_of_ms=max(position.as_of_ms, at_ms))
        self._followed[partition] = Followed(table, position, touched_ms)
        if not position.complete or self._clock_ms() - touched_ms > self._touch_every_ms:
            await self._write(topic, number, [], position)
        if not position.complete:
            deleted = await self._store.complete(table, number, position)
            if deleted is None:
                raise ConnectionError(f"the store of {topic}-{number} was begun anew, or lost what was written")
            position = msgspec.structs.replace(position, complete=True)
            self._followed[partition] = Followed(table, position, self._clock_ms())
            if deleted:
                logger.info("%s-%d: %d rows deleted that the topic no longer holds", topic, number, deleted)
        self._reached.add(partition)
