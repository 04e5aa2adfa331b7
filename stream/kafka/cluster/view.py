"""What the log itself, not the consumer, which may be stuck, says of topics and a group: epochs, end and committed offsets.

`ClusterView` has two implementations: Kafka's, below, and `stream.kafka.embedded.cluster_view`.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Protocol

from kafka import TopicPartition

from stream.kafka.cluster.admin_requests import AdminRequests
from stream.kafka.cluster.corrupt_batches import Skip
from stream.kafka.cluster.lag import group_offsets
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.skips import skips_in
from stream.kafka.cluster.topics import TopicShape, epochs_of, shapes_of


class Offsets(NamedTuple):
    """Offsets by (topic, partition number).

    Attributes:
        committed: By the group.
        ends: Of all that was written.
        stable: Last stable offsets: up to there no transaction is open, and a consumer of committed records can read.
    """

    committed: Mapping[Partition, int]
    ends: Mapping[Partition, int]
    stable: Mapping[Partition, int]


class ClusterView(Protocol):
    """A view of one consumer group and its topics. Its methods raise OSError if the broker does not answer."""

    async def epochs(self, topics: Iterable[str]) -> dict[str, int]:
        """The epochs of the topics that exist."""
        ...

    async def shapes(self, topics: Iterable[str]) -> dict[str, TopicShape]:
        """The epochs and partition counts of the topics that exist."""
        ...

    async def offsets(self, partitions: Iterable[Partition]) -> Offsets: ...

    async def skips(self, partitions: Iterable[Partition], epochs: Mapping[str, int]) -> Mapping[Partition, Skip]:
        """What operators allow to skip of the partitions, as long as their topics have the given epochs."""
        ...

    async def close(self) -> None: ...


class KafkaClusterView:
    """A Kafka cluster's view. No call takes longer than `AdminRequests` allows, because one is made inside each rebalance."""

    def __init__(self, bootstrap: str, group: str, answer_s: float = 4.0) -> None:
        self._requests = AdminRequests(bootstrap, answer_s)
        self._group = group

    async def epochs(self, topics: Iterable[str]) -> dict[str, int]:
        described = await self._requests.request(lambda admin: admin.describe_topics(list(topics)))
        return epochs_of(described)

    async def shapes(self, topics: Iterable[str]) -> dict[str, TopicShape]:
        return shapes_of(await self._requests.request(lambda admin: admin.describe_topics(list(topics))))

    async def offsets(self, partitions: Iterable[Partition]) -> Offsets:
        tps = [TopicPartition(*partition) for partition in partitions]
        committed, ends, stable = await self._requests.request(group_offsets, self._group, tps)
        return Offsets(
            {(tp.topic, tp.partition): committed.get(tp, 0) for tp in tps},
            {(tp.topic, tp.partition): end for tp, end in ends.items()},
            {(tp.topic, tp.partition): offset for tp, offset in stable.items()},
        )

    async def skips(self, partitions: Iterable[Partition], epochs: Mapping[str, int]) -> Mapping[Partition, Skip]:
        skips: Mapping[Partition, Skip] = await self._requests.request(skips_in, list(partitions), epochs)
        return skips

    async def close(self) -> None:
        await self._requests.close()
