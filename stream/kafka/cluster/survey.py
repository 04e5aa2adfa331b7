"""What `isthmus doctor` asks a cluster. It only reads: it joins no group, and creates no topic.

Kafka makes its internal topic of offsets when it is first asked who keeps a group. So groups are asked for only where it exists, or
where this user may not see whether it does.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from kafka import TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import KafkaError

from stream.kafka.cluster.lag import from_coordinator
from stream.kafka.cluster.topics import TopicProblem, TopicSpec, admin_client, topic_problems

ANSWER_MS: Final = 5_000
_COORDINATOR_S: Final = 5.0
_OFFSETS_TOPIC: Final = "__consumer_offsets"
_LEAST: Final = "min.insync.replicas"
_RETENTION: Final = "retention.ms"
_UNKNOWN_TOPIC: Final = 3
_NOT_AUTHORIZED: Final = 29


class PartitionState(NamedTuple):
    """Who holds a partition.

    Attributes:
        topic: Its topic.
        number: Its number.
        has_leader: Whether a broker leads it: without one, nobody reads or writes it.
        in_sync: How many replicas are in sync.
        replicas: How many there should be.
        needed: How many must be in sync for a write (min.insync.replicas).
    """

    topic: str
    number: int
    has_leader: bool
    in_sync: int
    replicas: int
    needed: int = 1


class GroupPartition(NamedTuple):
    """A group's place in a partition.

    Attributes:
        topic: Its topic.
        number: Its number.
        start: The log's first offset.
        committed: What the group has committed; None: nothing.
        end: The log's end.
    """

    topic: str
    number: int
    start: int
    committed: int | None
    end: int

    @property
    def lag(self) -> int:
        """Records that the group has not committed; one without a commit begins at the log's start."""
        return max(0, self.end - max(self.start, self.committed or 0))


class GroupState(NamedTuple):
    """A consumer group: how many members it has, and its place in each partition."""

    members: int
    partitions: tuple[GroupPartition, ...] = ()


