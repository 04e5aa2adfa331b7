"""Compacted topics as a trainer uses them: reads `training-examples` and `items` to their ends, announces models."""

import logging
import time
from typing import Any, Final

import msgspec
from kafka import KafkaProducer, TopicPartition
from kafka.errors import KafkaError

from stream.core.announcements import ModelAnnouncement, encode_announcement
from stream.core.events import Item
from stream.core.examples import in_time_order
from stream.core.outputs import TrainingExample, decode_example
from stream.errors import IsthmusError
from stream.kafka.cluster.clients import BOOTSTRAP_MS, Consumer

logger = logging.getLogger(__name__)
POLL_MS: Final = 500
READ_S: Final = 600.0


class TopicError(IsthmusError):
    """A topic that cannot be read or written; the message names broker and topic."""


class CompactedTopic:
    """The newest value of each key of a topic, kept while it is read on. Tombstones remove."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.values: dict[bytes, bytes] = {}
        self._where = f"{topic} at {bootstrap}"
        try:
            self._consumer: Any = Consumer(bootstrap_servers=bootstrap)
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
        """Reads up to the ends of now; gives how many records came."""
        try:
            ends = self._consumer.end_offsets(self._partitions)
            came = 0
            deadline = time.monotonic() + READ_S
            while any(self._consumer.position(partition) < ends[partition] for partition in self._partitions):
                if time.monotonic() > deadline:
                    raise TopicError(f"{self._where} was not read within {READ_S:.0f} s")
                for records in self._consumer.poll(timeout_ms=POLL_MS).values():
                    came += len(records)
                    for record in records:
                        if record.value is None:
                            self.values.pop(record.key, None)
                        else:
                            self.values[record.key] = record.value
        except KafkaError as error:
            raise TopicError(f"{self._where} cannot be read ({type(error).__name__})") from error
        return came

    def close(self) -> None:
        self._consumer.close()


def examples_in(topic: CompactedTopic) -> list[TrainingExample]:
    """The newest revision of each example, in order of time; a record that is no example is told and left out."""
    found = []
    for key, value in topic.values.items():
        try:
            found.append(decode_example(value))
        except msgspec.MsgspecError as error:
            logger.warning("the record of key %s is no training example (%s): left out", key.hex(), error)
    return in_time_order(found)


def items_in(topic: CompactedTopic) -> list[str]:
    """The catalogue's item ids, in order; what is no item is left out."""
    found = []
    for value in topic.values.values():
        try:
            found.append(msgspec.json.decode(value, type=Item).item_id)
        except msgspec.MsgspecError:
            continue
    return sorted(found)


def announce(bootstrap: str, topic: str, announcement: ModelAnnouncement) -> None:
    """Tells the workers; returns once the broker has it.

    Raises:
        TopicError: the broker did not take it.
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
        raise TopicError(f"{topic} at {bootstrap} did not take the announcement ({type(error).__name__})") from error
