"""Batch delivery: what one fetch returned for a source partition travels through Faust as ONE message.

Faust spends 100-200 us of Python on every message before an agent sees it; with batches it spends that once per thousand records.
Shared by both transports: `BatchConsumer` is mixed into Faust's Kafka consumer (`stream.kafka.faust.transport`) and into the
embedded one.
It knows nothing of what the records mean.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol

from faust.types import TP, ConsumerMessage
from mode import get_logger

from stream.core.outputs import Output

logger = get_logger(__name__)
_LOOK_AGAIN_S: Final = 0.1


class Emission(NamedTuple):
    """Outputs for one topic; `timestamps` in ms where the records are not to carry the time of sending."""

    topic: str
    outputs: Sequence[Output]
    timestamps: Sequence[int] | None = None


class Sender(Protocol):
    """Appends outputs to one partition of a topic, in order.

    The first await hands them over (back-pressure), the second one waits until the broker has acknowledged them and gives the
    offset of the last (-1 where there was none).
    """

    async def send(
        self, topic: str, partition: int, outputs: Sequence[Output], timestamps: Sequence[int] | None = None
    ) -> Awaitable[int]: ...


class BatchConsumer:
    """Mixed in before a Faust `Consumer`: one message per fetched partition batch, value = the raw records.

    Changelogs are read elsewhere (`stream.kafka.faust.recovery`). `in_flight` bounds the unacknowledged batches per
    partition *number*: a quiet stream gets small batches at once, a busy one large ones (natural batching).
    """

    in_flight = 6
    app: Any
    _held: set[TP] | None = None
    _stops = 0

    def stop_flow(self) -> None:
        """At each revocation. Counted, for a group may give the same partitions again in the same generation."""
        self._stops += 1
        super().stop_flow()  # type: ignore[misc]

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109  (Faust's signature)
        """What one fetch returned, batch by batch; the rest is dropped when the generation changes (it is fetched again)."""
        consumer: Any = self
        records, _ = await consumer._wait_next_records(timeout)
        generation, stops = self.app.consumer_generation_id, self._stops
        if records is None or consumer.should_stop:
            return
        for tp, fetched in [*records.items(), *((tp, ()) for tp in self._passed(records))]:
            await self._room(tp.partition, generation, stops)
            if not self._flows(generation, stops):
                return
            yield tp, self._batch_message(tp, list(fetched))

    def _flows(self, generation: int, stops: int) -> bool:
        """Whether no revocation has come since the generation and the count of stops were as given."""
        consumer: Any = self
        return consumer.flow_active and self._stops == stops and self.app.consumer_generation_id == generation

    def _next_offset(self, tp: TP, records: list[Any]) -> int:
        """What to commit once the records of a fetch are finished."""
        del tp
        offset: int = records[-1].offset + 1
        return offset

    def _passed(self, fetched: Iterable[TP]) -> list[TP]:
        """Partitions whose position moved though nothing of them was fetched, over what only transactions need: an empty batch
        each, so that the group's lag becomes nought.
        """
        del fetched
        return []

    async def _room(self, partition: int, generation: int, stops: int) -> None:
        """Waits until the partition number has a batch less in flight, or a revocation came."""
        consumer: Any = self
        while (
            not consumer.should_stop
            and self._flows(generation, stops)
            and sum(1 for message in consumer._unacked_messages if message.partition == partition) >= self.in_flight
        ):
            await consumer._wait_for_ack(_LOOK_AGAIN_S)
            consumer._clean_unacked_messages()

    def _batch_message(self, tp: TP, records: list[Any]) -> ConsumerMessage:
        timestamp_ms = records[-1].timestamp if records else 0
        return ConsumerMessage(
            topic=tp.topic,
            partition=tp.partition,
            offset=self._next_offset(tp, records) - 1,
            timestamp=timestamp_ms / 1_000,
            timestamp_type=0,
            headers=None,
            key=None,
            value=records,
            checksum=None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    def holds(self, generation: int) -> bool:
        """Whether the partitions are still ours as they were assigned in a generation."""
        return bool(self.app.consumer_generation_id == generation)

    def is_member(self) -> bool:
        """Whether the group is known to count us in."""
        return True

    def abandon(self, message: Any) -> None:
        """A batch that is not finished here is acknowledged by nobody: a rebalance that waited for it would never end."""
        consumer: Any = self
        consumer._unacked_messages.discard(message)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: between the last offsets of two batches lie the records of the second."""

    def _new_offset(self, tp: TP) -> int | None:
        """What to commit: one past the last acknowledged batch. Batches of a partition are acknowledged in order."""
        consumer: Any = self
        acked: list[int] = consumer._acked[tp]
        if not acked:
            return None
        last = max(acked)
        acked.clear()
        consumer._acked_index[tp].clear()
        return last + 1

    def hold_resume(self) -> None:
        """From now on remembers which partitions were to be resumed instead of resuming them (see `recovery`)."""
        self._held = set()

    def release_resume(self, *, resume: bool) -> None:
        held, self._held = self._held, None
        if resume and held:
            self.resume_partitions(held)

    def resume_partitions(self, tps: Any) -> None:
        if self._held is not None:
            self._held.update(tps)
            return
        super().resume_partitions(tps)  # type: ignore[misc]


async def last_offset(futures: Sequence[Awaitable[Any]], counts: Sequence[int]) -> int:
    """The offset of the last record of batches sent to one partition, once all are acknowledged."""
    last = -1
    for sent, count in zip(await asyncio.gather(*futures), counts, strict=True):
        last = sent.offset + count - 1
    return last
