"""An agent without state: it maps each batch to outputs, with the delivery guarantees of the profile agent. The encoder uses it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from stream.core.events import Source
from stream.core.records import Batch, PlainRecord, Record
from stream.core.watermarks import Watermark
from stream.kafka.agents.watchdog import Watchdog
from stream.kafka.delivery.committed_marks import CommittedMarks
from stream.kafka.delivery.contracts import Delivery, Emission, ProcessedBatch
from stream.kafka.faust.watermarks import Watermarks
from stream.metrics import Metrics


@dataclass(frozen=True, kw_only=True)
class StatelessContext:
    """What a stateless agent reads, does and writes.

    Attributes:
        topic: Its input topic.
        source: The source of its batches.
        epochs: Epoch of the topic, by its name.
        process: Returns the outputs of a batch.
        metrics: Where the app counts.
        output: The topic whose last record of a partition says how far that partition has been processed.
        watermark_of: Returns what such a record says; None if it says nothing.
        in_flight: Batches of one partition number that may be unacknowledged.
    """

    topic: str
    source: Source
    epochs: Mapping[str, int]
    process: Callable[[Batch], Sequence[Emission]]
    metrics: Metrics
    output: str
    watermark_of: Callable[[Record], Watermark | None]
    in_flight: int = 4


class StatelessAgent:
    """Processes one batch at a time, in order. Outputs go to the partition number of their batch.

    Processing runs in a thread, so that the event loop keeps sending heartbeats.
    """

    def __init__(
        self,
        app: Any,
        context: StatelessContext,
        watchdog: Watchdog,
        watermarks: Watermarks,
        delivery: Delivery,
        marks: CommittedMarks,
    ) -> None:
        self._app = app
        self._context = context
        self._watermarks = watermarks
        self._watchdog = watchdog
        self._delivery = delivery
        self._marks = marks
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="stateless-agent")
        app.on_partitions_revoked.connect(self._on_revoked)

    async def run(self, stream: Any) -> None:
        loop = asyncio.get_running_loop()
        async for event in stream.noack().events():
            message = event.message
            if not await self._watchdog.may_handle(message):
                self._app.consumer.abandon(message)
                continue
            epoch = self._watchdog.epochs[message.topic]
            partition = (message.topic, message.partition)
            boundaries = self._watermarks.boundaries(partition)
            batch = Batch(self._context.source, message.topic, epoch, message.partition, message.value, boundaries=boundaries)
            watermark = self._watermarks.advance(partition, message.value)
            emissions = await loop.run_in_executor(self._executor, self._context.process, batch)
            if watermark is not None:
                self._marks.add(partition, watermark, self._last_output(emissions))
            if self._delivery.is_current(message):
                await self._delivery.deliver(ProcessedBatch(event, emissions))

    def _last_output(self, emissions: Sequence[Emission]) -> Watermark | None:
        """What the last output of a batch will say when it is read again; None without one."""
        outputs = [output for emission in emissions if emission.topic == self._context.output for output in emission.outputs]
        return self._context.watermark_of(PlainRecord(0, -1, outputs[-1].key, outputs[-1].value)) if outputs else None

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self._delivery.drop_in_flight()
