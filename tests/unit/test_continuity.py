"""Where a partition is read on after its log was cut, refilled, emptied, recreated, or its group's offset moved."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from stream.core.outputs import DeadLetter, Origin
from stream.core.records import Batch, PlainRecord
from stream.core.watermarks import Watermark, decode_watermark, encode_watermark, watermark_of_call
from stream.kafka.cluster.dead_letter_replay import Original, original_of
from stream.kafka.cluster.log_state import LogState, Mark
from stream.kafka.delivery.continuity import GapKind, continuation, mark_of
from stream.kafka.faust.watermarks import Watermarks
from stream.metrics import Metrics
from tests import world

APPLIED = Watermark(1, epoch=7, offset=99, timestamp=5_000)
PARTITION = ("clicks", 0)


def kind_of(log: LogState, committed: int = 100, **more: Any) -> tuple[GapKind | None, int | None]:
    found = continuation(APPLIED, 7, log, committed, **more)
    return None if found.gap is None else found.gap.kind, found.start


@pytest.mark.parametrize(
    ("log", "committed", "kind", "start"),
    [
        (LogState(0, 100, 5_000), 100, None, None),
        (LogState(0, 150, 5_000), 100, None, None),
        (LogState(100, 100), 100, None, None),
        (LogState(0, 150, 5_000), 20, None, None),  # moved back: applied offsets drop what comes again
        (LogState(0, 99, later=None), 100, GapKind.CUT, 99),
        (LogState(0, 0), 100, GapKind.CUT, 0),
        (LogState(0, 60, later=41), 100, GapKind.CUT, 41),
        (LogState(0, 150, 6_000, later=41), 100, GapKind.CUT, 41),
        (LogState(0, 150, None, later=41), 100, GapKind.CUT, 41),  # a control record is at the offset now
        (LogState(0, 150, 4_000, later=120), 100, GapKind.CUT, 120),
        (LogState(120, 150), 100, GapKind.DELETED, 120),
        (LogState(120, 150), 130, GapKind.DELETED, 120),
        (LogState(0, 150, 5_000, skipped=True), 130, GapKind.MOVED, 100),
        (LogState(100, 150, None, skipped=True), 130, GapKind.MOVED, 100),  # the last applied record was deleted
        (LogState(0, 110, 5_000, skipped=True), 115, GapKind.MOVED, 100),
        (LogState(0, 150, 5_000), 130, None, None),  # only control records are between
        (LogState(0, 110, 5_000), 115, None, 100),  # records that were read but not applied are gone
    ],
)
def test_a_partition_is_read_on_where_the_states_end(
    log: LogState, committed: int, kind: GapKind | None, start: int | None
) -> None:
    assert kind_of(log, committed) == (kind, start)


def test_a_log_that_can_be_read_again_is_read_from_its_start() -> None:
    """Encoded calls carry the offsets of their transcripts, so nothing is applied twice."""
    assert kind_of(LogState(3, 60, later=41), replayable=True) == (GapKind.CUT, 3)


def test_committed_records_without_an_output_are_no_proof_of_a_reset_where_outputs_are_the_only_trace() -> None:
    """They may have become dead letters before marks were committed."""
    assert kind_of(LogState(0, 150, 5_000, skipped=True), 130, keeps_state=False) == (GapKind.UNCONFIRMED, None)


def test_the_offsets_of_a_recreated_topic_begin_anew() -> None:
    found = continuation(APPLIED, 8, LogState(0, 500, 5_000), 100)
    assert found.gap is not None
    assert (found.gap.kind, found.start, found.watermark.epoch_at(0)) == (GapKind.RECREATED, 0, 8)


@pytest.mark.parametrize(
    ("log", "committed", "keeps_state", "kind", "start"),
    [
        (LogState(0, 50), 0, True, None, None),
        (LogState(40, 50), 0, True, None, None),  # a group that begins, not one that lost records
        (LogState(0, 50), 50, True, None, None),
        (LogState(40, 50), 30, True, GapKind.DELETED, 40),
        (LogState(0, 50), 60, True, GapKind.CUT, 50),
        (LogState(10, 50), 60, False, GapKind.CUT, 10),
    ],
)
def test_without_a_watermark_the_committed_offset_is_compared(
    log: LogState, committed: int, keeps_state: bool, kind: GapKind | None, start: int | None
) -> None:
    """As on the first start of a version that keeps watermarks, and for a quiet partition of the encoder."""
    found = continuation(None, 7, log, committed, keeps_state=keeps_state)
    assert (None if found.gap is None else found.gap.kind, found.start) == (kind, start)


@pytest.mark.parametrize(
    ("log", "committed", "kind"),
    [
        (LogState(0, 50), 0, None),
        (LogState(40, 50), 0, None),
        (LogState(0, 50, skipped=True), 50, GapKind.LOST),
        (LogState(40, 50), 45, GapKind.LOST),
        (LogState(0, 3), 3, None),  # nothing but control records was committed
    ],
)
def test_a_missing_watermark_is_a_loss_where_all_that_was_applied_has_one(
    log: LogState, committed: int, kind: GapKind | None
) -> None:
    """The states go on from the committed offset, so that the next start compares again."""
    found = continuation(None, 7, log, committed, knows_all=True)
    assert (None if found.gap is None else found.gap.kind, found.start) == (kind, None)
    assert found.watermark.offset == max(committed, log.start) - 1
    assert continuation(None, 7, log, committed).gap is None  # an upgrade


def test_an_offset_moved_beyond_a_watermark_without_a_record_is_found() -> None:
    """As of an input of which nothing was applied yet, whatever its first offset is."""
    for offset in (-1, 39):
        watermark = Watermark(1, 7, offset, -1)
        assert mark_of(watermark, offset + 1) is None
        assert mark_of(watermark, offset + 5) == Mark(offset, -1, offset + 5)
        found = continuation(watermark, 7, LogState(offset + 1, offset + 9, skipped=True), offset + 5)
        assert found.gap is not None
        assert (found.gap.kind, found.start) == (GapKind.MOVED, offset + 1)


def test_after_each_cut_new_records_have_a_later_epoch_and_old_ones_keep_theirs() -> None:
    """So a rewound group applies nothing twice, and new records at old offsets are applied."""
    watermark = APPLIED.cut(40).advanced(120, 6_000).cut(60)
    assert decode_watermark(encode_watermark(watermark)) == watermark
    batch = Batch("click", "clicks", 7, 0, [], boundaries=watermark.boundaries)  # type: ignore[arg-type]
    epochs = [batch.coordinates(PlainRecord(offset, 0, None, None)).epoch for offset in (39, 40, 59, 60, 500)]
    assert epochs == [7, 8, 8, 9, 9]
    again = watermark.advanced(90, 7_000).cut(20)
    assert [again.epoch_at(offset) for offset in (19, 20, 40, 60)] == [7, 10, 10, 10]


def test_the_encoder_learns_from_its_last_output_how_far_it_came() -> None:
    call = world.call("c", 1, 2, offset=12)
    record = PlainRecord(3, 5_000, b"u", world.encode(call))
    found = watermark_of_call(record, call.origin_topic, call.origin_epoch)
    assert found == Watermark(1, call.origin_epoch, 12, 5_000)
    later = watermark_of_call(record, call.origin_topic, call.origin_epoch - 2)
    assert later is not None
    assert (later.epoch, later.epoch_at(0)) == (call.origin_epoch - 2, call.origin_epoch)
    assert watermark_of_call(record, "another-topic", 1) is None
    assert watermark_of_call(PlainRecord(3, 5_000, b"u", b"{"), call.origin_topic, 1) is None


class Broker:
    """An app whose log is whatever `state` says."""

    def __init__(self, state: LogState) -> None:
        self.state = state
        self.asked: list[dict[Any, Mark | None]] = []
        self.failures = 0
        self.reconnected = 0
        self.transport = self
        self.consumer = SimpleNamespace(
            reconnections=lambda _: self.reconnected, holds=lambda _: True, committed_offsets=self.committed_offsets
        )

    async def read_log_states(self, marks: dict[Any, Mark | None]) -> dict[Any, LogState]:
        self.asked.append(marks)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        return dict.fromkeys(marks, self.state)

    async def committed_offsets(self, partitions: list[Any]) -> Any:
        return dict.fromkeys(partitions, 100)


async def started(broker: Broker) -> tuple[Watermarks, Metrics]:
    metrics = Metrics()

    async def stored(_: Any) -> Any:
        return {PARTITION: APPLIED}

    watermarks = Watermarks(broker, {"clicks": 7}, metrics, stored)
    assert (
        await watermarks.starts([SimpleNamespace(topic="clicks", partition=0), SimpleNamespace(topic="other", partition=0)]) == {}
    )
    return watermarks, metrics


def message(offset: int) -> Any:
    return SimpleNamespace(topic="clicks", partition=0, generation_id=1, value=[PlainRecord(offset, 9_000, None, None)])


async def test_a_running_worker_looks_at_the_log_again_after_a_reconnection_only() -> None:
    """Offsets look the same when a log was cut and refilled beyond: the first batch over a new connection is compared."""
    broker = Broker(LogState(0, 100, 5_000))
    watermarks, _ = await started(broker)
    assert not watermarks.is_doubtful(message(100))
    watermarks.advance(PARTITION, message(100).value)
    broker.reconnected = 1
    assert watermarks.is_doubtful(message(101))
    broker.state = LogState(0, 150, 9_000)
    assert await watermarks.still_continues(message(101))
    assert not watermarks.is_doubtful(message(101))
    broker.reconnected, broker.state = 2, LogState(0, 150, 9_500, later=40)
    assert watermarks.is_doubtful(message(101))
    assert not await watermarks.still_continues(message(101))
    assert watermarks.is_doubtful(message(101))


async def test_a_running_worker_says_so_when_records_were_deleted_before_it_read_them() -> None:
    """The client goes on at the log's start without a word."""
    broker = Broker(LogState(0, 100, 5_000))
    watermarks, metrics = await started(broker)
    assert not watermarks.is_doubtful(message(101))  # a control record is between
    assert watermarks.is_doubtful(message(120))
    broker.state = LogState(120, 150)
    assert await watermarks.still_continues(message(120))
    assert metrics.total("log_gaps", "clicks", "deleted") == 1


