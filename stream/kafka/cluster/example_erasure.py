"""Removes all training examples of users from the topic, also those that no state knows any more.

A worker erases the examples of the purchases that a user's state knows. After states were rebuilt from the inputs, they lack the
purchases that are older than these, while the compacted topic keeps their examples.
"""

import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

import msgspec
from kafka.errors import KafkaError

from stream.core.outputs import decode_example_key
from stream.core.partitioner import partition_of
from stream.kafka.cluster.clients import BOOTSTRAP_MS, TopicError, producer_client
from stream.kafka.cluster.topic_reader import TopicReader, open_topic_reader

_SAY_S: Final = 5.0
_ACKNOWLEDGED_S: Final = 30.0


def erase_examples(bootstrap: str, topic: str, users: Collection[str], say: Callable[[str], None]) -> int:
    """Sends tombstones for the users' examples; returns how many there were. `say` is told how far a long read has come.

    To be called before the erasure is sent: a worker then makes the examples of later purchases again, without what was erased.

    Raises:
        TopicError: the topic is missing, or the broker does not answer.
    """
    with open_topic_reader(bootstrap) as reader:
        count = len(reader.ends(topic))
        if not count:
            raise TopicError(f"{topic} is missing at {bootstrap}: run `isthmus topics`")
        numbers = sorted({partition_of(user.encode(), count) for user in users})
        found = [(number, key) for number in numbers for key in _keys_in(reader, topic, number, frozenset(users), say)]
    if found:
        _send_tombstones(bootstrap, topic, found)
    return len(found)


def _keys_in(reader: TopicReader, topic: str, number: int, users: frozenset[str], say: Callable[[str], None]) -> list[bytes]:
    end, said_at = reader.ends(topic)[number], time.monotonic()
    keys: dict[bytes, bool] = {}
    for record in reader.records(topic, {number: 0}):
        if time.monotonic() - said_at > _SAY_S:
            said_at = time.monotonic()
            say(f"reading {topic}-{number}: offset {record.offset} of {end}")
        if record.key is not None and _user_of(record.key) in users:
            keys[record.key] = record.value is not None
    return [key for key, is_there in keys.items() if is_there]


def _user_of(key: bytes) -> str | None:
    try:
        return decode_example_key(key)[0]
    except msgspec.MsgspecError:
        return None  # not ours


def _send_tombstones(bootstrap: str, topic: str, found: Iterable[tuple[int, bytes]]) -> None:
    try:
        producer: Any = producer_client(bootstrap, bootstrap_timeout_ms=BOOTSTRAP_MS)
        try:
            sent = [producer.send(topic, key=key, value=None, partition=number) for number, key in found]
            for one in sent:
                one.get(timeout=_ACKNOWLEDGED_S)
        finally:
            producer.close()
    except KafkaError as error:
        raise TopicError(f"{topic} at {bootstrap} did not take the tombstones ({type(error).__name__}): erase again") from error
