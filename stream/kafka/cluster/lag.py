"""How far a group is behind: end offsets less committed ones, as the broker tells them."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    KafkaError,
    NotCoordinatorError,
)

from stream.errors import IsthmusError
from stream.kafka.cluster.topics import admin_client

_NO_GROUP_YET: Final = (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, GroupIdNotFoundError, NotCoordinatorError)
"""What a broker answers for a while after its start, or before a group's first commit."""


class GroupLag(NamedTuple):
    """Records that a group has committed of those that there are, over all partitions of some topics."""

    committed: int
    end: int

    @property
    def lag(self) -> int:
        return self.end - self.committed


def group_lag(bootstrap: str, group: str, topics: Iterable[str]) -> GroupLag:
    """How far a group is in the topics (as if none of their records had been deleted)."""
    admin = admin_client(bootstrap)
    try:
        described = admin.describe_topics(list(topics))
        partitions = [
            TopicPartition(topic["name"], number["partition_index"]) for topic in described for number in topic["partitions"]
        ]
        ends = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        committed = committed_offsets(admin, group, partitions)
    except KafkaError as error:
        raise IsthmusError(f"offsets at {bootstrap} cannot be read ({type(error).__name__})") from error
    finally:
        admin.close()
    return GroupLag(sum(committed.values()), sum(end.offset for end in ends.values()))


def committed_offsets(admin: Any, group: str, partitions: list[Any]) -> dict[Any, int]:
    """What a group has committed, by partition; nothing where it has not yet."""
    try:
        found = admin.list_group_offsets({group: partitions})
    except _NO_GROUP_YET:
        return {}
    offsets = found.get(group, found)
    return {partition: max(0, offset.offset) for partition, offset in offsets.items()}
