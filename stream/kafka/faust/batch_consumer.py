"""Batch delivery: what one fetch returned for a source partition travels through Faust as ONE message.

Faust spends 100-200 us of Python on every message before an agent sees it; with batches it spends that once per thousand records.
`BatchConsumer` is mixed into Faust's Kafka consumer (`stream.kafka.faust.transport`) and into the embedded one. It does not know
what the records mean.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from faust.types import TP, ConsumerMessage

from stream.kafka.cluster.partition import Partition
from stream.kafka.faust.batch_transport import BatchTransport

_RECHECK_S: Final = 0.1


class BatchConsumer:
    """Mixed in before a Faust `Consumer`: one message per fetched partition batch, value = the raw records.

    Changelogs do not come through it: `stream.kafka.faust.recovery` reads them.
    """

    app: Any
    transport: BatchTransport
    resume_at: Mapping[Partition, int] = MappingProxyType({})
    """Where partitions are read on whatever is committed; set before each seek to the committed offsets."""
    _held: set[TP] | None = None
    _stops = 0

    def stop_flow(self) -> None:
        """Called at each revocation. Counted, because a group may assign the same partitions again in the same generation."""
        self._stops += 1
        super().stop_flow()  # type: ignore[misc]

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:  # noqa: ASYNC109  (Faust's signature)
        """Yields what one fetch returned, batch by batch; drops the rest, which is fetched again, once the generation changed."""
        consumer: Any = self
        await self._read_on_released()
        records, _ = await consumer._wait_next_records(timeout)
        generation, stops = self.app.consumer_generation_id, self._stops
        if records is None or consumer.should_stop:
            return
        for tp, found in [*records.items(), *((tp, ()) for tp in self._advanced_without_records(records))]:
            fetched = await self._without_waiting(tp, found, generation, stops)
            if found and not fetched:
                continue
            await self._wait_for_room(tp.partition, generation, stops)
            if not self._flows(generation, stops):
                return
            yield tp, self._batch_message(tp, list(fetched))

    async def _without_waiting(self, tp: TP, records: Sequence[Any], generation: int, stops: int) -> Sequence[Any]:
        """The records before the first whose schema is not known; from there on the partition waits."""
        gate = self.transport.fetch_policy.gate
        if gate is None or not records:
            return records
        index = await gate.first_waiting((tp.topic, tp.partition), records)
        if index is None:
            return records
        if self._flows(generation, stops) and await self._wait_at(tp, records[index].offset):
            gate.hold((tp.topic, tp.partition), records[index])
        return records[:index]

    async def _read_on_released(self) -> None:
        gate = self.transport.fetch_policy.gate
        if gate is not None and (released := gate.released()):
            await self.retry(released)

    async def _wait_at(self, tp: TP, offset: int) -> bool:
        """Seeks an offset of the last fetch and fetches nothing of the partition until `retry`. False: it was assigned anew."""
        raise NotImplementedError

    def _flows(self, generation: int, stops: int) -> bool:
        """Whether no revocation has come since the generation and the count of stops were as given."""
        consumer: Any = self
        return consumer.flow_active and self._stops == stops and self.app.consumer_generation_id == generation

    def _next_offset(self, tp: TP, records: list[Any]) -> int:
        """The offset to commit once the records of a fetch are durable."""
        del tp
        offset: int = records[-1].offset + 1
        return offset

    def _advanced_without_records(self, fetched: Iterable[TP]) -> list[TP]:
        """Partitions that advanced over control records only; an empty batch commits the offset so that lag reaches zero."""
        del fetched
        return []

    async def _wait_for_room(self, partition: int, generation: int, stops: int) -> None:
        """Waits until the partition number may have another batch in flight, or a revocation came."""
        consumer: Any = self
        in_flight = self.transport.fetch_policy.in_flight
        while (
            not consumer.should_stop
            and self._flows(generation, stops)
            and sum(1 for message in consumer._unacked_messages if message.partition == partition) >= in_flight
        ):
            await consumer._wait_for_ack(_RECHECK_S)
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
        """Whether the worker's assignment is still that of a generation."""
        return bool(self.app.consumer_generation_id == generation)

    async def retry(self, partitions: Iterable[tuple[str, int]]) -> None:
        """Fetches partitions again that stopped at a corrupt batch, or waited for a schema."""

    def is_member(self) -> bool:
        """Whether the group has answered a heartbeat within the session timeout."""
        return True

    def is_answered(self) -> bool:
        """Whether the group answers heartbeats now."""
        return True

    async def positions(self, tps: Iterable[TP]) -> Mapping[TP, int]:
        """The next offsets to fetch, of assigned partitions that have one yet."""
        raise NotImplementedError

    async def committed_offsets(self, partitions: Iterable[Partition]) -> Mapping[Partition, int]:
        """The group's committed offsets; 0: none."""
        raise NotImplementedError

    async def committed_metadata(self, partitions: Iterable[Partition]) -> Mapping[Partition, str]:
        """What the group committed beside its offsets; empty: nothing."""
        raise NotImplementedError

    def reconnections(self, partition: Partition) -> int:
        """How often the connection to the partition's leader was replaced; its log may be another one since."""
        del partition
        return 0

    def abandon(self, message: Any) -> None:
        """Stops waiting for a message that will not be acknowledged here: a rebalance that waited for it would never end."""
        consumer: Any = self
        consumer._unacked_messages.discard(message)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Nothing: the offsets between two batches' last ones are the records of the second batch."""

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
        """Until `release_resume`, collects the partitions to resume instead of resuming them; used by recovery."""
        self._held = set()

    def release_resume(self, *, resume: bool) -> None:
        """Resumes what was collected, or forgets it."""
        held, self._held = self._held, None
        if resume and held:
            self.resume_partitions(held)

    def resume_partitions(self, tps: Any) -> None:
        if self._held is not None:
            self._held.update(tps)
            return
        super().resume_partitions(tps)  # type: ignore[misc]
