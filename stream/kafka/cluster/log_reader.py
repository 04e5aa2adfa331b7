"""How the read side reads topics: all partitions of some topics, each from its own position."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from stream.core.records import Record

TopicPartition = tuple[str, int]


class Bounds(NamedTuple):
    """The offsets that a partition holds: from `begin` to before `end`."""

    begin: int
    end: int


class Fetched(NamedTuple):
    """What one fetch returned for a partition. `next_offset` may lie past records that compaction removed."""

    topic: str
    partition: int
    records: Sequence[Record]
    next_offset: int


class PartitionsChanged(Exception):  # noqa: N818  (no error: the reader's partitions are others now)
    """Other partitions are to be read from now on: the reader must be opened again."""


class LogReader(Protocol):
    """Committed records of topics. Every method raises OSError where the log does not answer or a position is gone, and `fetch`
    raises `PartitionsChanged` where a consumer group has assigned others.
    """

    async def open(self, topics: Iterable[str]) -> Mapping[TopicPartition, Bounds]:
        """Begins to read the topics, and returns what their partitions hold now."""
        ...

    async def epochs(self, topics: Iterable[str]) -> Mapping[str, int]: ...

    def seek(self, topic: str, partition: int, offset: int) -> None: ...

    async def fetch(self) -> list[Fetched]:
        """Returns what came, or nothing after half a second."""
        ...

    def read_to_end_at(self, topic: str, partition: int) -> int | None:
        """When the end of the log was last reached, ms; None while records are left to read."""
        ...

    async def close(self) -> None: ...
