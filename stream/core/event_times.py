"""Which times of an event are plausible, and in which unit a producer writes integers.

A time in the wrong unit is a valid integer: seconds read as milliseconds lie in January 1970, microseconds far ahead. Such an event
must not be applied: an erasure would erase nothing, clicks of many weeks would be one session. Therefore nothing in January 1970 is
plausible, on any topic.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, TypeVar

import msgspec

from stream.core import limits
from stream.core.events import STEP_INPUTS, InputTopic, Item, Reason, Rejection, Transcript, to_milliseconds

AnyStruct = TypeVar("AnyStruct", bound=msgspec.Struct)


class TimeUnit(StrEnum):
    """Unit of a producer's integer times since 1970."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"


_NAMES: Final = {
    TimeUnit.SECONDS: "seconds",
    TimeUnit.MILLISECONDS: "milliseconds",
    TimeUnit.MICROSECONDS: "microseconds",
    TimeUnit.NANOSECONDS: "nanoseconds",
}
_NANOSECONDS: Final = {
    TimeUnit.SECONDS: 1_000_000_000,
    TimeUnit.MILLISECONDS: 1_000_000,
    TimeUnit.MICROSECONDS: 1_000,
    TimeUnit.NANOSECONDS: 1,
}
_FEBRUARY_1970_MS: Final = 31 * limits.DAY_MS
_RECENT_MS: Final = (631_152_000_000, 7_258_118_400_000)
"""1990 to 2200: a value that lies here in another unit is taken to be in that unit. Units are a factor of 1,000 apart, so that at
most one fits.
"""
_LAST_DAY_MS: Final = range(limits.LAST_TIME_MS - limits.DAY_MS, limits.LAST_TIME_MS + 1)


@dataclass(frozen=True)
class TimeRule:
    """The times of one topic.

    Attributes:
        unit: Of integers.
        earliest_ms: Events before it are implausible.
    """

    unit: TimeUnit = TimeUnit.MILLISECONDS
    earliest_ms: int = 0

    @cached_property
    def certain_from_ms(self) -> int:
        """No time from here on is too early: the one comparison that an ordinary event costs."""
        return max(self.earliest_ms, _FEBRUARY_1970_MS)

    def is_too_early(self, moment_ms: int) -> bool:
        return moment_ms < self.certain_from_ms and (moment_ms < self.earliest_ms or moment_ms >= 0)

    def rejection(self, moment_ms: int, broker_ms: int, max_ahead_ms: int, name: str = "its time") -> Rejection | None:
        """Why a time of an event is not plausible, or None where it is. `name` is what the error calls it."""
        if moment_ms > broker_ms + max_ahead_ms:
            seconds = max_ahead_ms // limits.SECOND_MS
            problem = f"{name} is more than {seconds} s ahead of the broker's"
            return Rejection(Reason.TOO_FAR_AHEAD, problem + self._guess(moment_ms))
        if moment_ms > limits.LAST_TIME_MS:  # its record's timestamp is in the same wrong unit
            return Rejection(Reason.IMPLAUSIBLE_TIME, f"{name} is after the year 9999" + self._guess(moment_ms))
        if self.is_too_early(moment_ms):
            bound = "in January 1970" if moment_ms >= self.earliest_ms else f"before {_day(self.earliest_ms)}"
            return Rejection(Reason.IMPLAUSIBLE_TIME, f"{name} is {bound}" + self._guess(moment_ms))
        return None

    def _guess(self, moment_ms: int) -> str:
        unit = likely_unit(moment_ms, self.unit)
        return "" if unit is None else f": it looks like {unit}, and {_NAMES[self.unit]} are expected (settings [times])"


def rule_of(row: InputTopic, unit: TimeUnit = TimeUnit.MILLISECONDS, earliest: date | None = None) -> TimeRule:
    """The rule of an input topic, by default as it is declared."""
    midnight = datetime.combine(earliest or row.earliest, time(), UTC)
    return TimeRule(unit, to_milliseconds(midnight))


DEFAULT_RULES: Final = {row.source: rule_of(row) for row in STEP_INPUTS}


