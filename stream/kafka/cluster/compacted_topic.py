"""Compacted topics as a trainer uses them: reads `training-examples` and `items` to their ends, announces models."""

import logging
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import KafkaError

from stream.core import limits
from stream.core.announcements import (
    AnnouncementTrust,
    ModelAnnouncement,
    RefusedAnnouncement,
    encode_announcement,
    read_announcement,
)
from stream.core.catalogue_records import ItemFormat, ItemTable
from stream.core.events import Item
from stream.core.examples import check_bounds, in_time_order
from stream.core.outputs import TrainingExample, decode_example
from stream.core.parsing import UNUSABLE
from stream.core.ranking import Catalogue
from stream.errors import IsthmusError
from stream.formats.topic_decoder import fetch_schemas
from stream.kafka.cluster.clients import BOOTSTRAP_MS, ConsumerClient, TopicError, producer_client
from stream.kafka.cluster.corrupt_batches import RaiseAtCorruptBatch
from stream.kafka.cluster.skips import read_skips
from stream.kafka.cluster.topic_reader import poll_until
from stream.kafka.cluster.topics import TOMBSTONE_RETENTION_MS, TopicShape, topic_shape

logger = logging.getLogger(__name__)
_SILENT_S: Final = 600.0  # longer than an operator's command waits: a trainer outlasts a broker's restart
_MAX_AGE_S: Final = (TOMBSTONE_RETENTION_MS - limits.DAY_MS) / 1000  # a day less, because clocks differ


class AnnouncementError(IsthmusError):
    """The champion's announcement must not be followed."""


class CompactedTopic:
    """The newest value of each key of a topic, up to where it has been read. A tombstone removes its key.

    Raises:
        TopicError: the topic is missing or cannot be read.
    """

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.values: dict[bytes, bytes] = {}
        self._last: dict[Any, tuple[int, int]] = {}  # offset and timestamp of each partition's last record
        self._bootstrap, self._topic = bootstrap, topic
        self._read_at = time.time()
        self._shape = self._read_shape()
        self._where = f"{topic} at {bootstrap}"
        self._open(self._shape)

    def _open(self, shape: TopicShape) -> None:
        """Begins to read a topic. A consumer that knows former partitions would not learn of others for minutes."""
        try:
            self._consumer: Any = ConsumerClient(
                bootstrap_servers=self._bootstrap, check_crcs=RaiseAtCorruptBatch(partial(read_skips, self._bootstrap))
            )
        except KafkaError as error:
            raise TopicError(f"{self._where} cannot be read ({type(error).__name__})") from error
        self._partitions = [TopicPartition(self._topic, number) for number in range(shape.partitions)]
        self._consumer.assign(self._partitions)
        self._consumer.seek_to_beginning(*self._partitions)

    def read_on(self) -> int:
        """Reads up to the topic's present end; returns the number of records read."""
        count = 0
        records, replace = self.new_records()
        if replace:
            self.values.clear()
        for record in records:
            count += 1
            if record.key is None:
                continue  # no key to be compacted by; the reader logged a record that does not parse
            if record.value is None:
                self.values.pop(record.key, None)
            else:
                self.values[record.key] = record.value
        return count

    def new_records(self) -> tuple[Iterator[Any], bool]:
        """The records up to the topic's present end that were not read before, and whether they replace those that were.

        They do if the topic was recreated, a partition cut, or the last reading is so old that tombstones since may be gone: then
        they are all that it holds.
        """
        began_at = time.time()
        try:
            shape = self._read_shape()
            is_other = shape != self._shape
            if is_other:
                self._consumer.close()
                self._open(shape)
            ends = self._consumer.end_offsets(self._partitions)
            is_other = is_other or not self._is_continued(ends)
        except KafkaError as error:
            raise TopicError(f"{self._where} cannot be read ({type(error).__name__})") from error
        if is_other:
            text = (
                "%s was recreated, or its log was cut or got partitions: it is read whole again and replaces what was read before"
            )
            logger.error(text, self._where)
        replace = is_other or began_at - self._read_at > _MAX_AGE_S
        if replace:
            self._shape = shape
            self._last.clear()
            self._consumer.seek_to_beginning(*self._partitions)
        return self._read(ends, began_at), replace

    def forget(self) -> None:
        """What was read is not used: the next reading begins at the beginning."""
        self._read_at = float("-inf")

    def _read_shape(self) -> TopicShape:
        try:
            return topic_shape(self._bootstrap, self._topic)
        except IsthmusError as error:
            raise TopicError(str(error)) from error

    def _read(self, ends: Mapping[Any, int], began_at: float) -> Iterator[Any]:
        try:
            for record in poll_until(self._consumer, ends, _SILENT_S):
                tp = TopicPartition(record.topic, record.partition)
                self._last[tp] = record.offset, record.timestamp
                yield record
            self._read_at = began_at
        except KafkaError as error:
            raise TopicError(f"{self._where} cannot be read ({type(error).__name__})") from error

    def _is_continued(self, ends: Mapping[Any, int]) -> bool:
        """Whether each partition still holds the last record that was read of it, unless that was compacted away."""
        if any(offset >= ends[tp] for tp, (offset, _) in self._last.items()):
            return False
        positions = {tp: self._consumer.position(tp) for tp in self._last}
        for tp, (offset, _) in self._last.items():
            self._consumer.seek(tp, offset)
        unseen = dict(self._last)
        for record in poll_until(self._consumer, {tp: offset + 1 for tp, (offset, _) in self._last.items()}, _SILENT_S):
            offset, timestamp = unseen.pop(TopicPartition(record.topic, record.partition), (-1, 0))
            if record.offset == offset and record.timestamp != timestamp:
                return False
        for tp, position in positions.items():
            self._consumer.seek(tp, position)
        return True

    def close(self) -> None:
        self._consumer.close()


