"""A stateless stage over batches, with the same delivery: compute in a thread, outputs acknowledged, then the source message.

The encoder runs on it. What it computes is a function from a batch to outputs; where they go is the same partition number.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from stream.core.events import Source
from stream.core.records import Batch
from stream.kafka.agents.watchdog import Watchdog
from stream.kafka.delivery.at_least_once import Delivery, ProcessedBatch
from stream.kafka.faust.batch_consumer import Emission


class StatelessAgent:
    """One agent's work: batches in order, one at a time in a thread of its own, so that heartbeats go on."""

    def __init__(self, app: Any, watch: Watchdog, delivery: Delivery, process: Callable[[Batch], Sequence[Emission]]) -> None:
        self._app = app
        self._watch = watch
        self._delivery = delivery
        self._process = process
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="processor")
        app.on_partitions_revoked.connect(self._on_revoked)

    async def run(self, stream: Any) -> None:
        loop = asyncio.get_running_loop()
        async for event in stream.noack().events():
            message = event.message
            if not await self._watch.may_handle(message):
                self._app.consumer.abandon(message)
                continue
            batch = Batch(Source.CALL, message.topic, self._watch.epochs[message.topic], message.partition, message.value)
            emissions = await loop.run_in_executor(self._thread, self._process, batch)
            if self._delivery.is_current(message):
                await self._delivery.deliver(ProcessedBatch(event, emissions))

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self._delivery.forget()