def likely_unit(moment_ms: int, unit: TimeUnit) -> str | None:
    """The other unit in which a producer probably wrote a time; None if no unit gives a recent time.

    >>> likely_unit(1_790_000_000, TimeUnit.MILLISECONDS)
    'seconds'
    """
    value = _value(moment_ms, unit)
    first, last = _RECENT_MS
    for other, name in _NAMES.items():
        if other is not unit and first <= scaled(value, other) < last:
            return name
    return "days" if first <= value * limits.DAY_MS < last else None


def scaled(value: float, unit: TimeUnit) -> int:
    """An integer or fractional time in `unit` as integer milliseconds."""
    factor = _NANOSECONDS[unit]
    if isinstance(value, int):
        return value * factor // _NANOSECONDS[TimeUnit.MILLISECONDS]
    return round(value * factor / _NANOSECONDS[TimeUnit.MILLISECONDS])


TIME_FIELDS: Final = frozenset({"occurred_at", "started_at", "ended_at", "offered_from", "offered_until"})


def in_milliseconds(event: AnyStruct, unit: TimeUnit) -> AnyStruct:
    """An event whose integer times are in `unit`, with milliseconds instead."""
    if unit is TimeUnit.MILLISECONDS:
        return event
    changes: dict[str, Any] = {
        name: scaled(value, unit)
        for name in event.__struct_fields__
        if name in TIME_FIELDS and type(value := getattr(event, name)) is int
    }
    if isinstance(event, Transcript):
        changes["sentences"] = tuple(
            msgspec.structs.replace(sentence, at=scaled(sentence.at, unit)) if type(sentence.at) is int else sentence
            for sentence in event.sentences
        )
    return msgspec.structs.replace(event, **changes)


def transcript_rejection(transcript: Transcript, broker_ms: int, rule: TimeRule, max_ahead_ms: int) -> Rejection | None:
    """Why the times of a transcript are not plausible, or None. Those of its sentences count where it has no `ended_at`."""
    times: list[tuple[str, datetime | int]] = [("its beginning", transcript.started_at)]
    if transcript.ended_at is not None:
        times.append(("its end", transcript.ended_at))
    else:
        times += [("the time of a sentence", sentence.at) for sentence in transcript.sentences if sentence.at is not None]
    return _first(rule.rejection(to_milliseconds(at), broker_ms, max_ahead_ms, name) for name, at in times)


def _first(rejections: Iterable[Rejection | None]) -> Rejection | None:
    return next((rejection for rejection in rejections if rejection is not None), None)


def offer_rejection(item: Item, unit: TimeUnit) -> Rejection | None:
    """Why an integer that limits an item's offer reads as another unit, or None. `unit` is the topic's.

    An offer may begin and end at any time. So only integers are judged, and 0 stands for the beginning of time.
    """
    limits_of_offer = (("offered_from", item.offered_from), ("offered_until", item.offered_until))
    return _first(_offer_time_rejection(value, unit, field) for field, value in limits_of_offer if type(value) is int and value)


def _offer_time_rejection(moment_ms: int, unit: TimeUnit, field: str) -> Rejection | None:
    first, last = _RECENT_MS
    name = _unit_of_last_day(moment_ms, unit)
    if name is None and not first <= moment_ms < last:
        name = likely_unit(moment_ms, unit)
    if name is not None:
        return Rejection(
            Reason.IMPLAUSIBLE_TIME, f"`$.{field}` looks like {name}, and {_NAMES[unit]} are expected (settings [times])"
        )
    if not limits.FIRST_TIME_MS <= moment_ms <= limits.LAST_TIME_MS:
        return Rejection(Reason.IMPLAUSIBLE_TIME, f"`$.{field}` is not between the years 1 and 9999")
    return None


def _unit_of_last_day(moment_ms: int, unit: TimeUnit) -> str | None:
    """The other unit in which a value is on the last day of 9999, which stands for "without end"."""
    value = _value(moment_ms, unit)
    return next((name for other, name in _NAMES.items() if other is not unit and scaled(value, other) in _LAST_DAY_MS), None)


def _value(moment_ms: int, unit: TimeUnit) -> int:
    return moment_ms * _NANOSECONDS[TimeUnit.MILLISECONDS] // _NANOSECONDS[unit]


def _day(moment_ms: int) -> str:
    return datetime.fromtimestamp(moment_ms / limits.SECOND_MS, UTC).date().isoformat()
