"""What arrives from a log: records, the batch they come in, and the five sources that a user's state is made of.

A batch is what one fetch returned for one partition of one topic. Nothing here knows Kafka: aiokafka's records, the embedded
log's and a test's tuples all satisfy `Record`.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from enum import StrEnum
from hashlib import blake2b
from typing import NamedTuple, Protocol

Headers = Sequence[tuple[str, bytes]]


class Source(StrEnum):
    """The input streams of the profile step. A call reaches the step encoded, as `stream.text` sends it."""

    CLICK = "click"
    CALL = "call"
    PURCHASE = "purchase"
    ELIGIBILITY = "eligibility"
    ERASURE = "erasure"


class Record(Protocol):
    """One record of a log, as its consumer hands it out. `timestamp` is the broker's, in ms."""

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


class PlainRecord(NamedTuple):
    """A record of the embedded log, of a file or of a test."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Coordinates(NamedTuple):
    """Where a record stands. `epoch` tells a recreated topic from its predecessor; only equality means anything."""

    topic: str
    epoch: int
    partition: int
    offset: int

    @property
    def event_id(self) -> str:
        """The id of an event whose producer gave it none: a hash of where it stands, 16 hex digits."""
        return blake2b(f"{self.topic}|{self.epoch}|{self.partition}|{self.offset}".encode(), digest_size=8).hexdigest()


class Batch(NamedTuple):
    """Records of one partition of one topic, in offset order.

    `told`: None, or lists that some of them caused may have been sent before, by a worker whose states nobody kept: then the keys
    of the users who were sent one since.
    """

    source: Source
    topic: str
    epoch: int
    partition: int
    records: Sequence[Record]
    told: AbstractSet[bytes] | None = None

    def coordinates(self, record: Record) -> Coordinates:
        return Coordinates(self.topic, self.epoch, self.partition, record.offset)
