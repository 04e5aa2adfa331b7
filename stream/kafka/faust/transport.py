"""The Kafka transport: Faust's own over aiokafka, with batch delivery, an idempotent producer, recorded heartbeats and two
corrections.

- Fetch guard: Faust passes aiokafka its *live* set of active partitions. If the set becomes empty during the fetch, aiokafka reads
  it as *all* partitions.
- Seek for uncommitted partitions: aiokafka skips partitions without a committed offset, so records that were read and dropped
  during a first recovery would be lost.

Both belong to faust-streaming 0.15 and aiokafka 0.14; tests/contracts/test_faust.py fails when they change.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from stream.core import limits
from stream.core.records import Record
from stream.kafka.cluster import batch_reading
from stream.kafka.cluster.batch_sender import KafkaSender
from stream.kafka.cluster.clients import FETCHER_TIMEOUT_MS, READ_COMMITTED, async_consumer
from stream.kafka.cluster.corrupt_batches import (
    CorruptBatchPolicy,
    PassCorruptBatches,
    PausesPartition,
    RaiseAtCorruptBatch,
)
from stream.kafka.cluster.fetching import fetch_until
from stream.kafka.cluster.log_state import MARK_FETCH_BYTES, LogState, Mark, read_last_records, read_log_states
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.skips import read_skips
from stream.kafka.cluster.view import ClusterView, KafkaClusterView
from stream.kafka.delivery.contracts import Sender
from stream.kafka.faust.batch_consumer import BatchConsumer
from stream.kafka.faust.batch_transport import FetchPolicy
from stream.kafka.faust.changelog import Fetched
from stream.kafka.faust.changelog_reading import assign_from, readable
from stream.kafka.faust.fetched_positions import FetchedPositions
from stream.kafka.faust.gathering import GATHER_MS, TRANSACTION_MS, Gathering
from stream.kafka.faust.producer import KafkaProducer

_CHANGELOG_RECORDS: Final = 2_000
_READER_WAIT_MS: Final = 10
"""A reader of what exists never waits for new records: with the default, half a second behind the last one."""
_HEARTBEATS: Final = 3
"""After this many intervals without an answer the broker counts as away; one answer may be late."""


class GuardedThread(driver.AIOKafkaConsumerThread):
    """The thread that fetches, with both corrections.

    Attributes:
        heartbeat_at: When the last heartbeat that succeeded was sent (monotonic clock, s).
        is_answered: Whether the last heartbeat succeeded.
        positions: The partitions' positions after the last fetch.
        reconnections: How often the connection to a partition's leader was replaced.
    """

    heartbeat_at = 0.0
    is_answered = True
    positions: Mapping[TP, int] = MappingProxyType({})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reconnections: dict[Partition, int] = {}
        self._connections: dict[Partition, Any] = {}
        self._fetched = FetchedPositions()

    async def on_start(self) -> None:
        await super().on_start()
        coordinator = self._ensure_consumer()._coordinator
        heartbeat = coordinator._do_heartbeat

        async def recorded() -> bool:
            sent_at = time.monotonic()
            self.is_answered = await heartbeat()
            if self.is_answered:
                self.heartbeat_at = sent_at
            return self.is_answered

        coordinator._do_heartbeat = recorded
        gather_ms = TRANSACTION_MS if self.consumer.transport.commits_in_transactions else GATHER_MS
        self._gathering = Gathering(self._ensure_consumer()._fetcher, gather_ms)

    def _create_worker_consumer(self, transport: Any) -> Any:
        batch_reading.install()
        consumer = super()._create_worker_consumer(transport)
        consumer._isolation_level = READ_COMMITTED
        consumer._consumer_timeout = FETCHER_TIMEOUT_MS / 1_000
        consumer._check_crcs = PausesPartition(consumer, transport.fetch_policy.stopped)
        commit = consumer.commit

        async def commit_with_metadata(offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
            metadata = transport.fetch_policy.metadata
            await commit({tp: (offset, metadata((tp.topic, tp.partition), offset)) for tp, (offset, _) in offsets.items()})

        consumer.commit = commit_with_metadata  # Faust commits without metadata
        return consumer

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.heartbeat_at, self.is_answered = time.monotonic(), True
        changelogs = self.consumer.app.tables.changelog_topics
        changelog_partitions = {tp for tp in assigned if tp.topic in changelogs}
        self._ensure_consumer().pause(*driver.ensure_aiokafka_TPset(changelog_partitions))
        await super().on_partitions_assigned(assigned, generation_id)

    async def rejoin(self) -> None:
        """Asks the group for a new assignment."""
        await self.call_thread(self._request_rejoin)

    async def _request_rejoin(self) -> None:
        self._ensure_consumer()._coordinator.request_rejoin()

    async def committed(self, partitions: Iterable[Partition]) -> dict[Partition, OffsetAndMetadata]:
        """What the group committed, of partitions of which it did."""
        tps = [TopicPartition(*partition) for partition in partitions]
        found = await self.call_thread(self._ensure_consumer()._coordinator.fetch_committed_offsets, tps)
        return {(tp.topic, tp.partition): committed for tp, committed in found.items() if committed.offset >= 0}

    async def positions_of(self, tps: Iterable[TP]) -> dict[TP, int]:
        """The present positions, of assigned partitions that have one."""
        return await self.call_thread(self._positions_of, tps)

    async def _positions_of(self, tps: Iterable[TP]) -> dict[TP, int]:
        subscription = self._ensure_consumer()._subscription
        states = {tp: subscription.subscription.assignment.state_value(tp) for tp in tps if subscription.is_assigned(tp)}
        return {tp: state.position for tp, state in states.items() if state.has_valid_position}

    @property
    def generation(self) -> int:
        """The group's generation as the coordinator client knows it; -1 once the group has answered that we are not a member."""
        generation: int = self._ensure_consumer()._coordinator.generation
        return generation

    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109
        frozen = None if active_partitions is None else frozenset(active_partitions)
        if frozen is not None and not frozen:
            return {}
        generation = self.consumer.app.consumer_generation_id
        records = await super().getmany(frozen, timeout)
        current = await self._seek_back_stale(records, generation)
        if len(current) < len(records):
            self.positions = {}
        return current

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Any,
        timeout: float | None = None,  # noqa: ASYNC109
        max_records: int | None = None,
    ) -> Any:
        records = await super()._fetch_records(consumer, active_partitions, timeout=timeout, max_records=max_records)
        tps = {*(active_partitions or ()), *records}
        self.positions = self._fetched.note(consumer, tps)
        self._gathering.taken(sum(map(len, records.values())), time.monotonic())
        self._note_resumed(records)
        self._count_reconnections(consumer, tps)
        return records

    def _note_resumed(self, records: Mapping[Any, Sequence[Any]]) -> None:
        """Stopped partitions are read on once something at or after the corrupt batch was fetched."""
        stopped = self.consumer.transport.fetch_policy.stopped
        for batch in stopped.batches():
            fetched = records.get(TopicPartition(batch.topic, batch.partition), ())
            if fetched and fetched[-1].offset >= batch.offset:
                stopped.resumed((batch.topic, batch.partition))

    async def retry(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Fetches stopped partitions again."""
        await self.call_thread(self._resume, [TopicPartition(*partition) for partition in partitions])

    async def _resume(self, tps: Iterable[Any]) -> None:
        consumer = self._ensure_consumer()
        consumer.resume(*(tp for tp in tps if consumer._subscription.is_assigned(tp)))

    async def wait_at(self, tp: TP, offset: int) -> bool:
        """Seeks back to an offset and fetches nothing of the partition until `retry`. False: it was assigned anew meanwhile."""
        self.positions = {other: position for other, position in self.positions.items() if other != tp}
        is_waiting: bool = await self.call_thread(self._wait_at, tp, offset)
        return is_waiting

    async def _wait_at(self, tp: Any, offset: int) -> bool:
        kafka = self._ensure_consumer()
        if not self._fetched.holds(kafka, tp):
            return False
        kafka._fetcher.seek_to(tp, offset)
        kafka.pause(tp)
        return True

    def _count_reconnections(self, consumer: Any, partitions: Iterable[Any]) -> None:
        """Called after a fetch: what it returned came over these connections, or over earlier ones."""
        client = consumer._client
        for tp in partitions:
            leader = client.cluster.leader_for_partition(tp)
            connection, partition = client._conns.get((leader, ConnectionGroup.DEFAULT)), (tp.topic, tp.partition)
            if connection is not self._connections.setdefault(partition, connection):
                self._connections[partition] = connection
                self.reconnections[partition] = self.reconnections.get(partition, 0) + 1

    async def _seek_back_stale(self, records: Any, generation: int) -> Any:
        """Returns what may be delivered; seeks the other partitions back, so that their records are fetched again."""
        consumer: Any = self.consumer
        stale = not consumer.flow_active or consumer.app.consumer_generation_id != generation
        active = consumer._get_active_partitions()
        current = {}
        for tp, fetched in records.items():
            if not stale and tp in active:
                current[tp] = fetched
            elif fetched:
                await self.call_thread(self._seek_back, tp, fetched[0].offset)
        return current

    async def _seek_back(self, tp: Any, offset: int) -> None:
        kafka = self._ensure_consumer()
        if self._fetched.holds(kafka, tp):
            kafka._fetcher.seek_to(tp, offset)

    async def _seek(self, tp: Any, offset: int) -> None:
        kafka = self._ensure_consumer()
        if kafka._subscription.is_assigned(tp):
            kafka._fetcher.seek_to(tp, offset)

    async def seek_to_committed(self) -> Mapping[TP, Any]:
        committed = await super().seek_to_committed()
        consumer: Any = self.consumer
        changelogs = consumer.app.tables.changelog_topics
        recreated = consumer.transport.fetch_policy.recreated
        obsolete = {tp for tp, offset in committed.items() if offset and tp.topic in recreated}
        unread = [tp for tp, offset in committed.items() if (not offset or tp in obsolete) and tp.topic not in changelogs]
        if unread:
            await self.call_thread(self._ensure_consumer().seek_to_beginning, *unread)
        resumed = {tp: offset for tp in committed if (offset := consumer.resume_at.get((tp.topic, tp.partition))) is not None}
        for tp, offset in resumed.items():
            await self.call_thread(self._seek, tp, offset)
        if obsolete or resumed:
            await self.commit({**dict.fromkeys(obsolete, 0), **resumed})
        return {**{tp: None if tp in obsolete else offset for tp, offset in committed.items()}, **resumed}


class KafkaConsumer(BatchConsumer, driver.Consumer):
    """Faust's Kafka consumer with batch delivery."""

    transport: "KafkaTransport"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._delivered: dict[TP, tuple[int, int]] = {}  # generation and next offset of the last batch

    def _new_consumer_thread(self) -> GuardedThread:
        return GuardedThread(self, loop=self.loop, beacon=self.beacon)

    def holds(self, generation: int) -> bool:
        return super().holds(generation) and self._thread.generation == generation

    def _next_offset(self, tp: TP, records: list[Any]) -> int:
        after_records = super()._next_offset(tp, records) if records else 0
        self._delivered[tp] = (self.app.consumer_generation_id, max(after_records, self._thread.positions.get(tp, 0)))
        return self._delivered[tp][1]

    def _advanced_without_records(self, fetched: Iterable[TP]) -> list[TP]:
        generation = self.app.consumer_generation_id
        advanced = []
        for tp, position in self._thread.positions.items():
            delivered_in, delivered = self._delivered.get(tp, (generation, 0))
            before = delivered if delivered_in == generation and delivered else self._committed_offset[tp] or 0
            if tp not in fetched and position > before and not self._is_changelog_tp(tp):
                advanced.append(tp)
        return advanced

    async def rejoin(self) -> None:
        await self._thread.rejoin()

    async def retry(self, partitions: Iterable[tuple[str, int]]) -> None:
        await self._thread.retry(partitions)

    async def _wait_at(self, tp: TP, offset: int) -> bool:
        is_waiting: bool = await self._thread.wait_at(tp, offset)
        return is_waiting

    async def verify_all_partitions_active(self) -> None:
        """Nothing: `stream.health` watches committed offsets.

        Faust's livelock detector reports changelogs, which it does not read here, and partitions whose offsets transactions commit
        as stuck, every second from the sixth minute on.
        """

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Nothing if transactions commit the offsets: a late commit from here would turn them back."""
        return True if self.transport.commits_in_transactions else await super()._commit(offsets)

    async def positions(self, tps: Iterable[TP]) -> Mapping[TP, int]:
        return await self._thread.positions_of(tps)

    async def committed_offsets(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        found = await self._thread.committed(partitions)
        return {partition: found[partition].offset if partition in found else 0 for partition in partitions}

    async def committed_metadata(self, partitions: Iterable[Partition]) -> Mapping[Partition, str]:
        found = await self._thread.committed(partitions)
        return {partition: committed.metadata or "" for partition, committed in found.items()}

    def reconnections(self, partition: Partition) -> int:
        found: int = self._thread.reconnections.get(partition, 0)
        return found

    @cached_property
    def _session_s(self) -> float:
        timeout_s: float = self.app.conf.broker_session_timeout  # Faust takes 20 us to find a setting
        return timeout_s

    def is_member(self) -> bool:
        age_s: float = time.monotonic() - self._thread.heartbeat_at
        return age_s < self._session_s

    def is_answered(self) -> bool:
        age_s: float = time.monotonic() - self._thread.heartbeat_at
        return self._thread.is_answered and age_s < _HEARTBEATS * self.app.conf.broker_heartbeat_interval


class KafkaTransport(driver.Transport):
    """`stream.kafka.faust.batch_transport.BatchTransport` over Kafka."""

    Consumer = KafkaConsumer
    Producer = KafkaProducer
    fetch_policy = FetchPolicy()
    commits_in_transactions = False

    def cluster_view(self) -> ClusterView:
        return KafkaClusterView(self._bootstrap(), self.app.conf.id)

    def _bootstrap(self) -> str:
        return ",".join(f"{url.host}:{url.port}" for url in self.app.conf.broker_consumer)

    def sender(self) -> Sender:
        def producer() -> AIOKafkaProducer:
            return self.app.producer._ensure_producer()

        return KafkaSender(producer)

    def use_transactions(self) -> Callable[[str], AIOKafkaProducer]:
        self.commits_in_transactions = True

        def new_producer(transactional_id: str) -> AIOKafkaProducer:
            return self.app.producer.transactional(transactional_id)

        return new_producer

    async def read_log_states(self, marks: Mapping[Partition, Mark | None]) -> dict[Partition, LogState]:
        async with self._reader(PassCorruptBatches(), MARK_FETCH_BYTES) as consumer:
            states = await read_log_states(consumer, {TopicPartition(*partition): mark for partition, mark in marks.items()})
        return {(tp.topic, tp.partition): state for tp, state in states.items()}

    async def read_last_records(self, topic: str, numbers: Iterable[int]) -> dict[int, Record]:
        async with self._reader(PassCorruptBatches()) as consumer:
            found = await read_last_records(consumer, [TopicPartition(topic, number) for number in numbers])
        return {tp.partition: record for tp, record in found.items()}

    async def read_changelog(self, topic: str, starts: Mapping[int, int]) -> AsyncIterator[Fetched]:
        """Reads with a separate consumer, past Faust's queue and thread: Faust takes 100 us a record."""
        skips = partial(read_skips, self._bootstrap())
        async with self._reader(RaiseAtCorruptBatch(skips)) as consumer:
            ends = await assign_from(consumer, {TopicPartition(topic, number): start for number, start in starts.items()})
            async for tp, records, position in fetch_until(consumer, ends, _CHANGELOG_RECORDS):
                yield Fetched(tp.partition, readable(tp, records, skips), position)

    @asynccontextmanager
    async def _reader(self, policy: CorruptBatchPolicy, fetch_bytes: int = limits.RECORD_BYTES) -> AsyncIterator[AIOKafkaConsumer]:
        """A consumer without a group.

        Raises:
            OSError: the broker does not answer, or the client refuses what it answers.
        """
        batch_reading.install()
        consumer = async_consumer(
            bootstrap=driver.server_list(self.url, self.default_port),
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=READ_COMMITTED,
            check_crcs=policy,
            max_partition_fetch_bytes=fetch_bytes,
            fetch_max_wait_ms=_READER_WAIT_MS,
        )
        try:
            await consumer.start()
            yield consumer
        except KafkaError as error:
            raise ConnectionError(f"the broker does not answer ({type(error).__name__})") from error
        finally:
            await consumer.stop()
