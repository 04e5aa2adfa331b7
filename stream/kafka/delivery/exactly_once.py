"""Exactly once: a Kafka transaction holds outputs, changelog and source offsets; the local store and the acknowledgement follow.

Each partition number has a producer with its own transactional id. A new owner of the number fences off the previous one, so a
worker that was paused and wakes up cannot write any more. A transaction takes nearly as long for one record as for thousands, so
batches that arrive during one share the next, which is prepared meanwhile.
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

from stream.core.outputs import Output
from stream.errors import IsthmusError
from stream.kafka.cluster.batch_sender import KafkaSender
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.topics import transactional_id
from stream.kafka.cluster.transactions import Transactions
from stream.kafka.delivery.contracts import App, Emission, Message, ProcessedBatch
from stream.kafka.delivery.membership import is_current
from stream.metrics import Metrics

logger = logging.getLogger(__name__)
MAX_FENCES: Final = 5
"""The worker stops when it was fenced this often without committing a transaction: two deployments share one name."""
_ABORT_S: Final = 5.0
_PREPARED_S: Final = 1.0
"""A prepared transaction is ended if no batch comes for so long: the broker would give it up later, and its producer with it."""
_FENCED: Final = (ProducerFenced, InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, OutOfOrderSequenceNumber)
"""Another producer has the transactional id, or the broker gave up the transaction."""


@dataclass
class TransactionQueue:
    """One partition number during one assignment.

    Attributes:
        producer: Its transactional producer.
        transactions: Those of the producer.
        waiting: Batches for the next transaction.
        woken: Set when a batch waits, or nothing more may be sent.
        last: A message of the last transaction.
        task: Runs the transactions while batches come.
        broken: Nothing more may be sent: the assignment ended, or a transaction failed.
    """

    producer: AIOKafkaProducer
    transactions: Transactions
    waiting: list[ProcessedBatch] = field(default_factory=list)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    last: Message | None = None
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
        transactions = Transactions(producer, self._app.conf.id)
        try:
            await producer.start()
        except BaseException:  # cancelled by another rebalance, for one
            self._stop(producer)
            raise
        self._queues[number] = TransactionQueue(producer, transactions)

    def _stop(self, producer: AIOKafkaProducer) -> None:
        closing = asyncio.create_task(producer.stop())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def drop_in_flight(self) -> None:
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            queue.broken = True
            queue.woken.set()
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
        queue.woken.set()
        if queue.task is None or queue.task.done():
            queue.task = asyncio.create_task(self._run(queue))

    async def _run(self, queue: TransactionQueue) -> None:
        """One transaction after the other, each with all batches that wait."""
        batches: list[ProcessedBatch] = []
        try:
            while await _has_waiting(queue):
                batches, queue.waiting = queue.waiting, []
                await self._transact(queue, batches)
                batches, self._fences = [], 0
        except Exception as error:
            revoked, queue.broken = queue.broken, True
            self._abandon([*batches, *queue.waiting])
            late, queue.waiting = [*batches, *queue.waiting], []
            if revoked:  # its producer was stopped, or fenced off by the next assignment's
                return
            cause = queue.transactions.failure or error
            if isinstance(cause, _FENCED) or isinstance(cause.__cause__, _FENCED):
                await self._rejoin(queue, len(late))
                return
            logger.exception("a transaction of %s failed", queue.last and queue.last.tp)
            with suppress(Exception):
                await asyncio.wait_for(queue.producer.abort_transaction(), _ABORT_S)
            await self._app.crash(error)
            raise

    async def _transact(self, queue: TransactionQueue, batches: Sequence[ProcessedBatch]) -> None:
        """The order of durability: one transaction with outputs, changelog and source offsets; store; acknowledgement."""
        producer, queue.last = queue.producer, batches[0].event.message
        sender = KafkaSender(lambda: producer)
        await queue.transactions.begin()
        number, outputs = queue.last.partition, [emission for batch in batches for emission in batch.outputs]
        changelogs = [batch.changelog for batch in batches if batch.changelog is not None]
        sent = [await _send(sender, emission, number) for emission in (*_by_topic(outputs), *_by_topic(changelogs))]
        offsets = producer.send_offsets_to_transaction(self._next_offsets(batches), self._app.conf.id)
        _, *last_offsets = await asyncio.gather(offsets, *sent)
        await queue.transactions.commit()
        await queue.transactions.prepare({TopicPartition(one.topic, number) for one in _by_topic((*outputs, *changelogs))})
        for batch, offset in zip(batches, _last_offsets(batches, last_offsets[-1] if changelogs else -1), strict=True):
            if self.is_current(batch.event.message):
                if batch.persist is not None:
                    batch.persist(offset)
                batch.event.ack()

    def _next_offsets(self, batches: Sequence[ProcessedBatch]) -> dict[TopicPartition, tuple[int, str]]:
        """The offset and metadata to commit for each source partition."""
        messages = [batch.event.message for batch in batches]
        offsets = {(message.topic, message.partition): message.offset + 1 for message in messages}
        return {TopicPartition(*partition): (offset, self._metadata(partition, offset)) for partition, offset in offsets.items()}

    async def _rejoin(self, queue: TransactionQueue, late: int) -> None:
        """After being fenced: asks the group for an assignment; what is still ours is fetched again from its committed offset.

        `late`: how many batches were not sent.
        """
        assert queue.last is not None
        tp = queue.last.tp
        self._metrics.counter("late_batches", "fenced").inc(late)
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
        if self.is_current(queue.last):
            await self._app.consumer.rejoin()


async def _has_waiting(queue: TransactionQueue) -> bool:
    """Waits for a batch while a transaction is prepared; False once there is neither, or nothing more may be sent."""
    while not queue.waiting and not queue.broken and queue.transactions.is_open:
        queue.woken.clear()
        try:
            await asyncio.wait_for(queue.woken.wait(), _PREPARED_S)
        except TimeoutError:
            await queue.transactions.commit()  # of nothing
    return bool(queue.waiting) and not queue.broken


def _by_topic(emissions: Iterable[Emission]) -> list[Emission]:
    """One emission per topic: a partition's second record batch would wait for the answer to the first."""
    joined: dict[str, tuple[list[Output], list[int]]] = {}
    for topic, outputs, timestamps in emissions:
        if outputs:
            records, times = joined.setdefault(topic, ([], []))
            records.extend(outputs)
            times.extend(timestamps or ())
    return [Emission(topic, records, times or None) for topic, (records, times) in joined.items()]


def _last_offsets(batches: Sequence[ProcessedBatch], last: int) -> list[int]:
    """The changelog offset of each batch's last state, -1 without one; `last` is that of the last batch."""
    offsets = []
    for batch in reversed(batches):
        count = 0 if batch.changelog is None else len(batch.changelog.outputs)
        offsets.append(last if count else -1)
        last -= count
    return offsets[::-1]


async def _send(sender: KafkaSender, emission: Emission, number: int) -> Awaitable[int]:
    return await sender.send(emission.topic, number, emission.outputs, emission.timestamps)
