"""Batches that an operator gave up: noted on the broker, read by every process and command that meets such a batch."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from stream.errors import IsthmusError
from stream.kafka.cluster.corrupt_batches import CorruptBatch, Skip, current_skips_group
from stream.kafka.cluster.lag import NO_GROUP_YET, from_coordinator
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.topics import admin_client, topic_epochs

_COORDINATOR_S: Final = 30.0
"""For how long the broker that keeps the notes is asked again: a new or restarted one takes a while."""


def skips_in(admin: Any, partitions: Iterable[Partition], epochs: Mapping[str, int]) -> dict[Partition, Skip]:
    """What may be skipped of some partitions; nothing of a topic that was recreated since."""
    wanted = [TopicPartition(*place) for place in partitions]
    if not wanted:
        return {}
    try:
        answer = admin.list_group_offsets({current_skips_group(): wanted})
    except NO_GROUP_YET:
        return {}
    notes = {(tp.topic, tp.partition): Skip.of(note.metadata) for tp, note in answer.get(current_skips_group(), answer).items()}
    return {place: skip for place, skip in notes.items() if skip is not None and skip.epoch == epochs.get(place[0])}


def read_skips(bootstrap: str, partition: Partition) -> dict[Partition, Skip]:
    """What may be skipped of one partition.

    Raises:
        IsthmusError: The broker cannot be read.
    """
    epochs = topic_epochs(bootstrap, [partition[0]])
    admin = admin_client(bootstrap)
    try:
        return skips_in(admin, [partition], epochs)
    except KafkaError as error:
        raise IsthmusError(f"what may be skipped cannot be read from {bootstrap} ({type(error).__name__})") from error
    finally:
        admin.close()


def allow_skip(bootstrap: str, batch: CorruptBatch) -> None:
    """Lets every reader of the topic pass over a batch.

    Raises:
        IsthmusError: The broker does not take it.
    """
    partition = TopicPartition(batch.topic, batch.partition)
    skip = Skip(topic_epochs(bootstrap, [batch.topic])[batch.topic], batch.offset, batch.next_offset - 1)
    note = {partition: OffsetAndMetadata(batch.next_offset, skip.to_text(), None)}
    admin = admin_client(bootstrap)

    def write() -> Mapping[Any, Any]:
        errors: Mapping[Any, Any] = admin.alter_group_offsets(current_skips_group(), note)
        if errors[partition].errno:
            raise errors[partition]
        return errors

    try:
        from_coordinator(write, _COORDINATOR_S, "what may be skipped yet", "try again")
    except KafkaError as error:
        raise IsthmusError(f"the broker at {bootstrap} does not take it ({type(error).__name__})") from error
    finally:
        admin.close()
