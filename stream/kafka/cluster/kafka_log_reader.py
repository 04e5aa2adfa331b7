"""`LogReader` on Kafka: an aiokafka consumer without a group that keeps no offsets, of all partitions or those of a group's member.

Records that do not parse are logged and left out: the key keeps its former value. A damaged batch, which may have held deletions,
is passed over only where an operator gave it up.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from stream.core import limits
from stream.core.unreadable import readable
from stream.kafka.cluster import batch_reading
from stream.kafka.cluster.clients import READ_COMMITTED, async_consumer
from stream.kafka.cluster.corrupt_batches import RaiseAtCorruptBatch, StoppedPartitions
from stream.kafka.cluster.group_membership import GroupMembership
from stream.kafka.cluster.log_reader import Bounds, Fetched, PartitionsChanged
from stream.kafka.cluster.skips import read_skips
from stream.kafka.cluster.stopped_reading import StopsAtDamage
from stream.kafka.cluster.view import KafkaClusterView

_WAIT_MS: Final = 500
_RECORDS: Final = 2_000  # per fetch: applied between two answers of the API


class KafkaLogReader:
    """Reads all partitions of topics from given positions; with a `membership`, those that its group assigns.

    `records` bounds a fetch. At a damaged batch its partition stops and is noted in `stopped`; without `stopped`, as commands
    read, `fetch` raises CorruptBatchError.
    """

    def __init__(
        self,
        bootstrap: str,
        membership: GroupMembership | None = None,
        records: int = _RECORDS,
        stopped: StoppedPartitions | None = None,
    ) -> None:
        self._bootstrap = bootstrap
        self._membership = membership
        self._version = 0
        self._records = records
        self._consumer: Any = None
        self._stopped = stopped
        self._damage: StopsAtDamage | None = None
        self._view = KafkaClusterView(bootstrap, "")
        self._read_to_end: dict[tuple[str, int], int] = {}

    async def open(self, topics: Iterable[str]) -> Mapping[tuple[str, int], Bounds]:
        await self._stop_consumer()
        self._read_to_end.clear()  # of the former positions
        batch_reading.install()
        self._consumer = async_consumer(
            bootstrap=self._bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level=READ_COMMITTED,
            max_partition_fetch_bytes=limits.RECORD_BYTES,
            check_crcs=RaiseAtCorruptBatch(partial(read_skips, self._bootstrap)),
        )
        self._damage = StopsAtDamage(self._consumer, self._stopped, self._view) if self._stopped is not None else None
        try:
            await self._consumer.start()
            numbers = {topic: self._consumer.partitions_for_topic(topic) or await self._partitions(topic) for topic in topics}
            partitions = [TopicPartition(topic, number) for topic, found in numbers.items() for number in sorted(found)]
            partitions = await self._ours(partitions)
            if self._stopped is not None:
                self._stopped.forget(numbers)
            if not partitions:
                return {}  # the group has more members than partitions
            self._consumer.assign(partitions)
            begins = await self._consumer.beginning_offsets(partitions)
            ends = await self._consumer.end_offsets(partitions)
        except KafkaError as error:
            raise self._silent(error) from error
        return {(one.topic, one.partition): Bounds(begins[one], ends[one]) for one in partitions}

    async def _ours(self, partitions: list[TopicPartition]) -> list[TopicPartition]:
        if self._membership is None:
            return partitions
        assigned = await self._membership.partitions()
        self._version = self._membership.version
        return [one for one in partitions if (one.topic, one.partition) in assigned]

    async def epochs(self, topics: Iterable[str]) -> Mapping[str, int]:
        return await self._view.epochs(topics)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._consumer.seek(TopicPartition(topic, partition), offset)

    async def fetch(self) -> list[Fetched]:
        self.check_partitions()
        if not self._consumer.assignment():
            await asyncio.sleep(_WAIT_MS / 1_000)
            return []
        if self._damage is not None:
            await self._damage.retry()
        try:
            fetched = await self._consumer.getmany(timeout_ms=_WAIT_MS, max_records=self._records)
            batches = [
                Fetched(one.topic, one.partition, readable(records), await self._consumer.position(one))
                for one, records in fetched.items()
            ]
            await self._note_ends()
            self._note_read(batches)
        except KafkaError as error:
            raise self._silent(error) from error
        return batches

    def check_partitions(self) -> None:
        """Raises PartitionsChanged where the partitions are no longer those that `open` returned."""
        if self._membership is not None and self._membership.version != self._version:
            raise PartitionsChanged("the group assigns partitions anew")

    def read_to_end_at(self, topic: str, partition: int) -> int | None:
        return self._read_to_end.get((topic, partition))

    async def close(self) -> None:
        await self._stop_consumer()
        await self._view.close()
        if self._membership is not None:
            await self._membership.close()

    async def _note_ends(self) -> None:
        self._read_to_end.clear()
        for one in self._consumer.assignment():
            stable = self._consumer.last_stable_offset(one)
            asked_at = self._consumer.last_poll_timestamp(one)
            if stable is not None and asked_at is not None and await self._consumer.position(one) >= stable:
                self._read_to_end[one.topic, one.partition] = min(asked_at, int(time.time() * 1_000))

    def _note_read(self, batches: Iterable[Fetched]) -> None:
        if self._damage is not None:
            for one in batches:
                self._damage.note_read(TopicPartition(one.topic, one.partition), one.next_offset)

    async def _partitions(self, topic: str) -> set[int]:
        metadata = await self._consumer._client.fetch_all_metadata()
        found = metadata.partitions_for_topic(topic)
        if not found:
            raise ConnectionError(f"{topic} at {self._bootstrap} is missing: run `isthmus topics`")
        return set(found)

    async def _stop_consumer(self) -> None:
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.stop()

    def _silent(self, error: KafkaError) -> OSError:
        return ConnectionError(f"the broker at {self._bootstrap} cannot be read ({type(error).__name__})")
