"""Inputs whose log no longer continues what was applied, on the embedded transport: cut, refilled, emptied, moved past.

New records are applied although their offsets were applied before, nothing is applied twice, and each gap is counted and logged.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.core.events import Click, EncodedCall, Erasure, Source
from stream.core.outputs import Output
from stream.core.partitioner import partition_of
from stream.core.records import Batch
from stream.core.state import WATERMARK_PREFIX
from stream.core.watermarks import decode_watermark, watermark_key, watermark_of_call
from stream.kafka.agents.stateless_agent import StatelessContext
from stream.kafka.app import add_stateless_agent, make_app, run_until_stopped
from stream.kafka.cluster.topics import changelog_name, specs
from stream.kafka.delivery.contracts import Emission
from stream.kafka.embedded.log import Log, open_log
from stream.metrics import Metrics
from tests import world
from tests.system.test_embedded import SOURCES, TOPICS, assert_exact, batches_in, events, name, newest, send, until, worker

__all__ = ["name"]

NUMBER = 1
PARTITION = (TOPICS.clicks, NUMBER)


def cut(log: Log, first: int, topic: str = TOPICS.clicks) -> None:
    """Loses the records from an offset on, as a broker does whose disk was lost: offsets begin there again."""
    partition = log.topics[topic].partitions[NUMBER]
    partition.records = [record for record in partition.records if record.offset < first]
    partition.next = first


def end(log: Log) -> int:
    return log.topics[TOPICS.clicks].partitions[NUMBER].end


def more_events(count: int) -> list[tuple[str, Click]]:
    """Clicks without ids, so that only their offsets identify them."""
    return [
        (TOPICS.clicks, Click(f"user-{number % 50}", 1_750_000_000_000 + number * 1_000, ("after",))) for number in range(count)
    ]


async def fold(name: str, log: Log, folder: Path, made: Sequence[tuple[str, Any]] = ()) -> tuple[Metrics, dict[Any, Any]]:
    """Runs a worker until everything is committed; returns its metrics and where it read partitions on."""
    async with worker(name, log, folder) as (app, metrics):
        await send(log, made)
        await until(lambda: app.tables.actives_ready and log.lag("isthmus-profiles", SOURCES) == 0)
        return metrics, dict(app.consumer.resume_at)


def handled(metrics: Metrics) -> float:
    """The clicks that were not duplicates. Those of one user are older than an erasure."""
    return metrics.total("events", "click", "applied") + metrics.total("events", "click", "erased")


def of_the_cut(log: Log, before: list[Batch], first: int, epochs: int = 1) -> list[Batch]:
    """What was ever written: the batches before the cut, and what was written since, which has the partition's later epoch."""
    since = []
    for batch in batches_in(log):
        if (batch.topic, batch.partition) == PARTITION:
            records = [record for record in batch.records if record.offset >= first]
            since.append(batch._replace(records=records, epoch=batch.epoch + epochs))
        else:
            since.append(batch)
    return [*(batch for batch in before if (batch.topic, batch.partition) == PARTITION), *since]


@pytest.mark.parametrize("refill", [30, 2_000])
async def test_a_log_cut_below_what_was_applied_loses_and_repeats_nothing(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, refill: int
) -> None:
    """Whether the log ends before its old end or beyond it when the worker starts, and after a rewind of the group."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await fold(name, log, tmp_path, events(1_000))
    before, old_end = batches_in(log), end(log)
    first = old_end // 2
    cut(log, first)
    await send(log, more_events(refill))
    assert (end(log) > old_end) == (refill == 2_000)
    metrics, starts = await fold(name, log, tmp_path, more_events(100))
    assert starts == {PARTITION: first}
    assert metrics.total("log_gaps", TOPICS.clicks, "cut") == metrics.total("log_gaps") == 1
    assert f"{TOPICS.clicks}-{NUMBER}: it was cut: offset {old_end - 1} is applied" in caplog.text
    assert_exact(log, of_the_cut(log, before, first))
    log.committed["isthmus-profiles"].clear()
    again, starts = await fold(name, log, tmp_path)
    assert (again.total("log_gaps"), starts) == (0, {})
    assert handled(again) == 0
    assert_exact(log, of_the_cut(log, before, first))


async def test_a_log_that_is_cut_twice_and_one_that_is_emptied_are_read_on(name: str, tmp_path: Path) -> None:
    """The second cut goes below the first. The store is lost in between, so the watermark comes from the changelog."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await fold(name, log, tmp_path / "one", events(400))
    before = batches_in(log)
    cut(log, 60)
    await fold(name, log, tmp_path / "two", more_events(100))
    between = [batch._replace(epoch=batch.epoch + 1) for batch in batches_in(log) if (batch.topic, batch.partition) == PARTITION]
    between = [batch._replace(records=[record for record in batch.records if record.offset >= 60]) for batch in between]
    cut(log, 0)
    metrics, starts = await fold(name, log, tmp_path / "two")
    assert (metrics.total("log_gaps"), starts) == (1, {PARTITION: 0})
    await fold(name, log, tmp_path / "two", more_events(50))
    stored = decode_watermark(newest(log, changelog_name("isthmus-profiles"))[watermark_key(TOPICS.clicks)])
    assert stored.offset >= 0
    assert_exact(log, [*(b for b in before if (b.topic, b.partition) == PARTITION), *between, *of_the_cut(log, [], 0, epochs=2)])


