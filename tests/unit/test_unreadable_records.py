"""Records and batches that a client library refuses, as both clients read them here."""

import struct
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from stream.core.dead_letters import dead_letter
from stream.core.events import Reason, Rejection, Source
from stream.core.outputs import DeadLetter
from stream.core.parsing import parse
from stream.core.records import Coordinates, PlainRecord
from stream.core.unreadable import UnreadableValue
from stream.errors import IsthmusError
from stream.kafka.cluster.corrupt_batches import RaiseAtCorruptBatch, Skip, StoppedPartitions
from stream.kafka.cluster.damaged_headers import REFUSED, SILENT, SILENT_S, Answers
from tests.batches import (
    ATTRIBUTES,
    RECORDS_BEGIN,
    build,
    damage,
    read_as_aiokafka,
    read_as_kafka_python,
    seal,
    with_byte,
    with_count,
    with_length,
)

Reader = Callable[..., tuple[list[Any], int]]
READERS = pytest.mark.parametrize("read", [read_as_aiokafka, read_as_kafka_python], ids=["aiokafka", "kafka-python"])
FIRST = build()[RECORDS_BEGIN : RECORDS_BEGIN + build()[RECORDS_BEGIN] // 2 + 1]
"""The bytes of the first record: length, attributes, time, offset, key, value, headers."""


def first_record(old: bytes, new: bytes) -> bytes:
    """A batch whose first record is changed, of the same length."""
    assert FIRST.count(old) == 1
    assert len(old) == len(new)
    return seal(build().replace(FIRST, FIRST.replace(old, new), 1))


BROKEN_FIRST_RECORD = {
    "header name not UTF-8": first_record(b"\x02h\x02v", b"\x02\xff\x02v"),
    "header name null": first_record(b"\x02h\x02v", b"\x01h\x02v"),
    "header name longer than the record": first_record(b"\x02h\x02v", b"\x7eh\x02v"),
    "header value longer than the record": first_record(b"\x02h\x02v", b"\x02h\x7ev"),
    "negative number of headers": first_record(b"\x02\x02h\x02v", b"\x01\x02h\x02v"),
    "more headers than bytes": first_record(b"\x02\x02h\x02v", b"\x7e\x02h\x02v"),
    "value longer than the record": first_record(b"\x020\x02", b"\x7e0\x02"),
    "negative length of the value": first_record(b"\x020\x02", b"\x050\x02"),
    "key longer than the record": first_record(b"\x04k0", b"\x7ek0"),
    "a number of more than 64 bits": first_record(b"\x04k0\x020\x02\x02h\x02v", b"\xff" * 10),
    "length one too long": seal(with_byte(build(), RECORDS_BEGIN, build()[RECORDS_BEGIN] + 2)),
    "length one too short": seal(with_byte(build(), RECORDS_BEGIN, build()[RECORDS_BEGIN] - 2)),
    "negative length": seal(with_byte(build(), RECORDS_BEGIN, 0x01)),
    "length beyond the batch": seal(with_byte(build(), RECORDS_BEGIN, 0x7E)),
}


@READERS
@pytest.mark.parametrize("batch", BROKEN_FIRST_RECORD.values(), ids=BROKEN_FIRST_RECORD)
def test_a_record_that_does_not_parse_is_named_and_its_neighbours_are_read(read: Reader, batch: bytes) -> None:
    """The first record has its offset and no value; the two after it, and the batch after that, come as they were sent."""
    records, position = read(batch + build([b"3"], base_offset=3))
    assert [record.offset for record in records] == [0, 1, 2, 3]
    assert isinstance(records[0].value, UnreadableValue)
    assert records[0].value.error
    assert [record.value for record in records[1:]] == [b"1", b"2", b"3"]
    assert [record.key for record in records[1:]] == [b"k1", b"k2", b"k0"]
    assert position == 4


@READERS
def test_fields_before_the_wrong_one_are_kept(read: Reader) -> None:
    """A record whose header alone is wrong keeps key, value and time, so that its dead letter can be replayed."""
    (record, *_), _ = read(BROKEN_FIRST_RECORD["header name not UTF-8"])
    assert (record.key, record.value.original, record.timestamp) == (b"k0", b"0", 1_000)
    assert tuple(record.headers) == (("\\xff", b"v"),)


@READERS
@pytest.mark.parametrize("count", [5, 1, 0, -1], ids=["too many", "too few", "none", "negative"])
def test_a_wrong_count_of_records_loses_none(read: Reader, count: int) -> None:
    """The records that are there are read, and nothing is named that no offset is left for."""
    records, position = read(with_count(build(), count) + build([b"3"], base_offset=3))
    assert [(record.offset, record.value) for record in records] == [(0, b"0"), (1, b"1"), (2, b"2"), (3, b"3")]
    assert position == 4


@READERS
def test_offsets_of_records_that_are_gone_are_named(read: Reader) -> None:
    """A batch that ends after its first record has an unreadable one for each other that it counts."""
    whole = build()
    cut = bytearray(whole[: RECORDS_BEGIN + len(FIRST)])
    struct.pack_into(">i", cut, 8, len(cut) - 12)
    records, position = read(seal(cut))
    assert [(record.offset, isinstance(record.value, UnreadableValue)) for record in records] == [(0, False), (1, True), (2, True)]
    assert position == 3


@READERS
@pytest.mark.parametrize("codec", [1, 2, 3, 4, 5, 6, 7])
def test_a_batch_that_does_not_decompress_is_named_record_by_record(read: Reader, codec: int) -> None:
    """Payloads that are not what the codec says, and codecs that Kafka does not know."""
    records, position = read(seal(with_byte(build(), ATTRIBUTES, codec)) + build([b"3"], base_offset=3))
    assert [isinstance(record.value, UnreadableValue) for record in records] == [True, True, True, False]
    assert position == 4


@READERS
def test_a_transaction_marker_that_does_not_parse_is_passed(read: Reader) -> None:
    """Control batches hold no events: without records, or with an invalid key, they stop nothing."""
    marker = with_count(with_byte(build([b"0"]), ATTRIBUTES, 0x30), 0)
    broken = seal(with_byte(build([b"1"], base_offset=1), ATTRIBUTES, 0x30))
    with_producer = [seal(batch[:43] + struct.pack(">q", 7) + batch[51:]) for batch in (marker, broken)]
    records, position = read(b"".join(with_producer) + build([b"2"], base_offset=2))
    assert [record.value for record in records] == [b"2"]
    assert position == 3


@READERS
def test_a_corrupt_batch_ends_a_command_with_its_offset_and_what_to_do(read: Reader) -> None:
    """Topic, partition, offset and the command are in the message; what came before it was read."""
    with pytest.raises(IsthmusError, match=r"clicks-0.*offset 3.*isthmus topics skip clicks 0 3"):
        read(build() + damage(build(base_offset=3)))
    records, _ = read(build() + damage(build(base_offset=3)), RaiseAtCorruptBatch(lambda _: {("clicks", 0): Skip(1, 3, 5)}))
    assert [record.offset for record in records] == [0, 1, 2, 3]
    assert isinstance(records[3].value, UnreadableValue)


def test_a_corrupt_batch_stops_its_partition_until_it_may_be_skipped() -> None:
    """What precedes it is read; its position stays; the skip of another offset changes nothing."""
    data = build() + damage(build([b"3", b"4"], base_offset=3)) + build([b"5"], base_offset=5)
    policy = StoppedPartitions()
    assert read_as_aiokafka(data, policy)[1] == 3
    assert [batch.offset for batch in policy.batches()] == [3]
    assert "clicks-0" in (policy.check() or "")
    policy.allow({("clicks", 0): Skip(1, 2, 2)})
    assert read_as_aiokafka(data, policy, position=3) == ([], 3)
    policy.allow({("clicks", 0): Skip(1, 3, 4)})
    records, position = read_as_aiokafka(data, policy, position=3)
    assert [(record.offset, isinstance(record.value, UnreadableValue)) for record in records] == [(3, True), (5, False)]
    assert "offsets 3 to 4" in records[0].value.error
    assert position == 6
    assert policy.check() is None


WRONG_LENGTHS = (-(2**31), -13, -1, 0, 13, 14, 48, 49, 60, 2**31 - 1)


@READERS
@pytest.mark.parametrize("length", WRONG_LENGTHS)
def test_a_wrong_length_in_a_header_ends_a_command_with_the_offset_and_what_to_do(read: Reader, length: int) -> None:
    """As the first batch of a fetch, where the broker has to send it whole; nothing after it is read as if it were a batch."""
    damaged = with_length(build(base_offset=3), length)
    with pytest.raises(IsthmusError, match=r"clicks-0.*offset 3.*isthmus topics skip clicks 0 3"):
        read(damaged + build([b"6"], base_offset=6), position=3)
    policy = RaiseAtCorruptBatch(lambda _: {("clicks", 0): Skip(1, 3, 5)})
    records, position = read(damaged + build([b"6"], base_offset=6), policy, position=3)
    assert [(record.offset, isinstance(record.value, UnreadableValue)) for record in records] == [(3, True)]
    assert "offsets 3 to 5" in records[0].value.error
    assert position == 6


@READERS
@pytest.mark.parametrize("length", [length for length in WRONG_LENGTHS if length < 2**30])
def test_what_precedes_a_wrong_length_is_read(read: Reader, length: int) -> None:
    """Then the reader stands at the damage, and never asks for what follows."""
    policy = StoppedPartitions()
    records, position = read(build() + with_length(build(base_offset=3), length) + build(base_offset=6), policy)
    assert [record.offset for record in records] == [0, 1, 2]
    assert position == 3
    assert [batch.offset for batch in policy.batches()] == [3]


@READERS
def test_a_batch_that_is_cut_off_at_the_end_of_a_fetch_is_no_damage(read: Reader) -> None:
    """The next fetch begins with it."""
    records, position = read(build() + build(base_offset=3)[:-1])
    assert ([record.offset for record in records], position) == ([0, 1, 2], 3)
    records, position = read(build() + build(base_offset=3)[:5])
    assert ([record.offset for record in records], position) == ([0, 1, 2], 3)


def test_an_answer_that_names_damage_stops_the_partition_at_once_and_silence_after_a_while() -> None:
    """Other errors, records, and an end that is reached say nothing; a partition that was paused is not silent."""
    now = [100.0]
    answers = Answers(lambda: now[0])
    assert answers.check("tp", 5, 2, 9, None) == (0, REFUSED)
    assert answers.check("tp", 5, 6, 9, None) == (6, None)
    assert [answers.check("tp", 5, 0, 9, b"") for _ in range(2)] == [(0, b"")] * 2
    now[0] += SILENT_S
    assert answers.check("tp", 6, 0, 9, b"") == (0, b"")
    assert answers.check("other", 5, 0, 5, b"") == (0, b"")
    now[0] += SILENT_S
    assert answers.check("tp", 6, 0, 9, b"") == (0, SILENT)
    assert answers.check("other", 5, 0, 5, b"") == (0, b"")
    now[0] += 10 * SILENT_S
    assert answers.check("tp", 6, 0, 9, b"") == (0, b"")


def test_what_is_allowed_counts_for_one_damage_and_a_stop_ends_behind_it() -> None:
    """The topic may be recreated under the same name. What lies before the damage is no sign that it is over."""
    policy = StoppedPartitions()
    policy.allow({("clicks", 0): Skip(1, 0, 2)})
    policy.allow({("clicks", 1): Skip(1, 7, 7)})
    assert read_as_aiokafka(damage(build()), policy)[1] == 3
    assert read_as_aiokafka(damage(build()), policy)[1] == 0
    policy.read_to(("clicks", 0), 0)
    assert [batch.offset for batch in policy.batches()] == [0]
    policy.read_to(("clicks", 0), 1)
    assert not policy.batches()
    assert read_as_aiokafka(damage(build()), policy)[1] == 0
    policy.forget(["items"])
    assert policy.check() is not None
    policy.forget(["clicks"])  # another process reads it now, and tells
    assert policy.check() is None


@READERS
@given(index=st.integers(ATTRIBUTES, len(build()) - 1), value=st.integers(0, 255))
def test_no_byte_of_a_batch_stops_a_reader_or_moves_it_out_of_the_batch(read: Reader, index: int, value: int) -> None:
    """Whatever byte is wrong, the next batch is read whole, no offset comes twice, and none is outside the batch."""
    if 23 <= index <= 26:  # the last offset itself
        return
    records, position = read(seal(with_byte(build(), index, value)) + build([b"3"], base_offset=3))
    offsets = [record.offset for record in records]
    assert offsets == sorted(set(offsets))
    assert (offsets[-1], records[-1].value, position) == (3, b"3", 4)


@pytest.mark.parametrize("source", list(Source))
def test_an_unreadable_value_is_rejected_with_its_own_reason(source: Source) -> None:
    """Whatever decoder or field mapping the topic has; the dead letter of a whole value holds it."""
    value = UnreadableValue.of("the name of a header is not UTF-8", original=b'{"user_id": "u"}')
    for mapper in (None, lambda fields: fields):
        rejection = parse(source, value, mapper)
        assert rejection == Rejection(Reason.UNREADABLE, "the name of a header is not UTF-8")
    assert isinstance(rejection, Rejection)
    (record, *_), _ = read_as_aiokafka(BROKEN_FIRST_RECORD["header name not UTF-8"])
    letter = _letter(record, rejection)
    assert (letter.reason, letter.key, letter.original, letter.original_bytes) == ("unreadable", b"k0", b"0", 1)


def test_a_dead_letter_of_a_value_that_is_not_whole_holds_none() -> None:
    (record, *_), _ = read_as_aiokafka(BROKEN_FIRST_RECORD["value longer than the record"])
    letter = _letter(record, Rejection(Reason.UNREADABLE, "error"))
    assert (letter.key, letter.original, letter.original_bytes) == (b"k0", None, 0)


def _letter(record: Any, rejection: Rejection) -> DeadLetter:
    import msgspec

    output = dead_letter(Source.CLICK, Coordinates("clicks", 1, 0, record.offset), record, rejection)
    assert output.value is not None
    return msgspec.json.decode(output.value, type=DeadLetter)


@pytest.mark.parametrize("mapper", [None, lambda fields: fields], ids=["our fields", "a field mapping"])
def test_an_unreadable_transcript_is_rejected_with_its_own_reason(mapper: Any) -> None:
    """The encoder reads transcripts, not the step."""
    from stream.text.encode_stage import TranscriptFormat, _read

    record = PlainRecord(0, 1_000, b"user", UnreadableValue.of("the name of a header is not UTF-8"))
    assert _read(record, TranscriptFormat(mapper)) == Rejection(Reason.UNREADABLE, "the name of a header is not UTF-8")


def test_recovery_stops_at_an_unreadable_state_unless_it_was_given_up() -> None:
    """Else the newest state of a user would be missing in silence. The message names the place and the command."""
    from stream.kafka.faust.changelog_reading import readable

    good, bad = PlainRecord(6, 1_000, b"k", b"state"), PlainRecord(7, 1_000, b"k", UnreadableValue.of("a length is wrong"))
    tp = TopicPartition("changelog", 2)
    assert readable(tp, [good], lambda _: {}) == [good]
    with pytest.raises(IsthmusError, match=r"changelog-2.*offset 7.*isthmus topics skip changelog 2 7"):
        readable(tp, [good, bad], lambda _: {("changelog", 2): Skip(1, 3, 6)})
    assert readable(tp, [good, bad], lambda _: {("changelog", 2): Skip(1, 7, 7)}) == [good]


def test_the_text_of_a_skip_survives_the_broker() -> None:
    """It is the metadata of a committed offset; anything else there allows nothing."""
    skip = Skip(epoch=4, first=17, last=19)
    assert Skip.of(skip.to_text()) == skip
    assert [Skip.of(text) for text in (None, "", "{}", "not JSON")] == [None] * 4
