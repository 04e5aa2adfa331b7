"""Headers of the events that leave the system: CloudEvents 1.0, Kafka protocol binding, binary mode."""

from datetime import UTC, datetime
from functools import lru_cache


def cloud_event(event_id: str, kind: str, at_ms: int) -> tuple[tuple[str, bytes], ...]:
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", kind.encode()),
        ("ce_source", b"isthmus"),
        ("ce_time", _rfc3339(at_ms)),
    )


@lru_cache(maxsize=1_024)
def _rfc3339(at_ms: int) -> bytes:
    """Cached because the records of one produced batch share their broker time."""
    return datetime.fromtimestamp(at_ms / 1000, tz=UTC).isoformat(timespec="milliseconds").encode()
