"""Dead letters: what could not be used, why, and where it is stored; and when there are too many of them.

A dead letter can be built and sent whatever the record contains. Who rejects: `stream.core.parsing.parse` what cannot be read,
`stream.core.step` (`_admit`, `_unusable`) what cannot be used, `stream.core.poison` what makes the step raise, and
`stream.text.encode_stage` transcripts.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from stream.core import limits
from stream.core.cloud_events import DEFAULT_APPLICATION, cloud_event
from stream.core.events import TEXT_SOURCES, Rejection, Source
from stream.core.outputs import DeadLetter, Origin, Output
from stream.core.records import Coordinates, Record
from stream.core.unreadable import UnreadableValue

_HEADER_BYTES: Final = 8_192
_HEADER_FRAME_BYTES: Final = 8  # JSON punctuation around each
_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(DeadLetter).decode


def dead_letter(
    source: Source | None, origin: Coordinates, record: Record, rejection: Rejection, application: bytes = DEFAULT_APPLICATION
) -> Output:
    """The dead letter of a record. Its key "topic/epoch/partition/offset" makes a repeated one the same.

    Without original, key and headers if the input carries text (`InputTopic.carries_text`): any may quote it. The catalogue's
    records have no `source`.
    """
    with_original = source not in TEXT_SOURCES
    name = "/".join(map(str, origin))
    value = record.value or b""
    whole = value.original if isinstance(value, UnreadableValue) else value
    letter = DeadLetter(
        reason=rejection.reason,
        error=rejection.error,
        origin=Origin(*origin),
        occurred_at=record.timestamp,
        key=record.key[: limits.ORIGINAL_BYTES] if with_original and record.key is not None else None,
        headers=_first_headers(record) if with_original else (),
        original=whole[: limits.ORIGINAL_BYTES] if with_original and whole is not None else None,
        original_bytes=len(whole or b""),
    )
    return Output(name.encode(), _encode(letter), cloud_event(name, "isthmus.dead-letter", record.timestamp, application))


def _first_headers(record: Record) -> tuple[tuple[str, bytes], ...]:
    """The first headers that fit into 8 kB: a producer may send any number of any size."""
    kept: list[tuple[str, bytes]] = []
    size = 0
    for name, value in record.headers:
        size += len(name) + len(value or b"") + _HEADER_FRAME_BYTES
        if size > _HEADER_BYTES:
            break
        kept.append((name, value or b""))
    return tuple(kept)


class _Counted(NamedTuple):
    """A batch of one topic."""

    records: int
    dead: int
    first_ms: int


@dataclass(slots=True)
class _Window:
    """The last batches of one topic, with their sums: a window of single records has a thousand batches."""

    batches: deque[_Counted] = field(default_factory=deque)
    records: int = 0
    dead: int = 0

    def add(self, batch: _Counted) -> None:
        self.batches.append(batch)
        self.records += batch.records
        self.dead += batch.dead

    def drop_first(self) -> None:
        first = self.batches.popleft()
        self.records -= first.records
        self.dead -= first.dead


class DeadLetterLimit:
    """Detects a broken topic, as opposed to some broken events: too many of its last records became dead letters.

    The limit is exceeded when more than `share` of a topic's last records, in whole batches, are dead letters. The last records are
    `window` of them or more. A topic of few records would fill that window in months, so `rare` records are enough if it took
    `rare_ms` or longer, by the broker's time, to get them. A share of 1 is never exceeded.
    """

    def __init__(self, share: float = 0.5, window: int = 1_000, rare: int = 10, rare_ms: int = limits.HOUR_MS) -> None:
        self._share = share
        self._window = window
        self._rare = rare
        self._rare_ms = rare_ms
        self._windows: dict[str, _Window] = {}

    def add(self, topic: str, records: int, letters: Sequence[Output], first_ms: int = 0, last_ms: int = 0) -> str | None:
        """Counts a batch and its dead letters. Returns an explanation if the limit is exceeded, else None.

        `first_ms` and `last_ms` are the broker's times of its first and last record.
        """
        window = self._windows.setdefault(topic, _Window())
        window.add(_Counted(records, len(letters), first_ms))
        batches = window.batches
        while len(batches) > 1 and self._is_enough(window.records - batches[0].records, last_ms - batches[1].first_ms):
            window.drop_first()
        enough = self._is_enough(window.records, last_ms - batches[0].first_ms)
        if not enough or window.dead <= self._share * window.records:
            return None
        return (
            f"{window.dead} of the last {window.records} records of {topic} are dead letters "
            f"({_most_frequent(letters)}), a larger share than dead_letters.stop_share = {self._share:g}: the topic, its mapping "
            "or this version is broken. The last batch was not committed. Fix the cause, start again, then replay the earlier dead "
            "letters with `isthmus dead-letters replay`"
        )

    def _is_enough(self, records: int, span_ms: int) -> bool:
        return records >= self._window or (records >= self._rare and span_ms >= self._rare_ms)


def _most_frequent(letters: Sequence[Output]) -> str:
    """The reason and error that most dead letters have."""
    decoded = (_decode(letter.value) for letter in letters if letter.value is not None)
    (reason_and_error, _), *_ = Counter((letter.reason, letter.error) for letter in decoded).most_common(1) or [(("", ""), 0)]
    return ": ".join(reason_and_error)
