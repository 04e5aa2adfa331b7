"""The embedded log: topics, partitions and records in memory and, if asked for, in a SQLite file that survives a kill.

A persistent record becomes visible, and its future resolves, only once its transaction is committed. Everything runs on one event
loop except the commits, which run in a thread.
"""

import asyncio
import secrets
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from stream.core.outputs import Output
from stream.core.partitioner import partition_of
from stream.core.records import Headers, PlainRecord
from stream.errors import IsthmusError
from stream.kafka.cluster.topics import TopicSpec
from stream.kafka.embedded.storage import Storage

RETAINED_RECORDS: Final = 50_000  # per partition of a topic with cleanup.policy=delete
COMMIT_INTERVAL_S: Final = 0.005


@dataclass(slots=True)
class LogPartition:
    """One partition of a topic.

    Attributes:
        records: The visible records in offset order; compaction and retention leave gaps.
        next: Offset of the next record to append.
        compacted_to: Number of records after the last compaction.
    """

    records: list[PlainRecord] = field(default_factory=list)
    next: int = 0
    compacted_to: int = 0

    @property
    def end(self) -> int:
        return self.records[-1].offset + 1 if self.records else self.start

    @property
    def start(self) -> int:
        return self.records[0].offset if self.records else 0


@dataclass(slots=True)
class LogTopic:
    """One topic.

    Attributes:
        partitions: By partition number.
        compacted: Whether only the newest record of each key is kept.
        append_time: Whether the log's clock sets the timestamps (LogAppendTime); otherwise the producer does.
        epoch: Distinguishes a recreated topic from its predecessor.
    """

    partitions: list[LogPartition]
    compacted: bool
    append_time: bool
    epoch: int


