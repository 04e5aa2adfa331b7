"""How a changelog is read to restore a table: whole fetches per partition, from where the local store ends to where the topic does.

Faust would read it record by record, 100 us each. A record carries its writer's *term* in a header: the partition's owners count
upwards, so one of a lower term than a record before it was written late, by a worker that had lost the partition.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from stream.core.records import Record
from stream.errors import IsthmusError

TERM: Final = "term"


class Fetched(NamedTuple):
    """What one fetch returned for a partition number. `position` is the next offset to read: it may lie past records that are gone
    or that only transactions need.
    """

    number: int
    records: Sequence[Record]
    position: int


class ChangelogReader(Protocol):
    """A transport that reads a changelog: `starts` is, per partition number, the first offset that the store lacks."""

    def read_changelog(self, topic: str, starts: Mapping[int, int]) -> AsyncIterator[Fetched]: ...


def stamp(term: int) -> tuple[tuple[str, bytes], ...]:
    """The headers of changelog records."""
    return ((TERM, b"%d" % term),)


def term_of(headers: Any) -> int:
    """The term of a record; 0 where it has none."""
    for name, value in headers:
        if name == TERM:
            return int(value)
    return 0


def check_start(topic: str, number: int, start: int, end: int) -> None:
    """Raises IsthmusError where the store holds more than the changelog ever did."""
    if start > end:
        raise IsthmusError(
            f"the local store holds {topic}-{number} up to offset {start}, but it ends at {end}: the changelog was created anew, "
            "or the store belongs to another broker. Move the worker's state directory (worker.state_dir) away to start from "
            "what the changelog holds, and replay the input topics if that is too little"
        )