async def test_a_batch_waits_until_the_broker_answers_or_the_partition_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.kafka.faust.watermarks._RETRY_S", 0.0)
    broker = Broker(LogState(0, 150, 5_000))
    watermarks, _ = await started(broker)
    broker.failures = 3
    assert await watermarks.still_continues(message(100))
    broker.consumer.holds = lambda _: False
    assert not await asyncio.wait_for(watermarks.still_continues(message(100)), 1)


async def test_redelivered_batches_do_not_turn_a_watermark_back() -> None:
    broker = Broker(LogState(0, 100, 5_000))
    watermarks, _ = await started(broker)
    assert watermarks.advance(PARTITION, message(60).value) is None
    assert watermarks.advance(PARTITION, []) is None
    assert watermarks.advance(PARTITION, message(130).value) == Watermark(1, 7, 130, 9_000)


@pytest.mark.parametrize(
    ("epoch", "timestamp", "replayed"), [(7, 5_000, True), (8, 5_000, True), (6, 5_000, False), (7, 6_000, False)]
)
def test_a_dead_letters_original_is_read_from_its_offset_only_if_it_is_still_there(
    epoch: int, timestamp: int, replayed: bool
) -> None:
    """After a cut another record may be there. Letters of records after a cut have a later epoch than the topic's."""
    letter = DeadLetter(reason="invalid", error="", origin=Origin("calls", epoch, 0, 12), occurred_at=5_000, original_bytes=3)
    reader: Any = SimpleNamespace(record_at=lambda *_: PlainRecord(12, timestamp, b"u", b"new"))
    found = original_of(reader, letter, {"calls": 7})
    assert isinstance(found, Original) is replayed