class Survey:
    """Questions to one cluster, over one connection.

    Raises:
        IsthmusError: no broker answers, or none lets this process in. KafkaError: here and below, a question has no answer.
    """

    def __init__(self, bootstrap: str) -> None:
        self._admin = admin_client(bootstrap, ANSWER_MS)

    def close(self) -> None:
        self._admin.close()

    def brokers(self) -> list[str]:
        """The addresses under which the brokers want to be reached."""
        return [f"{broker['host']}:{broker['port']}" for broker in self._admin.describe_cluster()["brokers"]]

    def topics(self, specs: Sequence[TopicSpec]) -> dict[str, list[TopicProblem]]:
        """What of each topic does not match its specification. A topic that this user may not describe is left out."""
        described = self._described(spec.name for spec in specs)
        counts = {name: None if topic["error_code"] else len(topic["partitions"]) for name, topic in described.items()}
        return {spec.name: topic_problems(self._admin, spec, counts[spec.name]) for spec in specs if spec.name in described}

    def partitions(self, topics: Iterable[str]) -> list[PartitionState]:
        """The state of every partition of the topics that exist."""
        found = {name: topic for name, topic in self._described(topics).items() if not topic["error_code"]}
        needed = self._setting(_LEAST, found)
        return [
            PartitionState(
                name,
                partition["partition_index"],
                partition["leader_id"] >= 0,
                len(partition["isr_nodes"]),
                len(partition["replica_nodes"]),
                needed.get(name, 1),
            )
            for name, topic in found.items()
            for partition in topic["partitions"]
        ]

    def group(self, group: str, topics: Iterable[str]) -> GroupState:
        """A group's members and offsets, over the partitions that have a leader."""
        partitions = [TopicPartition(one.topic, one.number) for one in self.partitions(topics) if one.has_leader]
        starts, ends = (self._offsets(partitions, spec) for spec in (OffsetSpec.EARLIEST, OffsetSpec.LATEST))
        committed, members = self._committed(group, partitions)
        places = [GroupPartition(tp.topic, tp.partition, starts[tp], committed.get(tp), ends[tp]) for tp in partitions]
        return GroupState(members, tuple(places))

    def clock_ahead_ms(self) -> float | None:
        """How far Kafka's clock is ahead of this machine's, to half the time of the answer; None where it cannot be asked.

        The leader of the metadata quorum gives the present time as that of its own last fetch (KIP-836). It takes DESCRIBE on the
        cluster, which the processes do not need.
        """
        asked_ms = _now_ms()
        try:
            (topic,) = self._admin.describe_metadata_quorum()["topics"]
        except KafkaError:
            return None
        middle_ms = (asked_ms + _now_ms()) / 2
        (partition,) = topic["partitions"]
        times = {voter["replica_id"]: voter.get("last_caught_up_timestamp", -1) for voter in partition["current_voters"]}
        kafka_ms = times.get(partition["leader_id"], -1)
        return kafka_ms - middle_ms if kafka_ms > 0 else None

    def newest_ahead_ms(self, topics: Iterable[str]) -> float | None:
        """How far the newest record is ahead of this machine's clock (KIP-734); None without records.

        `topics` are those whose records get the broker's time.
        """
        partitions = [TopicPartition(one.topic, one.number) for one in self.partitions(topics) if one.has_leader]
        newest = self._admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.MAX_TIMESTAMP)) if partitions else {}
        times = [found.timestamp for found in newest.values() if found.timestamp > 0]
        return max(times) - _now_ms() if times else None

    def _described(self, topics: Iterable[str]) -> dict[str, Any]:
        """The topics that this user may describe; a missing one has an error code."""
        names = list(topics)
        described = self._admin.describe_topics(names) if names else []
        return {topic["name"]: topic for topic in described if topic["error_code"] != _NOT_AUTHORIZED}

    def retentions_ms(self, topics: Iterable[str]) -> dict[str, int]:
        """For how long the topics keep a record, at least, as far as this user may read it; -1: for ever."""
        return self._setting(_RETENTION, (name for name, topic in self._described(topics).items() if not topic["error_code"]))

    def _setting(self, key: str, topics: Iterable[str]) -> dict[str, int]:
        """A number among the settings of topics, as far as this user may read it."""
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]
        found = self._admin.describe_configs(resources, config_filter="all")["topic"] if resources else {}
        return {name: int(values[key]["value"]) for name, values in found.items() if key in values}

    def _offsets(self, partitions: Sequence[Any], spec: OffsetSpec) -> Mapping[Any, int]:
        found = self._admin.list_partition_offsets(dict.fromkeys(partitions, spec)) if partitions else {}
        return {tp: one.offset for tp, one in found.items()}

    def _committed(self, group: str, partitions: Sequence[Any]) -> tuple[dict[Any, int], int]:
        """The committed offsets of a group, without partitions of which it committed nothing, and how many members it has."""
        (offsets,) = self._admin.describe_topics([_OFFSETS_TOPIC])
        if offsets["error_code"] == _UNKNOWN_TOPIC or not partitions:
            return {}, 0
        found = self._from_coordinator(group, lambda: self._admin.list_group_offsets({group: list(partitions)}))
        described = self._from_coordinator(group, lambda: self._admin.describe_groups([group]))
        committed = {tp: one.offset for tp, one in found.get(group, found).items() if one.offset >= 0}
        return committed, len(described[group]["members"]) if described else 0

    def _from_coordinator(self, group: str, ask: Callable[[], Mapping[Any, Any]]) -> Mapping[Any, Any]:
        return from_coordinator(ask, _COORDINATOR_S, f"the group {group}", f"look at the brokers that hold {_OFFSETS_TOPIC}")


def _now_ms() -> float:
    return time.time_ns() / 1_000_000
