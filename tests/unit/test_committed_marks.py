"""How far an app without states has read, by the mark of its committed offset and by its last output."""

import pytest

from stream.core.watermarks import VERSION, CommittedMark, Watermark, decode_mark, encode_mark, furthest
from stream.kafka.delivery.committed_marks import CommittedMarks

EPOCH = 7
PARTITION = ("call-transcripts", 0)


def watermark(offset: int, epoch: int = EPOCH, *boundaries: tuple[int, int]) -> Watermark:
    return Watermark(VERSION, epoch, offset, 1_000 + offset, boundaries)


CUT = watermark(60, EPOCH, (50, EPOCH + 1))
CONTINUED = watermark(55, EPOCH, (0, EPOCH + 1))  # what a call says: its epoch, not where it began


@pytest.mark.parametrize(
    ("mark", "output", "expected"),
    [
        (None, None, None),
        (None, watermark(9), watermark(9)),
        (CommittedMark(watermark(9)), None, watermark(9)),
        (CommittedMark(watermark(9), 4), watermark(4), watermark(9)),  # the rest became dead letters
        (CommittedMark(watermark(9), 4), watermark(12), watermark(12)),  # it ended before it committed
        (CommittedMark(watermark(9), 4), watermark(3), watermark(3)),  # the output lost its end
        (CommittedMark(CUT), watermark(99), CUT),  # no output since the cut
        (CommittedMark(CUT, 55), CONTINUED, CUT),
        (CommittedMark(CUT, 55), watermark(99), watermark(99)),  # the output lost what came after the cut: it is made again
        (CommittedMark(watermark(70)), CONTINUED, CONTINUED),  # it found the cut, and ended before it committed
        (CommittedMark(watermark(3)), watermark(99, 1 << 40), watermark(3)),  # no output yet of the topic that was created again
        (CommittedMark(watermark(99, 1 << 40), 99), watermark(3), watermark(3)),
    ],
)
def test_the_mark_counts_unless_the_output_is_ahead_or_lost_its_end(
    mark: CommittedMark | None, output: Watermark | None, expected: Watermark | None
) -> None:
    """In every order in which an app can end between output and commit."""
    assert furthest(mark, output, EPOCH) == expected


def test_what_is_committed_is_the_mark_of_the_last_record_before_the_offset() -> None:
    """Batches that are not acknowledged yet may have been added; control records may lie in between."""
    marks = CommittedMarks(in_flight=2)
    marks.begin({PARTITION: watermark(4)})
    marks.read_from({PARTITION: watermark(9)})
    marks.add(PARTITION, watermark(19), None)
    marks.add(PARTITION, watermark(29), watermark(25))
    marks.add(PARTITION, watermark(39), None)
    found = {offset: decode_mark(marks.metadata(PARTITION, offset)) for offset in (9, 10, 20, 22, 30, 40)}
    assert found == {
        9: None,
        10: CommittedMark(watermark(9), 4),
        20: CommittedMark(watermark(19), 4),
        22: CommittedMark(watermark(19), 4),
        30: CommittedMark(watermark(29), 25),
        40: CommittedMark(watermark(39), 25),
    }
    assert marks.metadata(("call-transcripts", 1), 5) == ""


def test_after_a_cut_an_older_output_does_not_count_as_written() -> None:
    """Its offset belongs to another epoch."""
    marks = CommittedMarks(in_flight=2)
    marks.begin({PARTITION: watermark(99)})
    marks.read_from({PARTITION: CUT})
    assert decode_mark(marks.metadata(PARTITION, 61)) == CommittedMark(CUT)


@pytest.mark.parametrize("text", ["", "{}", "[1]", "a reset", "null"])
def test_metadata_of_somebody_else_is_no_mark(text: str) -> None:
    assert decode_mark(text) is None


def test_the_longest_mark_fits_what_a_broker_takes() -> None:
    """`offset.metadata.max.bytes` is 4,096 by default."""
    largest = (1 << 63) - 1
    longest = CommittedMark(Watermark(VERSION, largest, largest, largest, ((largest, largest),) * 16), largest)
    assert decode_mark(encode_mark(longest)) == longest
    assert len(encode_mark(longest)) < 1_000
