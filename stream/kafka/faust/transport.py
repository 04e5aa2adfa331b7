"""The Kafka transport: Faust's own over aiokafka, with batch delivery, an idempotent producer, a note of each heartbeat and two
corrections.

- Fetch guard: Faust hands aiokafka its *live* set of active partitions; when that becomes empty meanwhile, aiokafka takes it for
  *all*.
- Seek for uncommitted partitions: aiokafka skips partitions without a committed offset, so what was read and dropped during a first
  recovery would be gone.

Both belong to faust-streaming 0.15 and aiokafka 0.14; tests/contracts/test_faust.py notices when they change.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from stream.core.outputs import Output
from stream.kafka.cluster.clients import READ_COMMITTED
from stream.kafka.faust.batch_consumer import BatchConsumer, last_offset
from stream.kafka.faust.changelog import Fetched, check_start

_CHANGELOG_RECORDS: Final = 2_000
ANSWER_MS: Final = 20_000
_TRANSACTIONAL: Final = {"linger_ms": 0, "retry_backoff_ms": 10, "transaction_timeout_ms": 30_000}
"""The default backoff of 100 ms would show in each transaction that follows another closely."""


class GuardedThread(driver.AIOKafkaConsumerThread):
    """The thread that fetches, with both corrections.

    `heartbeat_at` is when the last request was sent that the group answered well (monotonic clock, s); `positions` where the
    partitions stood after the last fetch.
    """

    heartbeat_at = 0.0
    positions: Mapping[TP, int] = MappingProxyType({})

    async def on_start(self) -> None:
        await super().on_start()
        coordinator = self._ensure_consumer()._coordinator
        heartbeat = coordinator._do_heartbeat

        async def noted() -> bool:
            sent_at = time.monotonic()
            answered: bool = await heartbeat()
            if answered:
                self.heartbeat_at = sent_at
            return answered

        coordinator._do_heartbeat = noted

    def _create_worker_consumer(self, transport: Any) -> Any:
        made = super()._create_worker_consumer(transport)
        made._isolation_level = READ_COMMITTED
        return made

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        self.heartbeat_at = time.monotonic()
        changelogs = self.consumer.app.tables.changelog_topics
        read_elsewhere = {tp for tp in assigned if tp.topic in changelogs}
        self._ensure_consumer().pause(*driver.ensure_aiokafka_TPset(read_elsewhere))
        await super().on_partitions_assigned(assigned, generation_id)

    async def rejoin(self) -> None:
        """Asks the group for a new assignment."""
        await self.call_thread(self._request_rejoin)

    async def _request_rejoin(self) -> None:
        self._ensure_consumer()._coordinator.request_rejoin()

    @property
    def generation(self) -> int:
        """The group's generation as its coordinator knows it; -1 once the group has told that we are not in it."""
        known: int = self._ensure_consumer()._coordinator.generation
        return known

    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109
        frozen = None if active_partitions is None else frozenset(active_partitions)
        if frozen is not None and not frozen:
            return {}
        generation = self.consumer.app.consumer_generation_id
        records = await super().getmany(frozen, timeout)
        kept = await self._hand_back(records, generation)
        if len(kept) < len(records):
            self.positions = {}
        return kept

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: Any,
        timeout: float | None = None,  # noqa: ASYNC109
        max_records: int | None = None,
    ) -> Any:
        records = await super()._fetch_records(consumer, active_partitions, timeout=timeout, max_records=max_records)
        subscription = consumer._subscription.subscription
        states = {} if subscription is None else {tp: subscription.assignment.state_value(tp) for tp in active_partitions or ()}
        self.positions = {tp: state.position for tp, state in states.items() if state is not None and state.has_valid_position}
        return records

    async def _hand_back(self, records: Any, generation: int) -> Any:
        """Gives back to the fetcher what must not be delivered now, so that it is fetched again."""
        consumer: Any = self.consumer
        stale = not consumer.flow_active or consumer.app.consumer_generation_id != generation
        active = consumer._get_active_partitions()
        kept = {}
        for tp, fetched in records.items():
            if not stale and tp in active:
                kept[tp] = fetched
            elif fetched:
                await self.call_thread(self._seek_back, tp, fetched[0].offset)
        return kept

    async def _seek_back(self, tp: Any, offset: int) -> None:
        kafka = self._ensure_consumer()
        if kafka._subscription.is_assigned(tp):
            kafka._fetcher.seek_to(tp, offset)

    async def seek_to_committed(self) -> Mapping[TP, Any]:
        committed = await super().seek_to_committed()
        consumer: Any = self.consumer
        changelogs = consumer.app.tables.changelog_topics
        foreign = {tp for tp, offset in committed.items() if offset and tp.topic in consumer.recreated}
        fresh = [tp for tp, offset in committed.items() if (not offset or tp in foreign) and tp.topic not in changelogs]
        if fresh:
            await self.call_thread(self._ensure_consumer().seek_to_beginning, *fresh)
        if foreign:
            await self.commit(dict.fromkeys(foreign, 0))
        return {tp: None if tp in foreign else offset for tp, offset in committed.items()}


