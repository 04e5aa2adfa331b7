"""Dead letters of lists that a sink gave up, and requests to send them again.

A dead letter holds only coordinates. `isthmus dead-letters replay` writes them to the topic of replayed dead letters. The sink that
owns the partition then sends the user's current list between two of its own messages, which keeps each user's order.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import msgspec
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from stream.api.store import Row
from stream.core.cloud_events import DEFAULT_APPLICATION, cloud_event
from stream.core.events import Reason
from stream.core.outputs import DeadLetter, Origin
from stream.core.records import Record
from stream.core.unreadable import readable
from stream.kafka.cluster.clients import READ_COMMITTED, async_consumer
from stream.kafka.cluster.corrupt_batches import RaiseAtCorruptBatch
from stream.kafka.cluster.fetching import fetch_until
from stream.kafka.cluster.skips import read_skips

_encode: Final = msgspec.json.Encoder().encode


class Letters(Protocol):
    """Destination of dead letters. `send` returns once they are stored, and raises OSError if they cannot be."""

    async def send(self, rows: Sequence[Row], epoch: int, partition: int, why: str) -> None: ...


Scan = Callable[[int, int, int], AsyncIterator[Sequence[Record]]]
"""Reads a partition of the lists from one offset up to, not including, another."""


class KafkaLetters:
    """Writes dead letters to Kafka. A list that was replayed before and is given up again can be replayed again."""

    def __init__(self, producer: AIOKafkaProducer, origin: str, topic: str, replayed: str, application: bytes) -> None:
        self._producer = producer
        self._origin = origin
        self._topic = topic
        self._replayed = replayed
        self._application = application

    async def send(self, rows: Sequence[Row], epoch: int, partition: int, why: str) -> None:
        try:
            for row in rows:
                name, value, headers = letter_of(row, Origin(self._origin, epoch, partition, row.offset), why, self._application)
                await self._producer.send_and_wait(self._topic, key=name, value=value, headers=list(headers))
                await self._producer.send_and_wait(self._replayed, key=name, value=None, partition=0)
        except KafkaError as error:
            raise ConnectionError(f"the broker does not take dead letters ({type(error).__name__})") from error


def letter_of(
    row: Row, origin: Origin, why: str, application: bytes = DEFAULT_APPLICATION
) -> tuple[bytes, bytes, tuple[tuple[str, bytes], ...]]:
    """Returns key, value and headers of a list's dead letter, which holds neither user nor list."""
    name = f"{origin.topic}/{origin.epoch}/{origin.partition}/{origin.offset}"
    letter = DeadLetter(
        reason=Reason.UNDELIVERED, error=why, origin=origin, occurred_at=row.timestamp, original_bytes=len(row.value or b"")
    )
    return name.encode(), _encode(letter), cloud_event(name, "isthmus.dead-letter", row.timestamp, application)


class Request(NamedTuple):
    """A request to send a list again.

    Attributes:
        epoch: Epoch of the topic of lists.
        offset: Offset of the list.
        number: Offset of the request itself.
    """

    epoch: int
    offset: int
    number: int


class Requests:
    """Replay requests by partition, from the topic of replayed dead letters."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._by_name: dict[bytes, tuple[int, Request]] = {}
        self._last = -1

    async def on_records(self, records: Sequence[Any], *, replace: bool = False) -> None:
        if replace:
            self._by_name, self._last = {}, -1
        for record in readable(records):
            self._last = record.offset
            if record.value is None:
                self._by_name.pop(record.key, None)
            elif (found := self._parsed(record.key or b"", record.offset)) is not None:
                self._by_name[record.key] = found

    def of(self, partition: int, epoch: int, done: int) -> list[Request]:
        """Returns a partition's requests after number `done`; all if the topic of requests was recreated."""
        after = done if done <= self._last else -1
        return [one for number, one in self._by_name.values() if (number, one.epoch) == (partition, epoch) and one.number > after]

    def _parsed(self, name: bytes, number: int) -> tuple[int, Request] | None:
        topic, *rest = name.decode(errors="replace").rsplit("/", 3)
        if topic != self._origin or len(rest) != 3 or not all(one.isdecimal() for one in rest):
            return None
        epoch, partition, offset = map(int, rest)
        return partition, Request(epoch, offset, number)


async def latest_of(scan: Scan, partition: int, offsets: set[int], end: int) -> list[Row]:
    """Returns the newest records before `end` of the users at these offsets. A record that compaction removed has a successor,
    which was sent or given up itself.
    """
    wanted: set[bytes] = set()
    newest: dict[bytes, Row] = {}
    async for records in scan(partition, min(offsets), end):
        for record in records:
            if record.key is None:
                continue
            if record.offset in offsets:
                wanted.add(record.key)
            if record.key in wanted:
                newest[record.key] = Row(record.key, record.value, record.offset, record.timestamp)
    return sorted(newest.values(), key=lambda row: row.offset)


def kafka_scan(bootstrap: str, topic: str) -> Scan:
    """Returns a scan that opens a consumer of its own."""

    async def scan(partition: int, start: int, end: int) -> AsyncIterator[Sequence[Record]]:
        tp = TopicPartition(topic, partition)
        consumer = async_consumer(
            bootstrap=bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=READ_COMMITTED,
            check_crcs=RaiseAtCorruptBatch(partial(read_skips, bootstrap)),
        )
        try:
            await consumer.start()
            consumer.assign([tp])
            consumer.seek(tp, start)
            async for _, records, _ in fetch_until(consumer, _ends(tp, end)):
                yield [record for record in readable(records) if record.offset < end]
        except KafkaError as error:
            raise ConnectionError(f"the broker at {bootstrap} cannot be read ({type(error).__name__})") from error
        finally:
            await consumer.stop()

    return scan


def _ends(tp: TopicPartition, end: int) -> Mapping[TopicPartition, int]:
    return {tp: end}
