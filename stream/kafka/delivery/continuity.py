"""Decides where to read a partition on, given what the states contain of it and what its log holds now.

A worker whose log was cut, recreated, moved or emptied under it must neither drop new records whose offsets it has seen before, nor
apply again what it has applied. Where records are lost, the gap says so.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from stream.core.records import later_epoch
from stream.core.watermarks import VERSION, Watermark
from stream.kafka.cluster.log_state import LogState, Mark

_UNKNOWN_CUTS: Final = 16
"""By how many cuts the epoch advances where nothing says how many there were."""


class GapKind(StrEnum):
    """What happened to a partition: a label of the metric `log_gaps`."""

    CUT = "cut"
    DELETED = "deleted"
    MOVED = "moved"
    UNCONFIRMED = "unconfirmed"
    RECREATED = "recreated"
    LOST = "lost"


class Gap(NamedTuple):
    """What happened to a partition, and in words what that means."""

    kind: GapKind
    text: str


class Continuation(NamedTuple):
    """How a partition is read on.

    Attributes:
        watermark: From which the next batches advance.
        start: Where to read on; None: at the committed offset.
        gap: What happened, if anything did.
    """

    watermark: Watermark
    start: int | None = None
    gap: Gap | None = None


def mark_of(watermark: Watermark | None, committed: int) -> Mark | None:
    """The record to look for, or after which to look for others; None if there is neither."""
    offset, timestamp = (-1, -1) if watermark is None else (watermark.offset, watermark.timestamp)
    skips_to = committed if committed > offset + 1 else 0
    return Mark(offset, timestamp, skips_to) if timestamp >= 0 or skips_to else None


def continuation(
    watermark: Watermark | None,
    epoch: int,
    log: LogState,
    committed: int,
    *,
    replayable: bool = False,
    keeps_state: bool = True,
    knows_all: bool = False,
) -> Continuation:
    """How to read a partition on.

    Args:
        watermark: What the states contain of it; None: not known.
        epoch: Of the topic now.
        log: What the partition holds now.
        committed: The group's committed offset; 0: none.
        replayable: Whether reading its records again changes nothing, because they carry the offsets of another topic.
        keeps_state: Whether there are states, which say what was applied; otherwise outputs are the only trace.
        knows_all: Whether there is a watermark wherever something was applied, so that none means that the states are lost.
    """
    if watermark is None:
        return _without_watermark(epoch, log, committed, from_start=replayable or not keeps_state, knows_all=knows_all)
    if watermark.epoch != epoch:
        text = "it was deleted and recreated; it is read from its beginning"
        return Continuation(Watermark(VERSION, epoch, log.start - 1, -1), log.start, Gap(GapKind.RECREATED, text))
    following, mark = watermark.offset + 1, mark_of(watermark, committed)
    if log.end < following or (mark is not None and not log.holds(mark)):
        return _after_cut(watermark, log, replayable=replayable)
    if log.start > following:
        return Continuation(watermark.advanced(log.start - 1, -1), log.start, _deleted(following, log.start))
    if log.skipped and not keeps_state:
        return Continuation(watermark.advanced(committed - 1, -1), None, _unconfirmed(following, committed))
    is_moved = log.skipped or (mark is None and committed > following)
    gap = _moved(following, committed) if is_moved and keeps_state else None
    return Continuation(watermark, following if gap is not None or committed > log.end else None, gap)


def _moved(first: int, committed: int) -> Gap:
    """Not skipped: the applied offset of a user is one number, so a later event would hide the skipped ones for ever."""
    text = (
        f"the group's offset is {committed}, but the states end before offset {first}: the offset was moved, or states were lost. "
        f"Reading continues at offset {first}"
    )
    return Gap(GapKind.MOVED, text)


def _unconfirmed(first: int, committed: int) -> Gap:
    text = (
        f"offsets {first} to {committed - 1} are committed, but the output holds nothing of them: the output was cut, the group's "
        f"offset was moved, or they are dead letters of an earlier version. They are not read. If the group's offset is reset to "
        f"{first}, their output counts only for users of whom nothing later is applied"
    )
    return Gap(GapKind.UNCONFIRMED, text)


def _deleted(first: int, start: int) -> Gap:
    text = f"its offsets {first} to {start - 1} were deleted before they were applied, by its retention or by hand: they are lost"
    return Gap(GapKind.DELETED, text)


def _lost(committed: int) -> Gap:
    text = (
        f"offset {committed} is committed, but the states hold nothing of this input: the changelog lost its end or everything, or "
        "somebody set the group's offset. Histories and erasures are missing. Stop all workers, reset all offsets of the group "
        "(kafka-consumer-groups.sh --reset-offsets --to-earliest --all-topics --execute), and start them: what the states contain "
        "already is not applied again"
    )
    return Gap(GapKind.LOST, text)


def _without_watermark(epoch: int, log: LogState, committed: int, *, from_start: bool, knows_all: bool) -> Continuation:
    """Where only the committed offset is known: at first, on an upgrade from a version without watermarks, or after a loss."""
    unread = Watermark(VERSION, epoch, max(committed, log.start) - 1, -1)
    if committed > log.end:
        first = log.start if from_start else log.end
        text = (
            f"it was cut: offset {committed} is committed, but it ends at {log.end}. It is read on from offset {first}. It is not "
            "known which of the records before that are new: they are not applied"
        )
        continued = Watermark(VERSION, epoch, first - 1, -1, ((first, later_epoch(epoch, _UNKNOWN_CUTS)),))
        return Continuation(continued, first, Gap(GapKind.CUT, text))
    if 0 < committed < log.start:
        return Continuation(unread, log.start, _deleted(committed, log.start))
    is_lost = knows_all and committed > 0 and (log.skipped or log.start > 0)  # otherwise there were only control records
    return Continuation(unread, None, _lost(committed) if is_lost else None)


def _after_cut(watermark: Watermark, log: LogState, *, replayable: bool) -> Continuation:
    was = f"it was cut: offset {watermark.offset} is applied, but it now holds other records there or ends at {log.end}"
    if replayable:
        text = (
            f"{was}. It is read again from its beginning, which changes nothing twice. What it lost before it was applied is "
            "missing; if its writer makes it again, it counts only for users of whom nothing later is applied"
        )
        return Continuation(Watermark(VERSION, watermark.epoch, log.start - 1, -1), log.start, Gap(GapKind.CUT, text))
    first = log.end if log.later is None else log.later
    text = (
        f"{was}. It is read on from offset {first}, the first record with a later broker time than the last applied one; "
        "records before it count as applied. States keep what the log has lost"
    )
    return Continuation(watermark.cut(first), first, Gap(GapKind.CUT, text))
