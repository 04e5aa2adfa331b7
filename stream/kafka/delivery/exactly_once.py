"""Exactly once: one Kafka transaction holds the outputs, the changelog and the source offsets of all batches of a partition number
that are waiting; only then come the local store and the acknowledgement.

Each partition number has a producer with a transactional id of its own. Whoever takes the number over fences it off, so that a
worker that was paused and wakes up cannot write any more. A transaction takes nearly as long for one record as for thousands, so
batches that arrive meanwhile share the next one.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    InvalidTxnState,
    OutOfOrderSequenceNumber,
    ProducerFenced,
)
from mode import get_logger

from stream.errors import IsthmusError
from stream.kafka.delivery.at_least_once import ProcessedBatch
from stream.kafka.faust.batch_consumer import Emission
from stream.kafka.faust.transport import KafkaSender
from stream.metrics import Metrics

logger = get_logger(__name__)
FENCES: Final = 5
"""So often without a committed transaction in between, and the worker stops: two deployments share one name."""
_ABORT_S: Final = 5.0
_GONE: Final = (ProducerFenced, InvalidProducerEpoch, InvalidProducerIdMapping, InvalidTxnState, OutOfOrderSequenceNumber)
"""Another producer has the transactional id, or the broker has given the transaction up."""


@dataclass
class TransactionQueue:
    """One partition number as it was taken in one assignment: its producer and the batches that wait for the next transaction."""

    producer: AIOKafkaProducer
    waiting: list[ProcessedBatch] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    broken: bool = False


class ExactlyOnce:
    """`stream.kafka.delivery.at_least_once.Delivery` by transactions. `new_producer` makes one for a transactional id."""

    repeats = False

    def __init__(self, app: Any, new_producer: Callable[[str], AIOKafkaProducer], metrics: Metrics) -> None:
        self._app = app
        self._new_producer = new_producer
        self._metrics = metrics
        self._lines: dict[int, TransactionQueue] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._fences = 0

    async def take(self, numbers: Iterable[int]) -> None:
        """Fences off whoever had the partition numbers, and waits until the transactions that were open are settled."""
        self.forget()
        await asyncio.gather(*(self._open(number) for number in sorted(numbers)))

    async def _open(self, number: int) -> None:
        producer = self._new_producer(f"{self._app.conf.id}-{number}")
        try:
            await producer.start()
        except BaseException:  # another rebalance came
            self._close(producer)
            raise
        self._lines[number] = TransactionQueue(producer)

    def _close(self, producer: AIOKafkaProducer) -> None:
        closing = asyncio.create_task(producer.stop())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def forget(self) -> None:
        """Leaves all lines; what they still hold is delivered again, here or elsewhere."""
        lines, self._lines = self._lines, {}
        for line in lines.values():
            line.broken = True
            self._abandon(line.waiting)
            line.waiting = []
            self._close(line.producer)

    async def close(self) -> None:
        self.forget()
        await asyncio.wait([asyncio.create_task(asyncio.sleep(0)), *self._closing], timeout=_ABORT_S)

    def is_current(self, message: Any) -> bool:
        """As it was; a batch that is not is waited for no longer."""
        if self._app.consumer.holds(message.generation_id):
            return True
        self._app.consumer.abandon(message)
        return False

    def _abandon(self, works: Iterable[ProcessedBatch]) -> None:
        for work in works:
            self._app.consumer.abandon(work.event.message)

    async def deliver(self, work: ProcessedBatch) -> None:
        line = self._lines.get(work.event.message.partition)
        if line is None or line.broken:
            self._abandon([work])
            return
        line.waiting.append(work)
        if line.task is None or line.task.done():
            line.task = asyncio.create_task(self._run(line))

    async def _run(self, line: TransactionQueue) -> None:
        """Transaction after transaction, each with all that waits."""
        works: list[ProcessedBatch] = []
        try:
            while line.waiting:
                works, line.waiting = line.waiting, []
                await self._transact(line.producer, works)
                self._fences = 0
        except Exception as error:
            left, line.broken = line.broken, True
            self._abandon([*works, *line.waiting])
            line.waiting = []
            if left:  # at a revocation; its producer was closed, or the next one fenced it off
                return
            if isinstance(error, _GONE) or isinstance(error.__cause__, _GONE):
                await self._rejoin(works)
                return
            logger.exception("a transaction of %s failed", works[0].event.message.tp)
            with suppress(Exception):
                await asyncio.wait_for(line.producer.abort_transaction(), _ABORT_S)
            await self._app.crash(error)
            raise

    async def _transact(self, producer: AIOKafkaProducer, works: list[ProcessedBatch]) -> None:
        """The order of durability: outputs, changelog and source offsets at once, the store, the acknowledgement."""
        sender = KafkaSender(lambda: producer)
        await producer.begin_transaction()
        # The offsets first: that the markers of the last transaction are still being written is met with a short wait there.
        await producer.send_offsets_to_transaction(_offsets(works), self._app.conf.id)
        outputs = [await _send(sender, emission, work) for work in works for emission in work.outputs if emission.outputs]
        changelogs = [await _send(sender, work.changelog, work) if work.changelog else _none() for work in works]
        await asyncio.gather(*outputs)
        ends = await asyncio.gather(*changelogs)
        await producer.commit_transaction()
        for work, end in zip(works, ends, strict=True):
            if self.is_current(work.event.message):
                if work.persist is not None:
                    work.persist(end)
                work.event.ack()

    async def _rejoin(self, works: list[ProcessedBatch]) -> None:
        """Fenced: asks the group anew whose the partitions are; what is ours is fetched again from the last committed offset."""
        tp = works[0].event.message.tp
        self._metrics.counter("late_batches", "fenced").inc(len(works))
        self._fences += 1
        if self._fences >= FENCES:
            await self._app.crash(
                IsthmusError(
                    f"partition number {tp.partition}: another producer takes {self._app.conf.id}-{tp.partition} over again and "
                    "again although the group says that it is ours: does a second deployment use these topics?"
                )
            )
            return
        logger.warning(
            "fenced on %s: another worker has its partition number, or the broker gave the transaction up; rejoining", tp
        )
        if self.is_current(works[0].event.message):
            await self._app.consumer.rejoin()


def _offsets(works: list[ProcessedBatch]) -> dict[TopicPartition, int]:
    """The next offset of each source partition."""
    messages = [work.event.message for work in works]
    return {TopicPartition(message.topic, message.partition): message.offset + 1 for message in messages}


async def _send(sender: KafkaSender, emission: Emission, work: ProcessedBatch) -> Awaitable[int]:
    return await sender.send(emission.topic, work.event.message.partition, emission.outputs, emission.timestamps)


async def _none() -> int:
    return -1