def examples_in(topic: CompactedTopic) -> list[TrainingExample]:
    """The last record of each example, whatever its revision, in order of time. How many records are no examples is logged: each
    item that one names is a column of a matrix, so that a foreign record would decide how much memory training takes.
    """
    examples: list[TrainingExample] = []
    unusable: list[tuple[bytes, Exception]] = []
    for key, value in topic.values.items():
        try:
            example = decode_example(value)
            check_bounds(example)
            examples.append(example)
        except UNUSABLE as error:
            unusable.append((key, error))
    if unusable:
        text = "%d of %d records are no training examples and are left out; the first has the key %s (%s)"
        logger.warning(text, len(unusable), len(topic.values), unusable[0][0].hex(), unusable[0][1])
    return in_time_order(examples)


def read_items(topic: CompactedTopic, table: ItemTable) -> list[Item]:
    """Reads the catalogue on into `table`; returns its items by id. How many records are no items is logged.

    Raises:
        TopicError: the topic cannot be read.
        IsthmusError: the schema registry does not say what the items' schemas are.
    """
    found, replace = topic.new_records()
    records = list(found)
    try:
        fetch_schemas(table.form.to_json, records)
    except IsthmusError:
        topic.forget()
        raise
    if replace:
        table.clear()
    rejected = table.apply(records)
    if rejected:
        record, rejection = rejected[0]
        text = "%d records of the catalogue cannot be used; the first is at offset %d (%s: %s). Publish these items again"
        logger.warning(text, len(rejected), record.offset, rejection.reason, rejection.error)
    return sorted(table.items.values(), key=lambda item: item.item_id)


def read_catalogue(bootstrap: str, topic: str, form: ItemFormat) -> Catalogue:
    """The catalogue as it is now.

    Raises:
        TopicError: the topic cannot be read.
    """
    items, table = CompactedTopic(bootstrap, topic), ItemTable(form)
    try:
        read_items(items, table)
    finally:
        items.close()
    return table.catalogue()


def announced_champion(bootstrap: str, topic: str, trust: AnnouncementTrust) -> ModelAnnouncement | None:
    """The champion that is announced to the workers; None before the first.

    Raises:
        TopicError: the topic cannot be read.
        AnnouncementError: the announcement cannot be read, or nobody whom we trust has signed it.
    """
    models = CompactedTopic(bootstrap, topic)
    try:
        models.read_on()
    finally:
        models.close()
    if b"champion" not in models.values:
        return None
    found = read_announcement(models.values[b"champion"], trust)
    if isinstance(found, RefusedAnnouncement):
        raise AnnouncementError(f"the champion's announcement in {topic} is refused: {found.text}: `isthmus models announce`")
    return found


def announce(bootstrap: str, topic: str, announcement: ModelAnnouncement) -> None:
    """Sends a model announcement to the workers; returns once the broker has acknowledged it.

    Raises:
        TopicError: the broker did not accept it.
    """
    try:
        producer = producer_client(bootstrap, bootstrap_timeout_ms=BOOTSTRAP_MS)
        try:
            producer.send(topic, key=announcement.role.encode(), value=encode_announcement(announcement)).get(timeout=30)
        finally:
            producer.close()
    except KafkaError as error:
        raise TopicError(f"{topic} at {bootstrap} did not accept the announcement ({type(error).__name__})") from error
