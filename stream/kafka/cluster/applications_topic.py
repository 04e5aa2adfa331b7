"""The compacted topic that all applications of a cluster share, as keys and values: who owns what, which resets are under way."""

from collections.abc import Mapping
from contextlib import closing
from functools import partial
from typing import Any, Final

from kafka.errors import KafkaError

from stream.core.unreadable import readable
from stream.errors import IsthmusError
from stream.kafka.cluster.access import reason_of
from stream.kafka.cluster.clients import ConsumerClient, producer_client
from stream.kafka.cluster.corrupt_batches import RaiseAtCorruptBatch
from stream.kafka.cluster.skips import read_skips
from stream.kafka.cluster.topic_reader import TopicReader
from stream.settings import Settings

_ACK_S: Final = 30
Note = tuple[bytes, bytes | None]


def read_notes(settings: Settings) -> list[Note]:
    """All keys and values in order; the last one of a key counts, None removes it.

    Raises:
        IsthmusError: the broker cannot be reached, or a batch is damaged: it may have noted a reset that is under way.
    """
    bootstrap, topic = settings.kafka.bootstrap, settings.topics.applications
    try:
        consumer: Any = ConsumerClient(bootstrap_servers=bootstrap, check_crcs=RaiseAtCorruptBatch(partial(read_skips, bootstrap)))
        with closing(consumer):
            return [(record.key or b"", record.value) for record in readable(TopicReader(consumer).records(topic))]
    except KafkaError as error:
        raise IsthmusError(f"{topic} cannot be read: {reason_of(bootstrap, error)}") from error


def write_notes(settings: Settings, notes: Mapping[bytes, bytes | None]) -> None:
    """Writes values, None to remove a key; returns once the broker has acknowledged each.

    Raises:
        IsthmusError: the broker does not take one.
    """
    bootstrap, topic = settings.kafka.bootstrap, settings.topics.applications
    try:
        with closing(producer_client(bootstrap)) as producer:
            for key, value in notes.items():
                producer.send(topic, key=key, value=value).get(_ACK_S)
    except KafkaError as error:
        raise IsthmusError(f"{topic} at {bootstrap} takes no record ({type(error).__name__})") from error
