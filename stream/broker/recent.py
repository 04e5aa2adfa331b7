"""The newest records of a topic, for a look at what it carries."""

from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from stream.errors import IsthmusError

_BOOTSTRAP_MS: Final = 10_000
_POLL_MS: Final = 2_000


def recent_values(bootstrap: str, topic: str, per_partition: int) -> list[bytes]:
    """Values of the last `per_partition` records of each partition, tombstones left out.

    Raises:
        IsthmusError: broker or topic cannot be read.
    """
    try:
        consumer: Any = KafkaConsumer(
            bootstrap_servers=bootstrap, bootstrap_timeout_ms=_BOOTSTRAP_MS, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        try:
            partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
            if not partitions:
                raise IsthmusError(f"{topic} is missing at {bootstrap}: run `isthmus topics`")
            consumer.assign(partitions)
            return _read(consumer, partitions, per_partition)
        finally:
            consumer.close()
    except KafkaError as error:
        raise IsthmusError(f"{topic} at {bootstrap} cannot be read ({type(error).__name__})") from error


def _read(consumer: Any, partitions: list[Any], per_partition: int) -> list[bytes]:
    begins, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    for partition in partitions:
        consumer.seek(partition, max(begins[partition], ends[partition] - per_partition))
    found = []
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        polled = consumer.poll(timeout_ms=_POLL_MS)
        found += [record.value for records in polled.values() for record in records if record.value is not None]
        if not polled:
            break
    return found
