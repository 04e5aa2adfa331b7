"""Headers of the events that leave the system: CloudEvents 1.0, Kafka protocol binding, binary mode."""

from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from stream.core import limits

DEFAULT_APPLICATION: Final = b"isthmus"


def cloud_event(event_id: str, kind: str, at_ms: int, application: bytes) -> tuple[tuple[str, bytes], ...]:
    """The headers of an event. Its source is the application: two that read the same inputs give their events the same ids."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", kind.encode()),
        ("ce_source", application),
        ("ce_time", _rfc3339(at_ms)),
    )


@lru_cache(maxsize=1_024)
def _rfc3339(at_ms: int) -> bytes:
    """Any timestamp that a producer may give a record, the nearest that RFC 3339 can write if it has no such year.

    Cached because the records of one produced batch share their broker time.
    """
    within_ms = min(max(at_ms, limits.FIRST_TIME_MS), limits.LAST_TIME_MS)
    return datetime.fromtimestamp(within_ms / 1000, tz=UTC).isoformat(timespec="milliseconds").encode()
