"""Membership in a consumer group by itself: which partitions are this process's, and what the group remembers of each.

The member fetches nothing. Records are read by `stream.kafka.cluster.kafka_log_reader`, from positions that a store keeps.
"""

import asyncio
from collections.abc import Collection
from typing import Any, Final

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata

from stream.kafka.cluster.clients import async_consumer
from stream.kafka.cluster.partition import Partition

_WAIT_S: Final = 30.0
_IDLE_MS: Final = 86_400_000  # a member that fetches nothing looks idle to aiokafka
_REBALANCE_MS: Final = 60_000


class GroupMembership:
    """One member of a group. Every method raises OSError where the broker does not answer."""

    def __init__(self, bootstrap: str, group: str, *topics: str) -> None:
        self._bootstrap = bootstrap
        self._group = group
        self._topics = topics
        self._consumer: Any = None
        self._listener = _Listener()

    @property
    def in_use(self) -> asyncio.Lock:
        """Held while something is done that the next owner of a partition must not overtake: partitions are given up after it."""
        return self._listener.in_use

    @property
    def version(self) -> int:
        """Counts the assignments: another number means other partitions, or that they are being assigned anew."""
        return self._listener.version

    async def partitions(self) -> frozenset[Partition]:
        """Joins at the first call; returns the assigned partitions once they are assigned."""
        if self._consumer is None:
            await self._join()
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._listener.is_assigned.wait()
        except TimeoutError:
            raise ConnectionError(f"{self._bootstrap} assigned no partitions to the group {self._group} yet") from None
        return self._listener.assigned

    async def _join(self) -> None:
        consumer = async_consumer(
            bootstrap=self._bootstrap,
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            max_poll_interval_ms=_IDLE_MS,
            rebalance_timeout_ms=_REBALANCE_MS,
        )
        self._listener.consumer = consumer
        consumer.subscribe(list(self._topics), listener=self._listener)
        try:
            await consumer.start()
        except KafkaError as error:
            await consumer.stop()
            raise self._silent(error) from error
        self._consumer = consumer

    async def commit(self, partition: Partition, offset: int, note: str) -> None:
        """Keeps an offset and a note in the group; refused, as an OSError, where the partition is another member's by now."""
        try:
            await self._consumer.commit({TopicPartition(*partition): OffsetAndMetadata(offset, note)})
        except KafkaError as error:
            raise self._silent(error) from error

    async def note(self, partition: Partition) -> str | None:
        """Returns the note that was last kept with an offset; None: none was, or the group has forgotten it."""
        tp = TopicPartition(*partition)
        try:
            async with asyncio.timeout(_WAIT_S):
                kept = await self._consumer._coordinator.fetch_committed_offsets([tp])  # `committed` gives the offset alone
        except KafkaError as error:
            raise self._silent(error) from error
        return kept[tp].metadata if tp in kept else None

    async def close(self) -> None:
        """Leaves the group, so that the others take over at once."""
        if self._consumer is not None:
            consumer, self._consumer = self._consumer, None
            await consumer.stop()

    def _silent(self, error: KafkaError) -> OSError:
        return ConnectionError(f"the broker at {self._bootstrap} refuses the group {self._group} ({type(error).__name__})")


class _Listener(ConsumerRebalanceListener):
    """Notes assignments, and pauses the partitions before the member would fetch them."""

    def __init__(self) -> None:
        self.consumer: Any = None
        self.version = 0
        self.assigned: frozenset[Partition] = frozenset()
        self.is_assigned = asyncio.Event()
        self.in_use = asyncio.Lock()

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        del revoked
        self.version += 1
        self.is_assigned.clear()
        async with self.in_use:
            pass

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self.consumer.pause(*assigned)
        self.assigned = frozenset((one.topic, one.partition) for one in assigned)
        self.version += 1
        self.is_assigned.set()
