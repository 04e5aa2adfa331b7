"""Compacted topics as a trainer uses them: reads `training-examples` and `items` to their ends, announces models."""

import logging
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from stream.core.announcements import ModelAnnouncement, encode_announcement
from stream.core.catalogue_records import ItemTable
from stream.core.events import Item
from stream.core.examples import in_time_order
from stream.core.outputs import TrainingExample, decode_example
from stream.core.parsing import UNUSABLE
from stream.kafka.cluster.clients import BOOTSTRAP_MS, ConsumerClient, TopicError
from stream.kafka.cluster.corrupt_batches import RaiseAtCorruptBatch
from stream.kafka.cluster.skips import read_skips
from stream.kafka.cluster.topic_reader import poll_until

logger = logging.getLogger(__name__)
_SILENT_S: Final = 600.0  # longer than an operator's command waits: a trainer outlasts a broker's restart


class CompactedTopic:
    """The newest value of each key of a topic, up to where it has been read. A tombstone removes its key.

    Raises:
        TopicError: the topic is missing or cannot be read.
    """

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.values: dict[bytes, bytes] = {}
        self._last: dict[Any, tuple[int, int]] = {}  # offset and timestamp of each partition's last record
        self._where = f"{topic} at {bootstrap}"
        try:
            self._consumer: Any = ConsumerClient(
                bootstrap_servers=bootstrap, check_crcs=RaiseAtCorruptBatch(partial(read_skips, bootstrap))
            )
            partitions = self._consumer.partitions_for_topic(topic)
        except KafkaError as error:
            raise TopicError(f"{self._where} cannot be read ({type(error).__name__})") from error
        if not partitions:
            self.close()
            raise TopicError(f"{self._where} is missing: run `isthmus topics`")
        self._partitions = [TopicPartition(topic, number) for number in sorted(partitions)]
        self._consumer.assign(self._partitions)
        self._consumer.seek_to_beginning(*self._partitions)

    def read_on(self) -> int:
        """Reads up to the topic's present end; returns the number of records read."""
        count = 0
        for record in self.new_records():
            count += 1
            if record.key is None:
                continue  # no key to be compacted by; the reader logged a record that does not parse
            if record.value is None:
                self.values.pop(record.key, None)
            else:
                self.values[record.key] = record.value
        return count

    def new_records(self) -> Iterator[Any]:
        """The records up to the topic's present end that were not read before.

        The last record read before is read again: if it is another one, the partition was cut and is read again from its beginning.
        """
        try:
            ends = self._consumer.end_offsets(self._partitions)
            known = self._seek_last(ends)
            for record in poll_until(self._consumer, ends, _SILENT_S):
                tp = TopicPartition(record.topic, record.partition)
                self._last[tp] = record.offset, record.timestamp
                offset, timestamp = known.pop(tp, (-1, 0))
                if record.offset == offset and record.timestamp == timestamp:
                    continue
                if record.offset == offset:
                    self._read_again(tp)
                yield record
        except KafkaError as error:
            raise TopicError(f"{self._where} cannot be read ({type(error).__name__})") from error

    def _seek_last(self, ends: Mapping[Any, int]) -> dict[Any, tuple[int, int]]:
        """Seeks the last record of each partition that was read before; returns those that may still be there."""
        known = {tp: last for tp, last in self._last.items() if last[0] < ends[tp]}
        for tp in self._last:
            if tp in known:
                self._consumer.seek(tp, known[tp][0])
            else:
                self._read_again(tp)
        return known

    def _read_again(self, tp: Any) -> None:
        logger.error("%s: partition %d was cut; it is read again from its beginning", self._where, tp.partition)
        self._consumer.seek_to_beginning(tp)

    def close(self) -> None:
        self._consumer.close()


def examples_in(topic: CompactedTopic) -> list[TrainingExample]:
    """The last record of each example, whatever its revision, in order of time. How many records are no examples is logged."""
    examples: list[TrainingExample] = []
    unusable: list[tuple[bytes, Exception]] = []
    for key, value in topic.values.items():
        try:
            examples.append(decode_example(value))
        except UNUSABLE as error:
            unusable.append((key, error))
    if unusable:
        text = "%d of %d records are no training examples and are left out; the first has the key %s (%s)"
        logger.warning(text, len(unusable), len(topic.values), unusable[0][0].hex(), unusable[0][1])
    return in_time_order(examples)


def read_items(topic: CompactedTopic, table: ItemTable) -> list[Item]:
    """Reads the catalogue on into `table`; returns its items by id. How many records are no items is logged."""
    rejected = table.apply(topic.new_records())
    if rejected:
        record, rejection = rejected[0]
        text = "%d records of the catalogue cannot be used; the first is at offset %d (%s: %s). Publish these items again"
        logger.warning(text, len(rejected), record.offset, rejection.reason, rejection.error)
    return sorted(table.items.values(), key=lambda item: item.item_id)


def announce(bootstrap: str, topic: str, announcement: ModelAnnouncement) -> None:
    """Sends a model announcement to the workers; returns once the broker has acknowledged it.

    Raises:
        TopicError: the broker did not accept it.
    """
    try:
        producer: Any = KafkaProducer(
            bootstrap_servers=bootstrap, bootstrap_timeout_ms=BOOTSTRAP_MS, acks="all", enable_idempotence=True
        )
        try:
            producer.send(topic, key=announcement.role.encode(), value=encode_announcement(announcement)).get(timeout=30)
        finally:
            producer.close()
    except KafkaError as error:
        raise TopicError(f"{topic} at {bootstrap} did not accept the announcement ({type(error).__name__})") from error
