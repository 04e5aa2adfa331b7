"""Reads topics to their ends without a consumer group, with kafka-python's blocking consumer. For commands and trainers.

`stream.kafka.cluster.topic_follower` does the same with aiokafka, for processes with an event loop.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import KafkaError

from stream.core.unreadable import UnreadableValue, readable
from stream.kafka.cluster.clients import ConsumerClient, TopicError
from stream.kafka.cluster.corrupt_batches import CorruptBatch, CorruptBatchError, Fault, RaiseAtCorruptBatch
from stream.kafka.cluster.skips import read_skips

_POLL_MS: Final = 500
_SILENT_S: Final = 30.0


def poll_until(consumer: Any, ends: Mapping[Any, int], silent_s: float) -> Iterator[Any]:
    """Yields an assigned consumer's records until its position in each topic partition has reached the given end.

    The last poll may return records past that end.

    Raises:
        TopicError: no record arrived for `silent_s` although the end was not reached.
    """
    unfinished = set(ends)
    heard_at = time.monotonic()
    while unfinished := {tp for tp in unfinished if consumer.position(tp) < ends[tp]}:
        polled = consumer.poll(timeout_ms=_POLL_MS)
        for records in polled.values():
            yield from records
        if polled:
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > silent_s:
            topics = ", ".join(sorted({tp.topic for tp in unfinished}))
            raise TopicError(f"{topics}: no records for {silent_s:.0f} s although there are more: check the broker's health")


class TopicReader:
    """Reads committed records up to the end offsets at the time of the call."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def ends(self, topic: str) -> dict[int, int]:
        """Returns the end offset of each partition; empty if the topic does not exist."""
        return {tp.partition: end for tp, end in self._consumer.end_offsets(self._partitions(topic)).items()}

    def starts(self, topic: str) -> dict[int, int]:
        """Returns the first offset of each partition."""
        return {tp.partition: start for tp, start in self._consumer.beginning_offsets(self._partitions(topic)).items()}

    def records(self, topic: str, starts: Mapping[int, int] | None = None) -> Iterator[Any]:
        """Yields the records of a topic. `starts` limits them to the given partitions, each from the given offset on."""
        ends, first = self.ends(topic), self.starts(topic)
        positions = {number: max(first[number], start) for number, start in (starts or first).items() if number in ends}
        open_ends = {TopicPartition(topic, number): ends[number] for number, start in positions.items() if start < ends[number]}
        self._consumer.assign(list(open_ends))
        for tp in open_ends:
            self._consumer.seek(tp, positions[tp.partition])
        for record in poll_until(self._consumer, open_ends, _SILENT_S):
            if record.offset < ends[record.partition]:
                yield record

    def record_at(self, topic: str, partition: int, offset: int) -> Any | None:
        """Returns one record; None if the topic no longer retains it."""
        if not self.starts(topic).get(partition, offset + 1) <= offset < self.ends(topic).get(partition, 0):
            return None
        record = next(self.records(topic, {partition: offset}), None)
        return record if record is not None and record.offset == offset else None

    def damage_at(self, topic: str, partition: int, offset: int) -> CorruptBatch | None:
        """Returns the damage at an offset, up to the next record that can be read; None if the one at the offset can.

        Raises:
            TopicError: the partition holds no such offset.
        """
        start, end = self.starts(topic).get(partition, 0), self.ends(topic).get(partition, 0)
        if not start <= offset < end:
            held = f"holds the offsets {start} to {end - 1}, not {offset}" if start < end else "holds no records"
            raise TopicError(f"{topic}-{partition} {held}")
        try:
            record = next(self.records(topic, {partition: offset}), None)
        except CorruptBatchError as error:
            batch = error.batch
            if not batch.offset <= offset < batch.next_offset:
                return None
            return batch._replace(next_offset=self._readable_from(topic, partition, batch.next_offset, end))
        if record is None or record.offset != offset or not isinstance(record.value, UnreadableValue):
            return None
        return CorruptBatch(topic, partition, offset, offset + 1)

    def _readable_from(self, topic: str, partition: int, offset: int, end: int) -> int:
        """The first offset, from a given one on, that the broker can find: its index holds the places of some batches only."""
        unreadable, found, step = offset - 1, offset, 1
        while found < end and not self._is_readable(topic, partition, found):
            unreadable, found, step = found, min(end, found + step), 2 * step
        while found - unreadable > 1:
            middle = (unreadable + found) // 2
            if self._is_readable(topic, partition, middle):
                found = middle
            else:
                unreadable = middle
        return found

    def _is_readable(self, topic: str, partition: int, offset: int) -> bool:
        try:
            next(self.records(topic, {partition: offset}), None)
        except CorruptBatchError as error:
            return error.batch.fault is Fault.CHECKSUM  # a damage of its own
        return True

    def _partitions(self, topic: str) -> list[Any]:
        return [TopicPartition(topic, number) for number in sorted(self._consumer.partitions_for_topic(topic) or ())]


@contextmanager
def open_topic_reader(bootstrap: str, *, skips: bool = True) -> Iterator[TopicReader]:
    """Opens a reader of a cluster's topics. With `skips`, it passes over corrupt batches that an operator has given up.

    Raises:
        TopicError: the broker cannot be reached, or has stopped answering.
        CorruptBatchError: a batch is damaged.
    """
    policy = RaiseAtCorruptBatch(partial(read_skips, bootstrap)) if skips else RaiseAtCorruptBatch()
    try:
        consumer = ConsumerClient(bootstrap_servers=bootstrap, check_crcs=policy)
        try:
            yield TopicReader(consumer)
        finally:
            consumer.close()
    except KafkaError as error:
        raise TopicError(
            f"the broker at {bootstrap} cannot be read ({type(error).__name__}): check kafka.bootstrap or --bootstrap"
        ) from error


def newest_records(bootstrap: str, topic: str, per_partition: int) -> list[Any]:
    """Returns the records at the last `per_partition` offsets of each partition, without tombstones.

    Raises:
        TopicError: broker or topic cannot be read.
    """
    with open_topic_reader(bootstrap) as reader:
        ends = reader.ends(topic)
        if not ends:
            raise TopicError(f"{topic} is missing at {bootstrap}: run `isthmus topics`")
        starts = {number: max(0, end - per_partition) for number, end in ends.items()}
        return [record for record in readable(reader.records(topic, starts)) if record.value is not None]
