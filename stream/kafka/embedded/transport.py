"""The Faust transport over an embedded log: consumer, producer and the sender of batches. `embedded://NAME` names an open log.

It serves one worker in one process. It exercises agents, acknowledgements, commits, tables, changelog, recovery and rebalances, but
not the group protocol, aiokafka or a network.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from typing import Any, Final, NoReturn

from faust.exceptions import ImproperlyConfigured
from faust.transport import base
from faust.transport.consumer import Consumer
from faust.transport.producer import Producer
from faust.types import TP, ConsumerMessage, RecordMetadata
from faust.types.enums import ProcessingGuarantee

from stream.core.outputs import Output
from stream.core.records import Record
from stream.errors import IsthmusError
from stream.kafka.cluster.log_state import LogState, Mark
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.view import ClusterView
from stream.kafka.delivery.contracts import Sender
from stream.kafka.embedded.cluster_view import EmbeddedClusterView
from stream.kafka.embedded.log import Log, log_named
from stream.kafka.faust.batch_consumer import BatchConsumer
from stream.kafka.faust.batch_transport import FetchPolicy
from stream.kafka.faust.changelog import Fetched, check_start

_WAIT_S: Final = 0.1
_CHANGELOG_RECORDS: Final = 2_000


class ClusterMetadata:
    """What Faust's assignor needs to know of a cluster."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def topics(self) -> set[str]:
        return set(self._log.topics)

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        found = self._log.topics.get(topic)
        return None if found is None else set(range(len(found.partitions)))


