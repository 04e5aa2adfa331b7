"""A dead letter from a record: what could not be used, why, and where it stands.

One can always be sent, whatever the record holds.
"""

from typing import Final

import msgspec

from stream.core import limits
from stream.core.cloud_events import cloud_event
from stream.core.events import Rejection
from stream.core.outputs import DeadLetter, Origin, Output
from stream.core.records import Coordinates, Record

_HEADER_BYTES: Final = 8_192
_encode: Final = msgspec.json.Encoder().encode


def dead_letter(origin: Coordinates, record: Record, rejection: Rejection, *, with_original: bool = True) -> Output:
    """The dead letter of a record, its key "topic/epoch/partition/offset": sent twice, it is still one.

    Without the original (transcripts) it holds the coordinates only: neither key nor headers, for text may stand anywhere.
    """
    name = "/".join(map(str, origin))
    value = record.value or b""
    letter = DeadLetter(
        reason=rejection.reason,
        error=rejection.error,
        origin=Origin(*origin),
        occurred_at=record.timestamp,
        key=record.key[: limits.ORIGINAL_BYTES] if with_original and record.key is not None else None,
        headers=_bounded(record) if with_original else (),
        original=value[: limits.ORIGINAL_BYTES] if with_original else None,
        original_bytes=len(value),
    )
    return Output(name.encode(), _encode(letter), cloud_event(name, "isthmus.dead-letter", record.timestamp))


def _bounded(record: Record) -> tuple[tuple[str, bytes], ...]:
    """The headers, as many as fit 8 kB: a producer may send any number of any size."""
    kept: list[tuple[str, bytes]] = []
    size = 0
    for name, value in record.headers:
        size += len(name) + len(value or b"")
        if size > _HEADER_BYTES:
            break
        kept.append((name, value or b""))
    return tuple(kept)