class KafkaConsumer(BatchConsumer, driver.Consumer):
    """Faust's Kafka consumer with batch delivery. `_delivered` is the generation and the next offset of the last batch.

    Committed offsets of `recreated` topics are their predecessors': these begin at their beginning.
    """

    recreated: frozenset[str] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._delivered: dict[TP, tuple[int, int]] = {}

    def _new_consumer_thread(self) -> GuardedThread:
        return GuardedThread(self, loop=self.loop, beacon=self.beacon)

    def holds(self, generation: int) -> bool:
        return super().holds(generation) and self._thread.generation == generation

    def _next_offset(self, tp: TP, records: list[Any]) -> int:
        after_records = super()._next_offset(tp, records) if records else 0
        self._delivered[tp] = (self.app.consumer_generation_id, max(after_records, self._thread.positions.get(tp, 0)))
        return self._delivered[tp][1]

    def _passed(self, fetched: Iterable[TP]) -> list[TP]:
        generation = self.app.consumer_generation_id
        passed = []
        for tp, position in self._thread.positions.items():
            known_in, known = self._delivered.get(tp, (generation, 0))
            before = known if known_in == generation and known else self._committed_offset[tp] or 0
            if tp not in fetched and position > before and not self._is_changelog_tp(tp):
                passed.append(tp)
        return passed

    async def rejoin(self) -> None:
        await self._thread.rejoin()

    async def verify_all_partitions_active(self) -> None:
        """Nothing, for `stream.health` watches committed offsets. Faust's own watch takes changelogs, which are read elsewhere, and
        partitions whose offsets transactions commit for stuck, and says so every second from the sixth minute on.
        """

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Nothing where transactions commit the offsets: a late one of ours would turn them back."""
        return True if self.transport.commits_in_transactions else await super()._commit(offsets)

    def is_member(self) -> bool:
        age_s: float = time.monotonic() - self._thread.heartbeat_at
        return age_s < self.app.conf.broker_session_timeout


class KafkaProducer(driver.Producer):
    """Idempotent without transactions: a retry neither reorders nor duplicates.

    Two times that aiokafka takes from one setting are told apart. An answer is waited for `ANSWER_MS`: on a connection that is cut
    on one side none ever comes, and the batch is sent again on a new one. A batch itself is patient (Faust's 20 minutes): it waits
    for a broker that is away, and never expires before a later one that is sent.
    """

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}

    def _new_producer(self, transactional_id: str | None = None) -> Any:
        return _answered_soon(super()._new_producer(transactional_id))

    def transactional(self, transactional_id: str) -> AIOKafkaProducer:
        """A producer for one partition number, not started."""
        settings = {**self._settings_default(), **self._settings_auth(), **self._settings_extra(), **_TRANSACTIONAL}
        return _answered_soon(AIOKafkaProducer(**settings, transactional_id=transactional_id))


def _answered_soon(producer: Any) -> Any:
    producer.client._request_timeout_ms = ANSWER_MS
    producer._sender._request_timeout_ms = ANSWER_MS
    return producer


class KafkaTransport(driver.Transport):
    Consumer = KafkaConsumer
    Producer = KafkaProducer
    commits_in_transactions = False

    async def read_changelog(self, topic: str, starts: Mapping[int, int]) -> AsyncIterator[Fetched]:
        """`stream.kafka.faust.changelog.ChangelogReader`, by a consumer of its own: past Faust's queue and thread."""
        conf = self.app.conf
        consumer = AIOKafkaConsumer(
            bootstrap_servers=driver.server_list(self.url, self.default_port),
            enable_auto_commit=False,
            isolation_level=READ_COMMITTED,
            check_crcs=conf.broker_check_crcs,
            max_partition_fetch_bytes=conf.consumer_max_fetch_size,
            **driver.credentials_to_aiokafka_auth(conf.broker_credentials, conf.ssl_context),
        )
        await consumer.start()
        try:
            async for fetched in _read_to_end(consumer, topic, starts):
                yield fetched
        finally:
            await consumer.stop()


async def _read_to_end(consumer: AIOKafkaConsumer, topic: str, starts: Mapping[int, int]) -> AsyncIterator[Fetched]:
    tps = {TopicPartition(topic, number): start for number, start in starts.items()}
    consumer.assign(list(tps))
    begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
    positions = {}
    for tp, start in tps.items():
        check_start(topic, tp.partition, start, ends[tp])
        positions[tp] = max(start, begins[tp])
        consumer.seek(tp, positions[tp])
    while True:
        for tp in [tp for tp, position in positions.items() if position >= ends[tp]]:
            consumer.pause(tp)
            del positions[tp]
        if not positions:
            return
        found = await consumer.getmany(timeout_ms=200, max_records=_CHANGELOG_RECORDS)
        for tp, before in positions.items():
            positions[tp] = await consumer.position(tp)
            if positions[tp] > before:
                yield Fetched(tp.partition, found.get(tp, ()), positions[tp])


class KafkaSender:
    """Sends outputs as whole batches through an aiokafka producer, asked for anew each time."""

    def __init__(self, producer: Callable[[], AIOKafkaProducer]) -> None:
        self._producer = producer

    async def send(
        self, topic: str, partition: int, outputs: Sequence[Output], timestamps: Sequence[int] | None = None
    ) -> Awaitable[int]:
        producer = self._producer()
        futures, counts = [], []
        batch, count = producer.create_batch(), 0
        for number, output in enumerate(outputs):
            at_ms = None if timestamps is None else timestamps[number]
            headers = list(output.headers)
            if batch.append(timestamp=at_ms, key=output.key, value=output.value, headers=headers) is None:
                batch.close()
                futures.append(await producer.send_batch(batch, topic, partition=partition))
                counts.append(count)
                batch, count = producer.create_batch(), 0
                batch.append(timestamp=at_ms, key=output.key, value=output.value, headers=headers)
            count += 1
        if count:
            batch.close()
            futures.append(await producer.send_batch(batch, topic, partition=partition))
            counts.append(count)
        return last_offset(futures, counts)
