"""At least once: each step of the order of durability waits for the one before (see the package docstring)."""

import asyncio
import logging
from collections.abc import Awaitable, Iterable

from stream.kafka.delivery.contracts import App, Emission, Message, ProcessedBatch, Sender
from stream.kafka.delivery.membership import MembershipGuard
from stream.metrics import Metrics

logger = logging.getLogger(__name__)


class AtLeastOnce:
    """`Delivery` without transactions.

    Outputs are sent at once. The steps after them form a chain per partition *number*: clicks-3 and purchases-3 hold the same
    users, and an older state must never follow a newer one. Computing the next batch does not wait for the chain.
    """

    repeats = True

    def __init__(self, app: App, sender: Sender, metrics: Metrics) -> None:
        self._app = app
        self._sender = sender
        self._guard = MembershipGuard(app, metrics)
        self._last: dict[int, asyncio.Task[None]] = {}

    async def acquire(self, numbers: Iterable[int]) -> None:
        """Nothing: without transactions there is no earlier owner to fence off."""

    async def close(self) -> None:
        """Nothing: the producer belongs to the app."""

    def is_current(self, message: Message) -> bool:
        return self._guard.is_current(message)

    async def deliver(self, batch: ProcessedBatch) -> None:
        message = batch.event.message
        if not await self._guard.may_send(message):
            return
        sent = [await self._send(emission, message.partition) for emission in batch.outputs if emission.outputs]
        previous = self._last.get(message.partition)
        self._last[message.partition] = asyncio.create_task(self._finish(previous, batch, sent))

    def drop_in_flight(self) -> None:
        self._last.clear()

    async def _send(self, emission: Emission, partition: int) -> Awaitable[int]:
        return await self._sender.send(emission.topic, partition, emission.outputs, emission.timestamps)

    async def _finish(self, previous: asyncio.Task[None] | None, batch: ProcessedBatch, sent: list[Awaitable[int]]) -> None:
        """The order of durability."""
        message, offset = batch.event.message, -1
        try:
            await asyncio.gather(*sent)  # 1. outputs
            if previous is not None:
                await previous
            if not await self._guard.may_send(message):
                return
            if batch.changelog is not None:  # 2. changelog
                offset = await (await self._send(batch.changelog, message.partition))
            # If a successor wrote to the changelog before us, a store that claims our offset would never read its records.
            if not await self._guard.may_send(message):
                return
            if batch.persist is not None:  # 3. RocksDB
                batch.persist(offset)
            batch.event.ack()  # 4. source offset
        except Exception as error:
            logger.exception("a batch of %s could not be made durable", message.tp)
            await self._app.crash(error)
            raise
