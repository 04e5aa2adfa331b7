"""Records as they come from a log, and the batches they come in.

Nothing here knows Kafka: aiokafka's records, those of the embedded log and a test's tuples all satisfy `Record`.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol

from stream.core.events import FIRST_ORIGIN_HEADER, FIRST_RECEIVED_HEADER, NATIVE_FORMAT_HEADER, ORIGIN_HEADER, Source

_EPOCHS: Final = 1 << 63
_MAX_CUTS: Final = 256
_TIME_DIGITS: Final = 19  # of a 64-bit integer

Boundaries = Sequence[tuple[int, int]]
"""Where a partition was cut and continued, ascending: (first offset of the continuation, its epoch)."""

Headers = Sequence[tuple[str, bytes]]


class Record(Protocol):
    """One record of a log, as its consumer returns it. `timestamp` is the broker's, in ms."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


def is_native(headers: Headers) -> bool:
    """Whether a record is JSON with our field names, whatever mapping or format its topic has."""
    return any(name == NATIVE_FORMAT_HEADER for name, _ in headers)


def first_received_ms(record: Record) -> int:
    """When the broker first received what a record holds, ms: a replayed one names its original's time.

    A later time than the record's own is not believed. 0, which is never plausible, where the header holds no time.
    """
    times = [_time_of(value) for name, value in record.headers if name == FIRST_RECEIVED_HEADER]
    return min([record.timestamp, *times])


def _time_of(header: bytes | None) -> int:
    return int(header) if header and len(header) <= _TIME_DIGITS and header.isdigit() else 0


def original_id(headers: Headers) -> str | None:
    """On a replayed record, `Coordinates.event_id` of its original; None on any other. Earlier versions named the last origin only.

    >>> original_id([(ORIGIN_HEADER, b"web-clicks/7/0/42")]) == Coordinates("web-clicks", 7, 0, 42).event_id
    True
    """
    for wanted in (FIRST_ORIGIN_HEADER, ORIGIN_HEADER):
        for name, value in headers:
            if name == wanted and value:
                return blake2b(value.replace(b"/", b"|"), digest_size=8).hexdigest()
    return None


class PlainRecord(NamedTuple):
    """A record of the embedded log, of a file or of a test."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


def time_span(records: Sequence[Record]) -> tuple[int, int]:
    """The broker's times of the first and last record, ms."""
    return (records[0].timestamp, records[-1].timestamp) if records else (0, 0)


class Coordinates(NamedTuple):
    """Where a record is stored.

    Attributes:
        topic: Name of the topic.
        epoch: Identifies one life of the partition. A recreated topic has another; each cut of a partition's log adds one.
        partition: Partition number.
        offset: Offset in the partition.
    """

    topic: str
    epoch: int
    partition: int
    offset: int

    @property
    def event_id(self) -> str:
        """Id of an event whose producer gave it none: a hash of its coordinates, 16 hex digits."""
        return blake2b(f"{self.topic}|{self.epoch}|{self.partition}|{self.offset}".encode(), digest_size=8).hexdigest()


class Batch(NamedTuple):
    """What one fetch returned for one partition of one topic.

    Attributes:
        source: What the step calls the topic.
        topic: Name of the topic.
        epoch: Epoch of the topic, see `Coordinates`.
        partition: Partition number.
        records: The records in offset order.
        notified_users: Keys of users already sent a list since the partition was assigned, if this batch may be a redelivery whose
            lists another worker sent without keeping the states; else None.
        boundaries: Of the partition, if its log was ever cut.
    """

    source: Source
    topic: str
    epoch: int
    partition: int
    records: Sequence[Record]
    notified_users: AbstractSet[bytes] | None = None
    boundaries: Boundaries = ()

    def coordinates(self, record: Record) -> Coordinates:
        epoch = epoch_at(record.offset, self.epoch, self.boundaries) if self.boundaries else self.epoch
        return Coordinates(self.topic, epoch, self.partition, record.offset)


def epoch_at(offset: int, epoch: int, boundaries: Boundaries) -> int:
    """The epoch of an offset of a partition whose topic has `epoch`.

    >>> [epoch_at(offset, 7, [(40, 8), (60, 9)]) for offset in (39, 40, 60)]
    [7, 8, 9]
    """
    for first, continued in boundaries:
        if offset >= first:
            epoch = continued
    return epoch


def later_epoch(epoch: int, cuts: int = 1) -> int:
    """The epoch of a partition after further cuts."""
    return (epoch + cuts) % _EPOCHS


def is_older_epoch(epoch: int, other: int) -> bool:
    """Whether `epoch` is that of a partition before a cut that led to `other`. Epochs of different topics are far apart.

    >>> is_older_epoch(7, 8), is_older_epoch(8, 8), is_older_epoch(8, 7), is_older_epoch(later_epoch(-1), later_epoch(0))
    (True, False, False, True)
    """
    return 0 < (other - epoch) % _EPOCHS < _MAX_CUTS