class EmbeddedConsumer(BatchConsumer, Consumer):
    """Reads the log in the app's own event loop; its group has one member."""

    transport: "Transport"
    consumer_stopped_errors = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._log: Log = self.transport.log
        self._topics: set[str] = set()
        self._assigned: set[TP] = set()
        self._positions: dict[TP, int] = {}
        self._order: deque[TP] = deque()
        self._paused: set[TP] = set()
        self._generation = 0
        self._rebalancing = asyncio.Lock()
        self._rebalances: set[asyncio.Task[None]] = set()

    async def subscribe(self, topics: Iterable[str]) -> None:
        self._topics = set(topics)
        self.rebalance()

    def rebalance(self) -> asyncio.Task[None]:
        """Rebalances in a separate task: its callbacks wait for agents that wait for the consumer."""
        task = asyncio.create_task(self._rebalance())
        self._rebalances.add(task)
        task.add_done_callback(self._rebalances.discard)
        return task

    async def _rebalance(self) -> None:
        async with self._rebalancing:
            app = self.app
            app.on_rebalance_start()
            await self.on_partitions_revoked(set(self._assigned))
            assignor = app.assignor
            (mine,) = assignor.assign(ClusterMetadata(self._log), {"me": assignor.metadata(self._topics)}).values()
            assignor.on_assignment(mine)
            self._assigned = {TP(topic, number) for topic, numbers in mine.assignment for number in numbers}
            self._order = deque(sorted(self._assigned))
            self._paused.clear()
            committed = self._log.committed.get(app.conf.id, {})
            self._positions = {tp: committed.get(tuple(tp), self._start(tp)) for tp in self._assigned}
            self._generation += 1
            app.consumer_generation_id = self._generation
            await self.on_partitions_assigned(set(self._assigned), self._generation)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, list[Any]]:  # noqa: ASYNC109
        """The records of one partition; the next call begins with another partition."""
        del timeout
        active = frozenset(self._assigned if active_partitions is None else active_partitions)
        records = self._next(active)
        if not records:
            await self._log.wait(_WAIT_S)
            records = self._next(active)
        return records

    def _next(self, active: frozenset[TP]) -> dict[TP, list[Any]]:
        if not self.flow_active:
            return {}
        limit = self.app.conf.broker_max_poll_records
        for _ in range(len(self._order)):
            tp = self._order[0]
            self._order.rotate(-1)
            if tp in active and tp in self._positions and tp not in self._paused:
                records = self._log.read(tp.topic, tp.partition, self._positions[tp], limit)
                if records:
                    self._positions[tp] = records[-1].offset + 1
                    return {tp: records}
        return {}

    async def _wait_at(self, tp: TP, offset: int) -> bool:
        self._positions[tp] = offset
        self._paused.add(tp)
        return True

    async def retry(self, partitions: Iterable[tuple[str, int]]) -> None:
        self._paused -= {TP(*partition) for partition in partitions}

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=record.offset,
            timestamp=record.timestamp / 1_000,
            timestamp_type=0,
            headers=list(record.headers),
            key=record.key,
            value=record.value,
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Source partitions without a committed offset seek their start; changelogs stay where recovery left them."""
        committed = self._log.committed.setdefault(self.app.conf.id, {})
        for tp in self._assigned:
            if (tp.topic, tp.partition) in self.resume_at:
                self._positions[tp] = committed[tp.topic, tp.partition] = self.resume_at[tp.topic, tp.partition]
                self._mark({(tp.topic, tp.partition): self._positions[tp]})
            elif tuple(tp) in committed:
                self._positions[tp] = committed[tp.topic, tp.partition]
            elif not self._is_changelog_tp(tp):
                self._positions[tp] = self._start(tp)
        return {tp: committed[tp.topic, tp.partition] for tp in self._assigned if tuple(tp) in committed}

    async def committed_offsets(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        committed = self._log.committed.get(self.app.conf.id, {})
        return {partition: committed.get(partition, 0) for partition in partitions}

    async def committed_metadata(self, partitions: Iterable[Partition]) -> Mapping[Partition, str]:
        metadata = self._log.committed_metadata.get(self.app.conf.id, {})
        return {partition: metadata.get(partition, "") for partition in partitions}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        committed = {(tp.topic, tp.partition): offset for tp, offset in offsets.items() if tp in self._assigned}
        self._log.commit(self.app.conf.id, committed)
        self._mark(committed)
        return True

    def _mark(self, committed: Mapping[Partition, int]) -> None:
        metadata = self.transport.fetch_policy.metadata
        known = self._log.committed_metadata.setdefault(self.app.conf.id, {})
        known.update({partition: metadata(partition, offset) for partition, offset in committed.items()})

    async def _seek(self, partition: TP, offset: int) -> None:
        self._positions[partition] = offset

    async def seek_wait(self, partitions: Mapping[TP, int]) -> None:
        for tp, offset in partitions.items():
            await self.seek(tp, offset)

    async def position(self, tp: TP) -> int | None:
        return self._positions.get(tp)

    async def positions(self, tps: Iterable[TP]) -> Mapping[TP, int]:
        return {tp: self._positions[tp] for tp in tps if tp in self._positions}

    def assignment(self) -> set[TP]:
        return set(self._assigned)

    def highwater(self, tp: TP) -> int:
        return self._log.topics[tp.topic].partitions[tp.partition].end

    async def highwaters(self, *partitions: TP) -> Mapping[TP, int]:
        return {tp: self.highwater(tp) for tp in partitions}

    async def earliest_offsets(self, *partitions: TP) -> Mapping[TP, int]:
        return {tp: self._start(tp) for tp in partitions}

    def _start(self, tp: TP) -> int:
        return self._log.topics[tp.topic].partitions[tp.partition].start

    def topic_partitions(self, topic: str) -> int | None:
        found = self._log.topics.get(topic)
        return None if found is None else len(found.partitions)

    def key_partition(self, topic: str, key: bytes | None, partition: int | None = None) -> int | None:
        raise NotImplementedError("tables are read by partition number")

    async def create_topic(self, topic: str, partitions: int, replication: int, **_: Any) -> None:
        raise NotImplementedError("topics are created by Log.create_topics")

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: no fetch can be stuck."""


