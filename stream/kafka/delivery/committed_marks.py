"""Marks of committed offsets: how far an app without states has read, also where nothing came of the records.

Its last output says how far it came only up to there. Records behind that, which became dead letters, would leave no trace, and a
log that was cut among them would not be recognised.
"""

from collections.abc import Mapping
from typing import Final

from stream.core.watermarks import CommittedMark, Watermark, encode_mark
from stream.kafka.cluster.partition import Partition


class CommittedMarks:
    """The marks of batches that may still be committed.

    `metadata` may be called in another thread than the rest.

    Args:
        in_flight: Unacknowledged batches per partition number, at most.
    """

    def __init__(self, in_flight: int) -> None:
        self._kept: Final = in_flight + 2  # the last acknowledged one, and one that is being processed
        self._marks: dict[Partition, tuple[CommittedMark, ...]] = {}
        self._outputs: Mapping[Partition, Watermark] = {}

    def begin(self, outputs: Mapping[Partition, Watermark]) -> None:
        """Begins an assignment, given what the last outputs say."""
        self._marks, self._outputs = {}, outputs

    def read_from(self, watermarks: Mapping[Partition, Watermark]) -> None:
        """Keeps where the partitions are read on, for the commits before the first batch."""
        self._marks = {partition: (_first_mark(one, self._outputs.get(partition)),) for partition, one in watermarks.items()}

    def add(self, partition: Partition, watermark: Watermark, output: Watermark | None) -> None:
        """Keeps the mark of a batch; `output` is what its last output says, None without one."""
        before = self._marks.get(partition, ())
        written = output.offset if output is not None else before[-1].written if before else -1
        self._marks[partition] = (*before, CommittedMark(watermark, written))[-self._kept :]

    def metadata(self, partition: Partition, committed: int) -> str:
        """What to commit with an offset: the mark of the last record before it; empty if it is not known."""
        marks = [mark for mark in self._marks.get(partition, ()) if mark.watermark.offset < committed]
        return encode_mark(marks[-1]) if marks else ""


def _first_mark(watermark: Watermark, output: Watermark | None) -> CommittedMark:
    is_same = output is not None and output.last_epoch == watermark.last_epoch
    return CommittedMark(watermark, output.offset if output is not None and is_same else -1)
