"""Exactly once: a Kafka transaction holds outputs, changelog and source offsets; the local store and the acknowledgement follow.

Each partition number has a producer with its own transactional id. A new owner of the number fences off the previous one, so a
worker that was paused and wakes up cannot write any more. A transaction takes nearly as long for one record as for thousands, so
batches that arrive during one share the next.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    OutOfOrderSequenceNumber,
    ProducerFenced,
)

from stream.errors import IsthmusError
from stream.kafka.cluster.batch_sender import KafkaSender
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.topics import transactional_id
from stream.kafka.delivery.contracts import App, Emission, Message, ProcessedBatch
from stream.kafka.delivery.membership import is_current
from stream.metrics import Metrics

logger = logging.getLogger(__name__)
MAX_FENCES: Final = 5
"""The worker stops when it was fenced this often without committing a transaction: two deployments share one name."""
_ABORT_S: Final = 5.0
_FENCED: Final = (ProducerFenced, InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, OutOfOrderSequenceNumber)
"""Another producer has the transactional id, or the broker gave up the transaction."""


@dataclass
class TransactionQueue:
    """One partition number during one assignment.

    Attributes:
        producer: Its transactional producer.
        waiting: Batches for the next transaction.
        task: Runs the transactions while batches wait.
        broken: Nothing more may be sent: the assignment ended, or a transaction failed.
    """

    producer: AIOKafkaProducer
    waiting: list[ProcessedBatch] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    broken: bool = False


class ExactlyOnce:
    """`Delivery` by transactions.

    Args:
        app: The Faust app.
        new_producer: Returns a producer, not started, for a transactional id.
        metrics: Where fenced batches are counted.
        metadata: Returns what to commit beside an offset of a partition.
    """

    repeats = False

    def __init__(
        self,
        app: App,
        new_producer: Callable[[str], AIOKafkaProducer],
        metrics: Metrics,
        metadata: Callable[[Partition, int], str] = lambda *_: "",
    ) -> None:
        self._app = app
        self._metadata = metadata
        self._new_producer = new_producer
        self._metrics = metrics
        self._queues: dict[int, TransactionQueue] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._fences = 0

    async def acquire(self, numbers: Iterable[int]) -> None:
        """Fences off the previous owners of the partition numbers and waits until their open transactions are settled."""
        self.drop_in_flight()
        await asyncio.gather(*(self._open(number) for number in sorted(numbers)))

    async def _open(self, number: int) -> None:
        producer = self._new_producer(transactional_id(self._app.conf.id, number))
        try:
            await producer.start()
        except BaseException:  # cancelled by another rebalance, for one
            self._stop(producer)
            raise
        self._queues[number] = TransactionQueue(producer)

    def _stop(self, producer: AIOKafkaProducer) -> None:
        closing = asyncio.create_task(producer.stop())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def drop_in_flight(self) -> None:
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            queue.broken = True
            self._abandon(queue.waiting)
            queue.waiting = []
            self._stop(queue.producer)

    async def close(self) -> None:
        self.drop_in_flight()
        if self._closing:
            await asyncio.wait(self._closing, timeout=_ABORT_S)

    def is_current(self, message: Message) -> bool:
        return is_current(self._app.consumer, message)

    def _abandon(self, batches: Iterable[ProcessedBatch]) -> None:
        for batch in batches:
            self._app.consumer.abandon(batch.event.message)

    async def deliver(self, batch: ProcessedBatch) -> None:
        queue = self._queues.get(batch.event.message.partition)
        if queue is None or queue.broken:
            self._abandon([batch])
            return
        queue.waiting.append(batch)
        if queue.task is None or queue.task.done():
            queue.task = asyncio.create_task(self._run(queue))

    async def _run(self, queue: TransactionQueue) -> None:
        """One transaction after the other, each with all batches that wait."""
        batches: list[ProcessedBatch] = []
        try:
            while queue.waiting:
                batches, queue.waiting = queue.waiting, []
                await self._transact(queue.producer, batches)
                self._fences = 0
        except Exception as error:
            revoked, queue.broken = queue.broken, True
            self._abandon([*batches, *queue.waiting])
            queue.waiting = []
            if revoked:  # its producer was stopped, or fenced off by the next assignment's
                return
            if isinstance(error, _FENCED) or isinstance(error.__cause__, _FENCED):
                await self._rejoin(batches)
                return
            logger.exception("a transaction of %s failed", batches[0].event.message.tp)
            with suppress(Exception):
                await asyncio.wait_for(queue.producer.abort_transaction(), _ABORT_S)
            await self._app.crash(error)
            raise

    async def _transact(self, producer: AIOKafkaProducer, batches: Sequence[ProcessedBatch]) -> None:
        """The order of durability: one transaction with outputs, changelog and source offsets; store; acknowledgement."""
        sender = KafkaSender(lambda: producer)
        await producer.begin_transaction()
        # Offsets first: while the broker still writes the markers of the previous transaction, aiokafka waits 10 ms here
        # (retry_backoff_ms) instead of 20 ms at the first output.
        await producer.send_offsets_to_transaction(self._next_offsets(batches), self._app.conf.id)
        outputs = [await _send(sender, emission, batch) for batch in batches for emission in batch.outputs if emission.outputs]
        changelogs = [await _send(sender, batch.changelog, batch) if batch.changelog else _no_offset() for batch in batches]
        await asyncio.gather(*outputs)
        changelog_offsets = await asyncio.gather(*changelogs)
        await producer.commit_transaction()
        for batch, offset in zip(batches, changelog_offsets, strict=True):
            if self.is_current(batch.event.message):
                if batch.persist is not None:
                    batch.persist(offset)
                batch.event.ack()

    def _next_offsets(self, batches: Sequence[ProcessedBatch]) -> dict[TopicPartition, tuple[int, str]]:
        """The offset and metadata to commit for each source partition."""
        messages = [batch.event.message for batch in batches]
        offsets = {(message.topic, message.partition): message.offset + 1 for message in messages}
        return {TopicPartition(*partition): (offset, self._metadata(partition, offset)) for partition, offset in offsets.items()}

    async def _rejoin(self, batches: Sequence[ProcessedBatch]) -> None:
        """After being fenced: asks the group for an assignment; what is still ours is fetched again from its committed offset."""
        tp = batches[0].event.message.tp
        self._metrics.counter("late_batches", "fenced").inc(len(batches))
        self._fences += 1
        if self._fences >= MAX_FENCES:
            await self._app.crash(
                IsthmusError(
                    f"partition number {tp.partition}: another producer keeps taking over {self._app.conf.id}-{tp.partition} "
                    "although the group assigns it to this worker: does a second deployment use these topics?"
                )
            )
            return
        logger.warning(
            "fenced on %s: another worker owns its partition number, or the broker gave up the transaction; rejoining", tp
        )
        if self.is_current(batches[0].event.message):
            await self._app.consumer.rejoin()


async def _send(sender: KafkaSender, emission: Emission, batch: ProcessedBatch) -> Awaitable[int]:
    return await sender.send(emission.topic, batch.event.message.partition, emission.outputs, emission.timestamps)


async def _no_offset() -> int:
    return -1