class LogSender:
    """`stream.kafka.delivery.contracts.Sender` over the log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def send(
        self, topic: str, partition: int, outputs: Sequence[Output], timestamps: Sequence[int] | None = None
    ) -> Awaitable[int]:
        futures = [
            self._log.append_to(topic, partition, output, None if timestamps is None else timestamps[index])
            for index, output in enumerate(outputs)
        ]
        return _last_offset(futures)


async def _last_offset(futures: Sequence[asyncio.Future[int]]) -> int:
    return max(await asyncio.gather(*futures), default=-1)


class EmbeddedProducer(Producer):
    """What Faust itself sends, one record at a time."""

    def __post_init__(self) -> None:
        if self.app.conf.processing_guarantee is not ProcessingGuarantee.AT_LEAST_ONCE:
            raise ImproperlyConfigured("the embedded transport delivers at least once: leave processing_guarantee at its default")
        if self.app.conf.producer_threaded:
            raise ImproperlyConfigured("the embedded transport has no threads: leave producer_threaded off")

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp: float | None,
        headers: Any,
        *,
        transactional_id: str | None = None,
    ) -> Awaitable[RecordMetadata]:
        del headers, transactional_id
        tp = TP(topic, partition or 0)
        future = self.transport.log.append_to(
            topic, tp.partition, Output(key or b"", value), int(timestamp * 1_000) if timestamp else None
        )
        return _metadata(tp, future)

    async def send_and_wait(self, *args: Any, **kwargs: Any) -> RecordMetadata:
        return await (await self.send(*args, **kwargs))

    async def flush(self) -> None:
        """Nothing: sends are not buffered."""

    def supports_headers(self) -> bool:
        return False


async def _metadata(tp: TP, future: asyncio.Future[int]) -> RecordMetadata:
    return RecordMetadata(tp.topic, tp.partition, tp, await future)


class Transport(base.Transport):
    """`stream.kafka.faust.batch_transport.BatchTransport` over a log; Faust's entry point `embedded` (see pyproject.toml)."""

    Consumer = EmbeddedConsumer
    Producer = EmbeddedProducer
    default_port = 0
    driver_version = "1"
    fetch_policy = FetchPolicy()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.log = log_named(self.url[0].host or "")

    def cluster_view(self) -> ClusterView:
        return EmbeddedClusterView(self.log, self.app.conf.id)

    def sender(self) -> Sender:
        return LogSender(self.log)

    def use_transactions(self) -> NoReturn:
        raise IsthmusError("delivery.guarantee = exactly_once needs Kafka's transactions: the embedded log delivers at least once")

    async def read_log_states(self, marks: Mapping[Partition, Mark | None]) -> dict[Partition, LogState]:
        return {partition: self._log_state(partition, mark) for partition, mark in marks.items()}

    def _log_state(self, partition: Partition, mark: Mark | None) -> LogState:
        found = self.log.topics[partition[0]].partitions[partition[1]]
        state = LogState(found.start, found.end)
        if mark is None:
            return state
        at = next((record.timestamp for record in found.records if record.offset == mark.offset), None)
        later = next((record.offset for record in found.records if 0 <= mark.timestamp < record.timestamp), None)
        skipped = any(mark.offset < record.offset < mark.skips_to for record in found.records)
        return state._replace(timestamp=at, later=later, skipped=skipped)

    async def read_last_records(self, topic: str, numbers: Iterable[int]) -> dict[int, Record]:
        partitions = self.log.topics[topic].partitions
        return {number: partitions[number].records[-1] for number in numbers if partitions[number].records}

    async def read_changelog(self, topic: str, starts: Mapping[int, int]) -> AsyncIterator[Fetched]:
        """Reads what the log contains now, and the record before each start."""
        for number, start in starts.items():
            end = self.log.topics[topic].partitions[number].end
            check_start(topic, number, start, end)
            position = max(0, start - 1)
            while position < end:
                records = self.log.read(topic, number, position, _CHANGELOG_RECORDS)
                position = records[-1].offset + 1 if records else end
                yield Fetched(number, records, position)
                await asyncio.sleep(0)
