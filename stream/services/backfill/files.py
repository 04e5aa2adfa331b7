"""Events of the past from files: NDJSON, one file for each input, each line an event with our own field names.

The tables that `isthmus replay` and `isthmus train --data` read have no times, so that a running application's past cannot be read
from them.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from stream.core.events import INPUTS, Click, Erasure, InputTopic, Purchase, Rejection, to_milliseconds
from stream.core.parsing import parse, parse_transcript
from stream.core.partitioner import partition_of
from stream.errors import IsthmusError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_ROWS: Final = {row.role: row for row in INPUTS if not row.is_derived}
_CHUNK: Final = 1 << 20


class PastEvent(NamedTuple):
    """An event from a file.

    Attributes:
        role: Its input.
        user: The user id.
        value: The line.
        at_ms: When it happened.
        where: File and line.
        is_named: Whether another record of the same event is recognised; not that of a click or purchase without an id.
    """

    role: str
    user: str
    value: bytes
    at_ms: int
    where: str
    is_named: bool

    def partition(self, count: int) -> int:
        return partition_of(self.user.encode(), count)


def files_in(folder: Path) -> list[Path]:
    """The files of a folder, by input.

    Raises:
        IsthmusError: there are none, or one is named after no input.
    """
    found = sorted(folder.glob("*.ndjson"))
    wanted = ", ".join(f"{role}.ndjson" for role in _ROWS)
    unknown = [path.name for path in found if path.stem not in _ROWS]
    if unknown or not found:
        what = f"holds {unknown[0]}, which is named after no input" if unknown else "holds no file of events"
        raise IsthmusError(f"{folder} {what}: name the files {wanted}")
    return found


def identity_of(paths: list[Path]) -> str:
    """Identifies the names and contents of files."""
    found = blake2b(digest_size=16)
    for path in paths:
        found.update(path.name.encode())
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                found.update(chunk)
    return found.hexdigest()


def read_events(paths: list[Path]) -> Iterator[PastEvent]:
    """The events in the files, in order.

    Raises:
        IsthmusError: a line is no event of its input, or an erasure without a time; the message names file and line.
    """
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _event(_ROWS[path.stem], line.strip(), f"{path}:{number}")


def _event(row: InputTopic, line: bytes, where: str) -> PastEvent:
    event = parse_transcript(line) if row.role == "transcripts" else parse(row.source, line)
    if isinstance(event, Rejection):
        raise IsthmusError(f"{where}: {event.error}")
    at = event.started_at if row.role == "transcripts" else event.occurred_at  # type: ignore[union-attr]
    if at is None:
        assert isinstance(event, Erasure)
        raise IsthmusError(f"{where}: an erasure of the past needs occurred_at: without it, it would reach up to now")
    is_named = event.event_id is not None or not isinstance(event, Click | Purchase)
    return PastEvent(row.role, event.user_id, line, to_milliseconds(at), where, is_named)