async def test_records_deleted_unread_are_counted_and_records_that_a_reset_passed_over_are_applied(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing can bring the first back; the others are read all the same, in their order."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await fold(name, log, tmp_path, events(400))
    applied = end(log)
    await send(log, more_events(200))
    partition = log.topics[TOPICS.clicks].partitions[NUMBER]
    partition.records = [record for record in partition.records if record.offset >= applied + 10]
    committed, other = log.committed["isthmus-profiles"], (TOPICS.clicks, 2)
    ended = committed[other]
    committed[other] += 5
    metrics, starts = await fold(name, log, tmp_path)
    assert metrics.total("log_gaps", TOPICS.clicks, "deleted") == metrics.total("log_gaps", TOPICS.clicks, "moved") == 1
    assert metrics.total("log_gaps") == 2
    assert starts == {PARTITION: applied + 10, other: ended}
    assert f"the group's offset is {ended + 5}, but the states end before offset {ended}" in caplog.text
    assert handled(metrics) == 200 - 10
    committed[other] -= 40
    again, starts = await fold(name, log, tmp_path)
    assert (handled(again), again.total("log_gaps"), starts) == (0, 0, {})


@pytest.mark.parametrize("has_marked_record", [True, False])
async def test_every_user_is_exact_after_the_group_was_moved_forward(name: str, tmp_path: Path, *, has_marked_record: bool) -> None:
    """In all partitions, with later events of every user; also where retention ended just behind the applied events."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await fold(name, log, tmp_path, events(400))
    applied, committed = batches_in(log), log.committed["isthmus-profiles"]
    await send(log, more_events(200))
    for number, partition in enumerate(log.topics[TOPICS.clicks].partitions):
        if not has_marked_record:
            partition.records = [record for record in partition.records if record.offset >= committed[TOPICS.clicks, number]]
        committed[TOPICS.clicks, number] = partition.end
    metrics, _ = await fold(name, log, tmp_path, more_events(100))
    assert metrics.total("log_gaps", TOPICS.clicks, "moved") == metrics.total("log_gaps") == 4
    assert handled(metrics) == 300
    assert_exact(log, [*applied, *batches_in(log)])


@pytest.mark.parametrize("kept", ["nothing", "the first batches"])
async def test_states_that_a_changelog_lost_are_told_and_come_back_after_a_reset(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: str
) -> None:
    """A worker without a local store has only the changelog. What is lost here holds the only erasure of the partition number."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    changelog = changelog_name("isthmus-profiles")
    user = next(user for user in map("user-{}".format, range(50)) if partition_of(user.encode(), TOPICS.partitions) == NUMBER)
    await fold(name, log, tmp_path / "one", more_events(400))
    kept_until = log.topics[changelog].partitions[NUMBER].end
    await fold(name, log, tmp_path / "one", [(TOPICS.erasures, Erasure(user, None))])
    batches = batches_in(log)
    cut(log, 0 if kept == "nothing" else kept_until, changelog)
    metrics, _ = await fold(name, log, tmp_path / "two")
    wanted = [(TOPICS.clicks, "lost"), (TOPICS.erasures, "lost")] if kept == "nothing" else [(TOPICS.erasures, "moved")]
    assert [metrics.total("log_gaps", *gap) for gap in wanted] == [1] * len(wanted)
    assert metrics.total("log_gaps") == len(wanted)
    assert f"{TOPICS.erasures}-{NUMBER}: " in caplog.text
    log.committed["isthmus-profiles"].clear()
    metrics, _ = await fold(name, log, tmp_path / "three")
    assert metrics.total("log_gaps") == 0
    assert_exact(log, batches)


async def test_an_offset_moved_past_records_of_an_input_that_was_never_applied_skips_nothing(name: str, tmp_path: Path) -> None:
    """The first batch of a partition number stores a watermark for each input."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await fold(name, log, tmp_path, more_events(400))
    await send(log, [(TOPICS.erasures, Erasure(f"user-{number}", None)) for number in range(50)])
    log.commit("isthmus-profiles", {(TOPICS.erasures, NUMBER): log.topics[TOPICS.erasures].partitions[NUMBER].end})
    metrics, _ = await fold(name, log, tmp_path)
    assert metrics.total("log_gaps", TOPICS.erasures, "moved") == metrics.total("log_gaps") == 1
    assert_exact(log, batches_in(log))


async def test_states_of_a_version_without_watermarks_are_believed_once(name: str, tmp_path: Path) -> None:
    """The next batch stores what is believed of all inputs, so that a later loss is told."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await fold(name, log, tmp_path / "one", events(400))
    for partition in log.topics[changelog_name("isthmus-profiles")].partitions:
        partition.records = [record for record in partition.records if not (record.key or b"").startswith(WATERMARK_PREFIX)]
    metrics, _ = await fold(name, log, tmp_path / "two", more_events(400))
    assert metrics.total("log_gaps") == 0
    stored = newest(log, changelog_name("isthmus-profiles"))
    assert {watermark_key(topic) for topic in SOURCES} <= stored.keys()


async def test_a_topic_recreated_while_the_worker_was_down_is_read_from_its_beginning(name: str, tmp_path: Path) -> None:
    """Although the group's offsets of the old topic are still there."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await fold(name, log, tmp_path, events(400))
    log.topics[TOPICS.clicks].epoch += 1 << 40
    for partition in log.topics[TOPICS.clicks].partitions:
        partition.records, partition.next = [], 0
    await send(log, more_events(300))
    metrics, _ = await fold(name, log, tmp_path)
    assert handled(metrics) == 300
    assert metrics.total("log_gaps", TOPICS.clicks, "recreated") == 4


async def test_a_cut_under_a_running_worker_renews_the_app_before_anything_is_applied(name: str, tmp_path: Path) -> None:
    """The connection to the broker was replaced, and the log reaches beyond its old end already."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    async with worker(name, log, tmp_path) as (app, metrics):
        await send(log, events(400))
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
        before, applied = batches_in(log), handled(metrics)
        cut(log, 10)
        app.consumer.reconnections = lambda partition: int(partition == PARTITION)
        user = next(user for user in (f"user-{number}" for number in range(50)) if partition_of(user.encode(), 4) == NUMBER)
        await send(log, [(TOPICS.clicks, Click(user, 1_750_000_000_000 + number, ("after",))) for number in range(200)])
        watchdog = app.watchdog
        await until(watchdog.renew.is_set)
        assert handled(metrics) == applied
    await fold(name, log, tmp_path)
    assert_exact(log, of_the_cut(log, before, 10))


def call_numbers(batch: Batch) -> list[Emission]:
    """An encoder without a text model. Values that are no number give no call."""
    calls, usable = [], [record for record in batch.records if (record.value or b"").isdigit()]
    for record in usable:
        origin = batch.coordinates(record)
        call = world.call(str(msgspec.json.decode(record.value or b"")), 1_750_000_000_000, 1_750_000_001_000)
        fields = {
            "origin_topic": origin.topic,
            "origin_epoch": origin.epoch,
            "origin_partition": origin.partition,
            "origin_offset": origin.offset,
        }
        calls.append(Output(record.key or b"", world.encode(msgspec.structs.replace(call, user_id="u", **fields))))
    return [Emission(TOPICS.encoded_calls, calls, [record.timestamp for record in usable])]


def encoder_context(epochs: Mapping[str, int], metrics: Metrics) -> StatelessContext:
    return StatelessContext(
        topic=TOPICS.transcripts,
        source=Source.CALL,
        epochs=epochs,
        process=call_numbers,
        metrics=metrics,
        output=TOPICS.encoded_calls,
        watermark_of=lambda record: watermark_of_call(record, TOPICS.transcripts, epochs[TOPICS.transcripts]),
    )


async def encode(name: str, log: Log, folder: Path, made: Sequence[bytes]) -> Metrics:
    """Runs an encoder until everything is committed."""
    metrics, stop = Metrics(), asyncio.Event()
    app = make_app("isthmus-encoder", f"embedded://{name}", data=folder, partitions=4)
    add_stateless_agent(app, encoder_context(log.epochs([TOPICS.transcripts]), metrics))
    running = asyncio.create_task(run_until_stopped(app, stop))
    await asyncio.gather(*(log.append(TOPICS.transcripts, "u", value) for value in made))
    await until(lambda: app.tables.actives_ready and log.lag("isthmus-encoder", [TOPICS.transcripts]) == 0)
    stop.set()
    await running
    return metrics


def calls_in(log: Log) -> list[EncodedCall]:
    partitions = log.topics[TOPICS.encoded_calls].partitions
    return [msgspec.msgpack.decode(record.value or b"", type=EncodedCall) for each in partitions for record in each.records]


async def test_transcripts_after_a_cut_reach_the_states_through_an_encoder_without_state(name: str, tmp_path: Path) -> None:
    """It learns from its last output how far it came, and gives the calls after the cut a later epoch."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await encode(name, log, tmp_path / "encoder", [b"%d" % number for number in range(6)])
    await fold(name, log, tmp_path)
    number = next(number for number, each in enumerate(log.topics[TOPICS.transcripts].partitions) if each.records)
    transcripts = log.topics[TOPICS.transcripts].partitions[number]
    transcripts.records, transcripts.next = transcripts.records[:2], 2
    await asyncio.sleep(0.005)
    await asyncio.gather(*(log.append(TOPICS.transcripts, "u", b"%d" % (100 + index)) for index in range(9)))
    metrics = await encode(name, log, tmp_path / "encoder", [b"200"])
    assert metrics.total("log_gaps", TOPICS.transcripts, "cut") == 1
    folded, _ = await fold(name, log, tmp_path)
    assert folded.total("events", "call", "applied") == 10
    epochs = [call.origin_epoch - log.topics[TOPICS.transcripts].epoch for call in calls_in(log)]
    assert epochs == [0] * 6 + [1] * 10
    assert await encode(name, log, tmp_path / "encoder", [b"300"])
    assert calls_in(log)[-1].origin_epoch == calls_in(log)[-2].origin_epoch


@pytest.mark.parametrize("refill", [1, 9])
async def test_a_cut_among_transcripts_that_became_dead_letters_is_found(name: str, tmp_path: Path, refill: int) -> None:
    """They leave no encoded call, so only the mark of the committed offset knows them. Below the old end, and beyond it."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await encode(name, log, tmp_path, [b"1", b"2", *[b"broken"] * 4])
    quiet = await encode(name, log, tmp_path, [])
    assert quiet.total("log_gaps") == 0
    transcripts = next(each for each in log.topics[TOPICS.transcripts].partitions if each.records)
    transcripts.records, transcripts.next = transcripts.records[:3], 3
    await asyncio.sleep(0.005)  # later by the log's clock
    await asyncio.gather(*(log.append(TOPICS.transcripts, "u", b"%d" % (100 + index)) for index in range(refill)))
    metrics = await encode(name, log, tmp_path, [])
    assert metrics.total("log_gaps", TOPICS.transcripts, "cut") == metrics.total("log_gaps") == 1
    epoch = log.topics[TOPICS.transcripts].epoch
    assert [(call.origin_offset, call.origin_epoch - epoch) for call in calls_in(log)] == [
        (0, 0),
        (1, 0),
        *((3 + index, 1) for index in range(refill)),
    ]
    assert (await encode(name, log, tmp_path, [b"broken"])).total("log_gaps") == 0
    assert (await encode(name, log, tmp_path, [b"200"])).total("log_gaps") == 0
    assert calls_in(log)[-1].origin_epoch - epoch == 1


async def test_a_cut_that_left_nothing_new_is_told_once(name: str, tmp_path: Path) -> None:
    """What the cut left is committed with its mark before the next transcript comes."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await encode(name, log, tmp_path, [b"1", b"2", *[b"broken"] * 4])
    transcripts = next(each for each in log.topics[TOPICS.transcripts].partitions if each.records)
    transcripts.records, transcripts.next = transcripts.records[:1], 1
    assert (await encode(name, log, tmp_path, [])).total("log_gaps", TOPICS.transcripts, "cut") == 1
    assert (await encode(name, log, tmp_path, [])).total("log_gaps") == 0
    await encode(name, log, tmp_path, [b"3"])
    assert [call.origin_offset for call in calls_in(log)] == [0, 1, 1]


async def test_an_output_that_lost_the_calls_of_committed_transcripts_is_told(name: str, tmp_path: Path) -> None:
    """The mark says which transcript gave the last call."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await encode(name, log, tmp_path, [b"%d" % number for number in range(6)])
    await encode(name, log, tmp_path, [b"broken"])
    calls = next(each for each in log.topics[TOPICS.encoded_calls].partitions if each.records)
    calls.records, calls.next = calls.records[:2], 2
    assert (await encode(name, log, tmp_path, [])).total("log_gaps", TOPICS.transcripts, "unconfirmed") == 1


async def test_encoded_calls_that_were_cut_are_read_again_and_applied_once(name: str, tmp_path: Path) -> None:
    """They carry the offsets of their transcripts."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    await encode(name, log, tmp_path / "encoder", [b"%d" % number for number in range(6)])
    await fold(name, log, tmp_path)
    partition = next(each for each in log.topics[TOPICS.encoded_calls].partitions if each.records)
    partition.records, partition.next = partition.records[:2], 2
    await encode(name, log, tmp_path / "encoder", [b"%d" % (100 + number) for number in range(9)])
    metrics, _ = await fold(name, log, tmp_path)
    assert metrics.total("events", "call", "applied") == 9
    assert metrics.total("events", "call", "duplicate_offset") == 2
    assert metrics.total("log_gaps", TOPICS.encoded_calls, "cut") == 1
