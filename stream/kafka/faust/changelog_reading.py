"""Where a changelog is read from, and what of it may be restored, on Kafka."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.core.unreadable import UnreadableValue
from stream.errors import IsthmusError
from stream.kafka.cluster.corrupt_batches import Skip
from stream.kafka.faust.changelog import check_start


async def assign_from(consumer: AIOKafkaConsumer, starts: Mapping[TopicPartition, int]) -> Mapping[TopicPartition, int]:
    """Assigns a changelog's partitions and seeks the record before each start; returns their ends."""
    consumer.assign(list(starts))
    first, ends = await consumer.beginning_offsets(starts), await consumer.end_offsets(starts)
    for tp, start in starts.items():
        check_start(tp.topic, tp.partition, start, ends[tp])
        consumer.seek(tp, max(start - 1, first[tp]))
    return ends


def readable(tp: Any, records: Sequence[Any], skips: Callable[[tuple[str, int]], Mapping[tuple[str, int], Skip]]) -> Sequence[Any]:
    """A changelog's records without those that do not parse and may be skipped.

    Raises:
        IsthmusError: a record does not parse: a user's newest state would be missing.
    """
    unreadable = [record for record in records if type(record.value) is UnreadableValue]
    if not unreadable:
        return records
    skip = skips((tp.topic, tp.partition)).get((tp.topic, tp.partition))
    for record in unreadable:
        if skip is None or not skip.first <= record.offset <= skip.last:
            raise IsthmusError(
                f"{tp.topic}-{tp.partition}: the record at offset {record.offset} does not parse ({record.value.error}), so the "
                f"newest state of a user cannot be restored. `isthmus topics skip {tp.topic} {tp.partition} {record.offset}` says "
                "what giving it up costs"
            )
    return [record for record in records if type(record.value) is not UnreadableValue]
