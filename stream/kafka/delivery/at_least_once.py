"""At least once: a computed batch is made durable in one order, and only then is its source message acknowledged.

Outputs, changelog, RocksDB, offset: were the state durable before its outputs, a crash in between would skip the records after
the restart and their recommendations would be lost. Exactly once, `stream.kafka.delivery.exactly_once`, is the other way.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mode import get_logger

from stream.kafka.faust.batch_consumer import Emission, Sender
from stream.metrics import Metrics

logger = get_logger(__name__)
_LOOK_AGAIN_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class ProcessedBatch:
    """What a computed batch leaves to do before its source message may be acknowledged.

    `persist` writes the states to the local store; it is given the changelog offset of the last of them (-1: none).
    """

    event: Any
    outputs: Sequence[Emission]
    changelog: Emission | None = None
    persist: Callable[[int], None] | None = None


class Delivery(Protocol):
    """Makes the work of batches durable, in the order in which it is given for a partition number.

    An error crashes the app: a restart delivers again what was not acknowledged. `repeats`: outputs may have been sent whose states
    nobody kept.
    """

    repeats: bool

    async def take(self, numbers: Iterable[int]) -> None:
        """Called with the partition numbers of each assignment before anything of them is read."""

    def is_current(self, message: Any) -> bool:
        """Whether the partition is still ours as it was when the message was fetched."""

    async def deliver(self, work: ProcessedBatch) -> None: ...

    def forget(self) -> None:
        """Called at each revocation: what is in flight is delivered again, here or elsewhere."""

    async def close(self) -> None: ...


class MembershipGuard:
    """Whether a batch may still be sent: its partition is ours as it was when the batch was fetched, and the group knows it.

    A worker that was paused past its session timeout wakes up with batches of partitions that went to another. Nothing on the
    broker stops them in this mode: so no send without a heartbeat younger than the session timeout.
    """

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    def is_current(self, message: Any) -> bool:
        """Whether its partition is still held as it was; where not, nobody waits for the batch any longer."""
        consumer = self._app.consumer
        if consumer.holds(message.generation_id):
            return True
        consumer.abandon(message)
        return False

    async def may_send(self, message: Any) -> bool:
        """Waits where the last heartbeat is too old, until the group has answered; False where the partition was lost."""
        consumer = self._app.consumer
        held = False
        while self.is_current(message):
            if consumer.is_member():
                return True
            if not held:
                held = True
                self._metrics.counter("late_batches", "held").inc()
                logger.warning("a batch of %s waits: no heartbeat within the session timeout", message.tp)
            await asyncio.sleep(_LOOK_AGAIN_S)
        self._metrics.counter("late_batches", "dropped").inc()
        return False


class AtLeastOnce:
    """The finishing of the batches of one partition *number* is a chain, in order: clicks-3 and purchases-3 hold the same users,
    and an older state must never follow a newer one. Computing the next batch does not wait for it.
    """

    repeats = True

    def __init__(self, app: Any, sender: Sender, metrics: Metrics) -> None:
        self._app = app
        self._sender = sender
        self._guard = MembershipGuard(app, metrics)
        self._last: dict[int, asyncio.Task[None]] = {}

    async def take(self, numbers: Iterable[int]) -> None:
        """Nothing: the group's word is all there is."""

    async def close(self) -> None:
        """Nothing to close: the producer is the app's."""

    def is_current(self, message: Any) -> bool:
        return self._guard.is_current(message)

    async def deliver(self, work: ProcessedBatch) -> None:
        """Hands the outputs over at once; all that follows waits for the former batch."""
        message = work.event.message
        if not await self._guard.may_send(message):
            return
        sent = [await self._send(emission, message.partition) for emission in work.outputs if emission.outputs]
        former = self._last.get(message.partition)
        self._last[message.partition] = asyncio.create_task(self._finish(former, work, sent))

    def forget(self) -> None:
        self._last.clear()

    async def _send(self, emission: Emission, partition: int) -> Any:
        return await self._sender.send(emission.topic, partition, emission.outputs, emission.timestamps)

    async def _finish(self, former: asyncio.Task[None] | None, work: ProcessedBatch, sent: list[Any]) -> None:
        """The order of durability."""
        message, offset = work.event.message, -1
        try:
            await asyncio.gather(*sent)  # 1. outputs
            if former is not None:
                await former
            if not await self._guard.may_send(message):
                return
            if work.changelog is not None:  # 2. changelog
                offset = await (await self._send(work.changelog, message.partition))
            if not await self._guard.may_send(message):  # a successor may have written before us: the store would skip that
                return
            if work.persist is not None:  # 3. RocksDB
                work.persist(offset)
            work.event.ack()  # 4. offset
        except Exception as error:
            logger.exception("a batch of %s could not be finished", message.tp)
            await self._app.crash(error)
            raise
