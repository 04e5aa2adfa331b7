"""How far a consumer group is behind, from the broker's committed and end offsets."""

import time
from collections.abc import Callable, Iterable, Mapping
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
from kafka.protocol.consumer import IsolationLevel

from stream.errors import IsthmusError
from stream.kafka.cluster.topics import admin_client

NO_GROUP_YET: Final = (CoordinatorLoadInProgressError, CoordinatorNotAvailableError, GroupIdNotFoundError, NotCoordinatorError)
"""A broker's answers for a while after its start, and before a group's first commit."""
_AGAIN_S: Final = 0.2


def from_coordinator(ask: Callable[[], Mapping[Any, Any]], wait_s: float, whose: str, to_do: str) -> Mapping[Any, Any]:
    """The answer of the broker that keeps a group, which a new or restarted one gives after a while; empty without a group.

    Args:
        ask: Asks it.
        wait_s: For how long it is asked again.
        whose: What it keeps, for the error.
        to_do: What to do then.

    Raises:
        IsthmusError: it does not come up.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return ask()
        except GroupIdNotFoundError:
            return {}
        except NO_GROUP_YET as error:
            if time.monotonic() > deadline:
                raise IsthmusError(f"no broker keeps {whose} ({type(error).__name__}): {to_do}") from error
            time.sleep(_AGAIN_S)


class GroupLag(NamedTuple):
    """A group's offsets, summed over all partitions of some topics.

    Attributes:
        committed: Records that the group has committed.
        end: Records that were ever written.
    """

    committed: int
    end: int

    @property
    def lag(self) -> int:
        return self.end - self.committed


def group_lag(bootstrap: str, group: str, topics: Iterable[str]) -> GroupLag:
    """A group's lag over all partitions of the topics; deleted records count as if they were still there.

    Raises:
        IsthmusError: the offsets cannot be read.
    """
    admin = admin_client(bootstrap)
    try:
        described = admin.describe_topics(list(topics))
        partitions = [
            TopicPartition(topic["name"], number["partition_index"]) for topic in described for number in topic["partitions"]
        ]
        committed, ends = committed_and_end_offsets(admin, group, partitions)
    except KafkaError as error:
        raise IsthmusError(f"offsets at {bootstrap} cannot be read ({type(error).__name__})") from error
    finally:
        admin.close()
    return GroupLag(sum(committed.values()), sum(ends.values()))


def committed_and_end_offsets(admin: Any, group: str, partitions: list[Any]) -> tuple[dict[Any, int], dict[Any, int]]:
    """A group's committed offsets (partitions without one are left out or 0) and the end offsets, by topic partition."""
    ends = {tp: end.offset for tp, end in admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST)).items()}
    try:
        groups = admin.list_group_offsets({group: partitions})
    except NO_GROUP_YET:
        return {}, ends
    committed = groups.get(group, groups)
    return {tp: max(0, offset.offset) for tp, offset in committed.items()}, ends


def group_offsets(admin: Any, group: str, partitions: list[Any]) -> tuple[dict[Any, int], dict[Any, int], dict[Any, int]]:
    """A group's committed offsets, the ends and the last stable offsets, by topic partition. All that is committed is stable."""
    committed, ends = committed_and_end_offsets(admin, group, partitions)
    behind = [tp for tp in partitions if committed.get(tp, 0) != ends[tp]]
    return committed, ends, {**ends, **(last_stable_offsets(admin, behind) if behind else {})}


def last_stable_offsets(admin: Any, partitions: list[Any]) -> dict[Any, int]:
    """By topic partition, the offset of the first record of an open transaction, or the end where none is open."""
    specs = dict.fromkeys(partitions, OffsetSpec.LATEST)
    found = admin.list_partition_offsets(specs, isolation_level=IsolationLevel.READ_COMMITTED)
    return {tp: stable.offset for tp, stable in found.items()}
