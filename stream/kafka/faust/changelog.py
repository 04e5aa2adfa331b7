"""What a changelog contains, and what a worker does about one that is not the one its local store continues.

Each record carries its writer's *term* in a header. The terms of a partition's owners increase, so a record whose term is lower
than that of a record before it was written late, by a worker that had already lost the partition.
"""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from stream.core.records import Record
from stream.errors import IsthmusError
from stream.kafka.cluster.topics import group_of

TERM_HEADER: Final = "term"


class Fetched(NamedTuple):
    """What one fetch returned for a partition number.

    Attributes:
        number: The partition number.
        records: Its records, in order.
        position: The next offset to read. It may lie past offsets without a record: compacted ones, and control records.
    """

    number: int
    records: Sequence[Record]
    position: int


def term_headers(term: int) -> tuple[tuple[str, bytes], ...]:
    """The headers of changelog records."""
    return ((TERM_HEADER, b"%d" % term),)


def term_of(headers: Any) -> int:
    """The term of a record; 0 without one."""
    for name, value in headers:
        if name == TERM_HEADER:
            return int(value)
    return 0


def check_start(topic: str, number: int, start: int, end: int) -> None:
    """Checks that the local store does not go further than the changelog.

    Raises:
        IsthmusError: it does.
    """
    if start > end:
        raise IsthmusError(
            f"the local store contains {topic}-{number} up to offset {start}, but the changelog ends at {end}: it was recreated, "
            "or the store belongs to another cluster. To start from what the changelog contains, move the worker's state directory "
            "(worker.state_dir) away; if that is too little, replay the input topics as well"
        )


def changelog_recreated(name: str) -> str:
    """The error message for a changelog that is not the one a worker's store continues."""
    return (
        f"{name} was deleted and recreated: it no longer holds what the stores of users' states are restored from. To rebuild the "
        "states from what the input topics still hold: stop all workers and encoders, run `isthmus reset`, delete the state "
        "directories (setting worker.state_dir) of workers on other machines, and start them again"
    )


def changelog_cut(name: str, number: int, offset: int) -> str:
    """The error message for a changelog that was cut and continued under the store that it restores."""
    return (
        f"{name}-{number} was cut: at offset {offset} it no longer holds what the local store took from it or wrote to it, so each "
        "holds states that the other lacks. Stop all workers, move their state directories (worker.state_dir) away, run "
        f"kafka-consumer-groups.sh --group {group_of(name)} --reset-offsets --to-earliest --all-topics --execute, and start "
        "them: what the states contain already is not applied again"
    )
