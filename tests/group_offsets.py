"""Offsets of consumer groups, committed as an operator would by hand."""

from collections.abc import Mapping
from typing import Any

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from stream.kafka.cluster.lag import NO_GROUP_YET
from stream.services.child_processes import wait_for


def commit(admin: Any, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
    """Commits once the broker has a coordinator: a new one makes its topic of offsets when it is first asked."""

    def is_kept() -> bool:
        try:
            return not any(error.errno for error in admin.alter_group_offsets(group, dict(offsets)).values())
        except NO_GROUP_YET:
            return False

    wait_for(is_kept, [], 60, "the commit")
