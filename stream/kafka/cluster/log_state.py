"""What a partition's log holds now, compared with a record that it held before."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.core.records import Record
from stream.core.unreadable import UnreadableValue
from stream.kafka.cluster.fetching import fetch_until

MARK_FETCH_BYTES: Final = 64 << 10
"""Of one partition, at most, by a reader of marks: it needs one record of each. A broker returns a larger record all the same."""
_FETCH_MS: Final = 200
_STEP_BACK: Final = 8


class Mark(NamedTuple):
    """A record that a partition held.

    Attributes:
        offset: Its offset.
        timestamp: Its broker time, ms; -1: not known, so that only what follows it can be looked for.
        skips_to: The committed offset, if there may be records between it and this one that nobody read; else 0.
    """

    offset: int
    timestamp: int
    skips_to: int = 0


class LogState(NamedTuple):
    """What a partition holds now.

    Attributes:
        start: Its first offset.
        end: Its end offset.
        timestamp: Of the record at the mark's offset, ms; None: it has no record there.
        later: Offset of the first record that is later than the mark; None: there is none, or the log holds the mark.
        skipped: Whether there are records between the mark and `skips_to`.
    """

    start: int
    end: int
    timestamp: int | None = None
    later: int | None = None
    skipped: bool = False

    def holds(self, mark: Mark) -> bool:
        """Whether the marked record is there, or may have been before its retention ended."""
        is_same = mark.timestamp < 0 or self.start > mark.offset or self.timestamp == mark.timestamp
        return mark.offset < self.end and is_same


async def read_log_states(
    consumer: AIOKafkaConsumer, marks: Mapping[TopicPartition, Mark | None]
) -> dict[TopicPartition, LogState]:
    """Reads the states of partitions with a consumer that has no group and may be assigned to others."""
    if not marks:
        return {}
    await _look_up(consumer, marks)
    starts, ends = await consumer.beginning_offsets(marks), await consumer.end_offsets(marks)
    states = {tp: LogState(starts[tp], ends[tp]) for tp in marks}
    there = {
        tp: mark
        for tp, mark in marks.items()
        if mark is not None and mark.offset < ends[tp] and starts[tp] < max(mark.offset + 1, mark.skips_to)
    }
    for tp, (timestamp, skipped) in (await _read_marks(consumer, there, starts, ends)).items():
        states[tp] = states[tp]._replace(timestamp=timestamp, skipped=skipped)
    known = {tp: mark for tp, mark in marks.items() if mark is not None and mark.timestamp >= 0}
    gone = {tp: mark.timestamp + 1 for tp, mark in known.items() if not states[tp].holds(mark)}
    for tp, found in (await consumer.offsets_for_times(gone)).items() if gone else ():
        states[tp] = states[tp]._replace(later=None if found is None else found.offset)
    return states


async def _read_marks(
    consumer: AIOKafkaConsumer,
    marks: Mapping[TopicPartition, Mark],
    starts: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
) -> dict[TopicPartition, tuple[int | None, bool]]:
    """The timestamp at each mark's offset, and whether records follow it below `skips_to`. Control records are no records."""
    consumer.assign(list(marks))
    for tp, mark in marks.items():
        consumer.seek(tp, max(mark.offset, starts[tp]))
    found: dict[TopicPartition, tuple[int | None, bool]] = dict.fromkeys(marks, (None, False))
    open_marks = dict(marks)
    while open_marks:
        fetched = await consumer.getmany(timeout_ms=_FETCH_MS)
        for tp, mark in list(open_marks.items()):
            timestamp, skipped = found[tp]
            for record in fetched.get(tp, ()):
                if record.offset == mark.offset:  # a damaged record says nothing against the mark
                    timestamp = mark.timestamp if type(record.value) is UnreadableValue else record.timestamp
                skipped = skipped or mark.offset < record.offset < mark.skips_to
            found[tp] = timestamp, skipped
            if skipped or await consumer.position(tp) >= min(ends[tp], max(mark.offset + 1, mark.skips_to)):
                consumer.pause(tp)
                del open_marks[tp]
    return found


async def read_last_records(consumer: AIOKafkaConsumer, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, Record]:
    """The last record of each partition that has one, found by stepping back over offsets without a record."""
    if not partitions:
        return {}
    await _look_up(consumer, partitions)
    starts, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    last: dict[TopicPartition, Record] = {}
    steps = _STEP_BACK
    missing = {tp: ends[tp] for tp in partitions if starts[tp] < ends[tp]}
    while missing:
        consumer.assign(list(missing))
        for tp in missing:
            consumer.seek(tp, max(starts[tp], ends[tp] - steps))
        async for tp, records, _ in fetch_until(consumer, missing):
            if records:
                last[tp] = records[-1]
        missing = {tp: ends[tp] for tp in missing if tp not in last and ends[tp] - steps > starts[tp]}
        steps *= _STEP_BACK
    return last


async def _look_up(consumer: AIOKafkaConsumer, partitions: Iterable[TopicPartition]) -> None:
    """Looks up the leaders of all partitions at once. Otherwise aiokafka asks for one topic after the other, 0.1 s each."""
    await consumer._client.set_topics({tp.topic for tp in partitions})
