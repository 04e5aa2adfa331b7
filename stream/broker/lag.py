"""How far a group is behind: end offsets less committed ones, as the broker tells them."""

from collections.abc import Iterable
from typing import Any

from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import CoordinatorNotAvailableError, GroupIdNotFoundError, KafkaError

from stream.broker.topics import admin_client
from stream.errors import IsthmusError


def group_lag(bootstrap: str, group: str, topics: Iterable[str]) -> int:
    """Records of the topics that the group has not committed."""
    admin = admin_client(bootstrap)
    try:
        described = admin.describe_topics(list(topics))
        partitions = [
            TopicPartition(topic["name"], number["partition_index"]) for topic in described for number in topic["partitions"]
        ]
        ends = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        committed = _committed(admin, group, partitions)
    except KafkaError as error:
        raise IsthmusError(f"offsets at {bootstrap} cannot be read ({type(error).__name__})") from error
    finally:
        admin.close()
    return sum(max(0, ends[partition].offset - committed.get(partition, 0)) for partition in partitions)


def _committed(admin: Any, group: str, partitions: list[Any]) -> dict[Any, int]:
    try:
        found = admin.list_group_offsets({group: partitions})
    except (CoordinatorNotAvailableError, GroupIdNotFoundError):
        return {}
    offsets = found.get(group, found)
    return {partition: max(0, offset.offset) for partition, offset in offsets.items()}