class Log:
    """All topics and groups of one embedded system."""

    def __init__(self, storage: Storage | None = None) -> None:
        self.topics: dict[str, LogTopic] = {}
        self.committed: dict[str, dict[tuple[str, int], int]] = {}
        self.committed_metadata: dict[str, dict[tuple[str, int], str]] = {}  # in memory only: nothing cuts the file of a closed log
        self._waiters: list[asyncio.Future[None]] = []
        self._storage = storage
        self._pending: list[tuple[str, int, PlainRecord, asyncio.Future[int]]] = []
        self._pending_commits: dict[tuple[str, str, int], int] = {}
        self._committer: asyncio.Task[None] | None = None
        if storage is not None:
            self._restore(storage)

    def create_topics(self, specs: Iterable[TopicSpec]) -> None:
        """Creates missing topics.

        Raises:
            IsthmusError: a topic exists with another partition count.
        """
        for spec in specs:
            known = self.topics.get(spec.name)
            if known is None:
                compacted = spec.settings.get("cleanup.policy") == "compact"
                append_time = spec.settings.get("message.timestamp.type") == "LogAppendTime"
                self._create(spec.name, spec.partitions, compacted=compacted, append_time=append_time)
            elif len(known.partitions) != spec.partitions:
                raise IsthmusError(
                    f"{spec.name} has {len(known.partitions)} partitions, not {spec.partitions}: a count cannot be changed"
                )

    def epochs(self, names: Iterable[str]) -> dict[str, int]:
        return {name: self.topics[name].epoch for name in names}

    def append(self, topic: str, key: str | None, value: bytes | None) -> asyncio.Future[int]:
        """Appends to the partition of the key (without a key: the first); the future's result is the offset."""
        encoded = None if key is None else key.encode()
        number = 0 if encoded is None else partition_of(encoded, len(self.topics[topic].partitions))
        return self._append(topic, number, encoded, value, (), None)

    def append_to(self, topic: str, number: int, output: Output, timestamp_ms: int | None) -> asyncio.Future[int]:
        """Appends to a partition number; the future's result is the offset."""
        return self._append(topic, number, output.key, output.value, output.headers, timestamp_ms)

    def _append(
        self, topic: str, number: int, key: bytes | None, value: bytes | None, headers: Headers, timestamp_ms: int | None
    ) -> asyncio.Future[int]:
        found = self.topics[topic]
        now_ms = time.time_ns() // 1_000_000
        timestamp = now_ms if found.append_time or timestamp_ms is None else timestamp_ms
        partition = found.partitions[number]
        record = PlainRecord(partition.next, timestamp, key, value, headers)
        partition.next += 1
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self._storage is None:
            self._show(found, partition, record)
            future.set_result(record.offset)
            self._wake()
        else:
            self._pending.append((topic, number, record, future))
            self._commit_soon()
        return future

    def read(self, topic: str, number: int, offset: int, limit: int) -> list[PlainRecord]:
        """At most `limit` visible records from `offset` on."""
        records = self.topics[topic].partitions[number].records
        first = bisect_left(records, offset, key=lambda record: record.offset)
        return records[first : first + limit]

    def commit(self, group: str, offsets: Mapping[tuple[str, int], int]) -> None:
        self.committed.setdefault(group, {}).update(offsets)
        if self._storage is not None:
            self._pending_commits.update({(group, *partition): offset for partition, offset in offsets.items()})
            self._commit_soon()

    def lag(self, group: str, topics: Iterable[str]) -> int:
        """Records that the group has not committed."""
        committed = self.committed.get(group, {})
        return sum(
            max(0, partition.end - committed.get((topic, number), partition.start))
            for topic in topics
            for number, partition in enumerate(self.topics[topic].partitions)
        )

    async def wait(self, timeout_s: float) -> None:
        """Returns at the next append, or after `timeout_s`."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await asyncio.wait([waiter], timeout=timeout_s)
        if not waiter.done():
            self._waiters.remove(waiter)

    async def close(self) -> None:
        """Commits what is pending and closes the file."""
        if self._storage is not None:
            while self._committer is not None and not self._committer.done():
                await self._committer
            await asyncio.to_thread(self._storage.close)

    def _create(self, name: str, partitions: int, *, compacted: bool, append_time: bool) -> None:
        epoch = secrets.randbits(63)
        self.topics[name] = LogTopic([LogPartition() for _ in range(partitions)], compacted, append_time, epoch)
        if self._storage is not None:
            self._storage.create_topic(name, partitions, compacted=compacted, append_time=append_time, epoch=epoch)

    def _restore(self, storage: Storage) -> None:
        for name, partitions, compacted, append_time, epoch in storage.topics():
            self.topics[name] = LogTopic([LogPartition() for _ in range(partitions)], compacted, append_time, epoch)
        for name, number, record in storage.records():
            partition = self.topics[name].partitions[number]
            partition.records.append(record)
            partition.next = record.offset + 1
        for group, name, number, offset in storage.groups():
            self.committed.setdefault(group, {})[name, number] = offset

    def _show(self, topic: LogTopic, partition: LogPartition, record: PlainRecord) -> None:
        partition.records.append(record)
        if topic.compacted:
            if len(partition.records) > 2 * partition.compacted_to + 10_000:
                partition.records = compact(partition.records)
                partition.compacted_to = len(partition.records)
        elif len(partition.records) > 2 * RETAINED_RECORDS:
            partition.records = partition.records[-RETAINED_RECORDS:]

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _commit_soon(self) -> None:
        if self._committer is None or self._committer.done():
            self._committer = asyncio.create_task(self._commit())

    async def _commit(self) -> None:
        """Commits one transaction every few milliseconds, until nothing is pending."""
        assert self._storage is not None
        while self._pending or self._pending_commits:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            records, self._pending = self._pending, []
            commits, self._pending_commits = self._pending_commits, {}
            try:
                await asyncio.to_thread(self._storage.write, [row[:3] for row in records], commits)
            except Exception as error:
                for *_, future in records:  # so that the app crashes; after a restart it reads the records again
                    future.set_exception(error)
                raise
            for name, number, record, future in records:
                topic = self.topics[name]
                self._show(topic, topic.partitions[number], record)
                if not future.done():
                    future.set_result(record.offset)
            self._wake()


def compact(records: Sequence[PlainRecord]) -> list[PlainRecord]:
    """The newest record of each key without tombstones, and always the last record, which defines the partition's end."""
    newest = {record.key: record.offset for record in records}
    last = records[-1].offset if records else -1
    return [
        record
        for record in records
        if record.offset in (newest[record.key], last) and (record.value is not None or record.offset == last)
    ]


_LOGS: Final[dict[str, Log]] = {}


def open_log(name: str, folder: Path | None = None) -> Log:
    """Opens the log that `embedded://NAME` refers to in this process; with `folder` it is persistent.

    Raises:
        IsthmusError: another process has the folder's log open.
    """
    log = Log(None if folder is None else Storage(folder / "log.sqlite"))
    _LOGS[name] = log
    return log


def log_named(name: str) -> Log:
    try:
        return _LOGS[name]
    except KeyError:
        raise IsthmusError(f"no log is open under embedded://{name} in this process") from None


def forget(name: str) -> None:
    _LOGS.pop(name, None)
