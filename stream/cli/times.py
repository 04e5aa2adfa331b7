"""Durations and times as they are written on the command line."""

import re
from datetime import datetime
from typing import Final

from stream.errors import IsthmusError

_UNIT_S: Final = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")


def parse_interval_s(text: str) -> float:
    """Returns the seconds of "30s", "15m", "1h" or a bare number.

    Raises:
        IsthmusError: the text has another form, or is 0.

    >>> parse_interval_s("0.5m")
    30.0
    """
    match = _DURATION.fullmatch(text)
    if match is None or match[2] == "d" or float(match[1]) <= 0:
        raise IsthmusError(f"{text!r} is not an interval: write 30s, 15m or 1h")
    return _seconds(match)


def parse_moment_ms(text: str, now_ms: int) -> int:
    """Returns milliseconds since 1970 of "2h" (ago), "30m", "7d", "90s", or of an RFC 3339 time with a zone.

    Raises:
        IsthmusError: the text has another form.

    >>> parse_moment_ms("2h", 10_000_000)
    2800000
    >>> parse_moment_ms("1970-01-01T00:00:01Z", 0)
    1000
    """
    match = _DURATION.fullmatch(text)
    if match is not None and match[2]:
        return now_ms - round(_seconds(match) * 1_000)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise IsthmusError(f"{text!r} is not a time: write 2h, 30m or 7d (ago), or 2026-01-31T12:00:00Z")
    return int(moment.timestamp() * 1_000)


def _seconds(match: re.Match[str]) -> float:
    return float(match[1]) * _UNIT_S[match[2]]
