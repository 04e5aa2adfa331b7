"""What the read side keeps of the topics, and the contract of the stores that keep it.

A store follows each partition of two topics and writes records together with its position, so that it always equals a prefix of
the topic. It knows how old its position is: tombstones disappear from a compacted topic after `delete.retention.ms`, and a store
that was away for longer would keep what they deleted. Such a store is reconciled: the partition is read from its beginning under a
new *generation*, and rows that were not written again are deleted.

A store that replicas share has one writer for each partition, but one that was paused wakes up beside its successor. So every write
names the position that it continues, and is compared with the kept one in the same atomic step.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

import msgspec

from stream.core.limits import DAY_MS
from stream.kafka.cluster.log_reader import Bounds

RECONCILE_AFTER_MS: Final = 6 * DAY_MS
"""A day less than the `delete.retention.ms` of the compacted topics, because clocks differ."""


class Table(StrEnum):
    """Rows of one topic: lists by user id, and what is kept of state records by their state key."""

    LISTS = "lists"
    STATES = "states"


class Position(msgspec.Struct, frozen=True, array_like=True):
    """How far one partition was followed.

    Attributes:
        epoch: Epoch of the topic.
        generation: Number of the pass; rows of earlier ones are deleted at its end.
        next_offset: First offset that the store lacks.
        as_of_ms: Everything written to the partition before this time is in the store.
        complete: Whether the pass has reached the partition's end once, so that no row of an earlier pass is left.
        term: Highest owner's term among the records, see `stream.kafka.faust.changelog`; 0 where records carry none.
    """

    epoch: int
    generation: int = 1
    next_offset: int = 0
    as_of_ms: int = 0
    complete: bool = False
    term: int = 0

    def same_pass(self, other: "Position") -> bool:
        """Whether both are of one epoch and generation."""
        return (self.epoch, self.generation) == (other.epoch, other.generation)


class Row(NamedTuple):
    """One record to apply.

    Attributes:
        key: Key of the row.
        value: What replaces it; None deletes it.
        offset: Offset of the record.
        timestamp: Its Kafka timestamp, ms; 0 where nobody needs it.
    """

    key: bytes
    value: bytes | None
    offset: int
    timestamp: int = 0


class FollowedStore(Protocol):
    """What a follower writes to. Errors that pass, after which the follower begins again, are raised as OSError."""

    async def position(self, table: Table, partition: int) -> Position | None:
        """Returns how far the partition was followed; None: never."""
        ...

    async def begin(self, table: Table, partition: int, epoch: int, now_ms: int, former: Position | None) -> Position | None:
        """Begins a new generation at offset 0, as of now, and returns its position. Rows of earlier ones stay until `complete`.

        Returns None, and changes nothing, where another writer began one since `former` was read.
        """
        ...

    async def write(self, table: Table, partition: int, rows: Sequence[Row], position: Position, after: int) -> bool:
        """Applies rows that follow the offset `after` and moves the position, in one atomic step.

        Rows that the kept position already covers are left out, deletions too, and no part of the position goes back. Returns
        False, and changes nothing, where the position is of another epoch or generation than the kept one (the writer is
        outdated), or the kept one ends before `after` (the store lost what was written).
        """
        ...

    async def complete(self, table: Table, partition: int, position: Position) -> int | None:
        """Deletes the rows of earlier generations, marks the kept position complete, and returns how many rows went.

        Returns None where the kept position is of another epoch or generation than `position`, or ends before it.
        """
        ...

    async def close(self) -> None: ...


class Store(FollowedStore, Protocol):
    """Rows by table and partition that can be read. Implementations share `tests/contracts/test_api_store.py`."""

    async def read(self, table: Table, keys: Sequence[tuple[int, bytes]]) -> list[bytes | None]:
        """Returns the values of (partition, key) pairs."""
        ...


class StoreAwayError(ConnectionError):
    """The store does not answer. The message names no secret."""


def continues(kept: Position | None, position: Position, after: int) -> bool:
    """Whether a writer's position belongs to the kept one's pass, and nothing lies between the kept one and `after`."""
    return kept is not None and kept.same_pass(position) and kept.next_offset >= after


def merged(kept: Position, position: Position) -> Position:
    """The further of two positions of one pass; of two at one offset, what either knows."""
    if position.next_offset < kept.next_offset:
        return kept
    return msgspec.structs.replace(
        position, as_of_ms=max(kept.as_of_ms, position.as_of_ms), complete=kept.complete or position.complete
    )


def must_reconcile(
    position: Position | None, epoch: int, bounds: Bounds, now_ms: int, after_ms: int = RECONCILE_AFTER_MS
) -> str | None:
    """Returns why a partition must be read from its beginning, or None where the store can continue."""
    if position is None:
        return "it was never followed"
    if position.epoch != epoch:
        return "the topic was recreated"
    if position.next_offset > bounds.end:
        return "the store holds more than the topic does"
    if position.next_offset < bounds.begin:
        return "the topic no longer holds the next record"
    if now_ms - position.as_of_ms > after_ms and (position.next_offset < bounds.end or not position.complete):
        return "the store was away for longer than tombstones are kept"
    return None
