"""The embedded log's view of a consumer group and its topics."""

from collections.abc import Iterable, Mapping

from stream.kafka.cluster.corrupt_batches import Skip
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.topics import TopicShape
from stream.kafka.cluster.view import Offsets
from stream.kafka.embedded.log import Log


class EmbeddedClusterView:
    """`stream.kafka.cluster.view.ClusterView` over an embedded log."""

    def __init__(self, log: Log, group: str) -> None:
        self._log = log
        self._group = group

    async def epochs(self, topics: Iterable[str]) -> dict[str, int]:
        return self._log.epochs([name for name in topics if name in self._log.topics])

    async def shapes(self, topics: Iterable[str]) -> dict[str, TopicShape]:
        counts = {name: len(self._log.topics[name].partitions) for name in topics if name in self._log.topics}
        return {name: TopicShape(epoch, counts[name]) for name, epoch in self._log.epochs(list(counts)).items()}

    async def offsets(self, partitions: Iterable[Partition]) -> Offsets:
        committed = self._log.committed.get(self._group, {})
        ends = {(topic, number): self._log.topics[topic].partitions[number].end for topic, number in partitions}
        return Offsets({partition: committed.get(partition, 0) for partition in ends}, ends, ends)

    async def skips(self, partitions: Iterable[Partition], epochs: Mapping[str, int]) -> Mapping[Partition, Skip]:
        del partitions, epochs
        return {}

    async def close(self) -> None:
        """Nothing to close."""
