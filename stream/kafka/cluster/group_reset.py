"""What a reset asks and sets of consumer groups and logs: members, where inputs are read again, committed offsets."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.structs import OffsetAndMetadata

from stream.core.reset import NO_RECORD_MS
from stream.errors import IsthmusError
from stream.kafka.cluster.lag import NO_GROUP_YET, from_coordinator
from stream.kafka.cluster.partition import Partition

_COORDINATOR_S: Final = 15.0
_AGAIN_S: Final = 0.2
_UNKNOWN_MEMBER: Final = 25
"""The broker's answer where a group has members: only they may commit."""


class Start(NamedTuple):
    """Where a partition is read again: its first offset, and the Kafka timestamp there (`NO_RECORD_MS`: no record follows)."""

    offset: int
    first_ms: int


def members_of(admin: Any, groups: Iterable[str]) -> list[str]:
    """The living members of groups, in words."""
    return [
        f"{member['group_instance_id'] or member['client_id']} on {member['client_host'].lstrip('/')}, in the group {group}"
        for group in groups
        for member in _from_coordinator(partial(admin.describe_groups, [group])).get(group, {}).get("members", ())
    ]


def starts_of(admin: Any, partitions: Iterable[Partition], since_ms: int | None) -> dict[Partition, Start]:
    """Where partitions begin, or their first records from `since_ms` on by Kafka's time; a partition's end if there is none.

    Raises:
        KafkaError: the broker does not answer.
    """
    tps = [TopicPartition(*one) for one in partitions]
    begins = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.EARLIEST))
    firsts = admin.list_partition_offsets(dict.fromkeys(tps, max(0, since_ms or 0)))
    ends = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.LATEST))
    found = {}
    for tp in tps:
        first = firsts[tp]
        if first.offset < 0:
            found[tp.topic, tp.partition] = Start((begins if since_ms is None else ends)[tp].offset, NO_RECORD_MS)
        else:
            offset = begins[tp].offset if since_ms is None else first.offset
            found[tp.topic, tp.partition] = Start(offset, first.timestamp)
    return found


def ends_of(admin: Any, partitions: Iterable[Partition]) -> dict[Partition, int]:
    """Where partitions end."""
    tps = [TopicPartition(*one) for one in partitions]
    found = admin.list_partition_offsets(dict.fromkeys(tps, OffsetSpec.LATEST))
    return {(tp.topic, tp.partition): end.offset for tp, end in found.items()}


def set_offsets(admin: Any, group: str, offsets: Mapping[Partition, tuple[int, str]]) -> None:
    """Commits offsets with their metadata for a group without members.

    Raises:
        IsthmusError: it has members, or the broker refuses.
    """
    wanted = {TopicPartition(*one): OffsetAndMetadata(offset, text, None) for one, (offset, text) in offsets.items()}
    deadline = time.monotonic() + _COORDINATOR_S
    while errors := [one for one in _answers(admin, group, wanted) if one.errno]:
        if any(error.errno == _UNKNOWN_MEMBER for error in errors):
            raise IsthmusError(f"the group {group} has members again: stop them, then run the command again, which goes on")
        if not issubclass(errors[0], NO_GROUP_YET) or time.monotonic() > deadline:
            raise IsthmusError(f"the offsets of the group {group} could not be set ({errors[0].__name__}): run the command again")
        time.sleep(_AGAIN_S)


def _answers(admin: Any, group: str, wanted: Mapping[Any, Any]) -> list[Any]:
    return list(_from_coordinator(lambda: admin.alter_group_offsets(group, dict(wanted))).values())


def committed_offsets(admin: Any, group: str, partitions: Iterable[Partition]) -> dict[Partition, tuple[int, str]]:
    """A group's committed offsets with their metadata, of partitions that have one."""
    tps = [TopicPartition(*one) for one in partitions]
    found = _from_coordinator(lambda: admin.list_group_offsets({group: tps})).get(group, {})
    return {(tp.topic, tp.partition): (one.offset, one.metadata or "") for tp, one in found.items() if one.offset >= 0}


def _from_coordinator(ask: Callable[[], Mapping[Any, Any]]) -> Mapping[Any, Any]:
    return from_coordinator(ask, _COORDINATOR_S, "the groups yet", "try again")
