"""What `stream.kafka` leans on inside Faust, mode and aiokafka.

When one of these fails after an upgrade, read `stream.kafka` again. The three corrections were each taken out by hand once (the
held resume; the frozen set, the answer to an empty one and the handing back; the seek): the tests that name them failed each time.
"""

import asyncio
import inspect
import time
from collections import defaultdict
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.services import ServiceTask

from stream.kafka.faust.batch_consumer import BatchConsumer
from stream.kafka.faust.recovery import SafeRecovery
from stream.kafka.faust.transport import ANSWER_MS, GuardedThread, KafkaConsumer, KafkaTransport

SOURCE = TP("web-clicks", 0)
CHANGELOG = TP("changelog", 0)


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_versions_are_those_that_were_read() -> None:
    """The subclasses were written against these; pyproject.toml pins the range."""
    assert version("faust-streaming").startswith("0.15.")
    assert version("aiokafka").startswith("0.14.")


def test_the_signatures_that_are_overridden_are_as_they_were() -> None:
    """Names and order of parameters."""
    assert parameters(Consumer.getmany) == ["self", "timeout"]
    assert parameters(Consumer._wait_next_records) == ["self", "timeout"]
    assert parameters(Consumer._add_gap) == ["self", "tp", "offset_from", "offset_to"]
    assert parameters(Consumer._new_offset) == ["self", "tp"]
    assert parameters(Consumer.resume_partitions) == ["self", "tps"]
    assert parameters(driver.AIOKafkaConsumerThread.getmany) == ["self", "active_partitions", "timeout"]
    assert parameters(driver.AIOKafkaConsumerThread._fetch_records) == [
        "self",
        "consumer",
        "active_partitions",
        "timeout",
        "max_records",
    ]
    assert parameters(driver.AIOKafkaConsumerThread.seek_to_committed) == ["self"]
    assert parameters(driver.AIOKafkaConsumerThread._commit) == ["self", "offsets"]
    assert parameters(driver.Producer._settings_extra) == ["self"]
    assert parameters(Recovery.on_recovery_completed) == ["self", "generation_id"]
    assert parameters(Fetcher.seek_to) == ["self", "tp", "offset"]
    assert parameters(BatchBuilder.append) == ["self", "timestamp", "key", "value", "headers"]


def test_what_is_called_inside_is_still_there() -> None:
    """Private names, by their use in the source of Faust itself."""
    for name in (
        "_unacked_messages",
        "_clean_unacked_messages",
        "_wait_for_ack",
        "_acked_index",
        "_committed_offset",
        "flow_active",
    ):
        assert name in inspect.getsource(Consumer)
    for name in ("_restart_recovery", "_slurp_changelogs", "_publish_stats"):
        assert isinstance(getattr(Recovery, name), ServiceTask), "ours stand in for these"
    for name in ("_wait", "_set_recovery_started", "_is_changelog_tp", "signal_recovery_start", "_generation_id", "active_tps"):
        assert name in inspect.getsource(Recovery)
    assert "self._isolation_level" in inspect.getsource(AIOKafkaConsumer.start)
    assert "_recovery" in inspect.getsource(TableManager)
    assert "self.recovery.start()" in inspect.getsource(TableManager.on_start)


def test_recovery_still_resumes_before_it_seeks() -> None:
    """Correction 1 is needed as long as this is so (faust-streaming/faust#596)."""
    source = inspect.getsource(Recovery.on_recovery_completed)
    assert source.index("resume_partitions") < source.index("perform_seek")


@pytest.mark.parametrize(("generation", "resumed"), [(1, [{SOURCE}]), (0, [])])
def test_source_partitions_are_resumed_only_after_the_recovery_has_completed(
    monkeypatch: pytest.MonkeyPatch, generation: int, resumed: list[set[TP]]
) -> None:
    """Correction 1: what Faust resumes meanwhile is held until it has returned; a changed generation resumes nothing."""
    seen: list[set[TP]] = []

    class Base:
        def resume_partitions(self, tps: set[TP]) -> None:
            seen.append(set(tps))

    class Held(BatchConsumer, Base):
        pass

    async def completed(self: Any, generation_id: int = 0) -> None:
        del generation_id
        self.app.consumer.resume_partitions({SOURCE})
        assert not seen

    monkeypatch.setattr(Recovery, "on_recovery_completed", completed)
    recovery = SafeRecovery.__new__(SafeRecovery)
    recovery.app = SimpleNamespace(consumer=Held(), consumer_generation_id=1)
    asyncio.run(recovery.on_recovery_completed(generation))
    assert seen == resumed


class FakeKafka:
    """As much of an aiokafka consumer as the thread touches."""

    def __init__(self, committed: dict[TP, int | None]) -> None:
        self.committed = committed
        self.sought: list[object] = []
        self._subscription = SimpleNamespace(is_assigned=lambda _: True)
        self._fetcher = SimpleNamespace(seek_to=lambda tp, offset: self.sought.append((tp, offset)))

    async def seek_to_committed(self) -> dict[TP, int | None]:
        return self.committed

    async def seek_to_beginning(self, *tps: TP) -> None:
        self.sought.append(("beginning", tps))


def thread(
    kafka: FakeKafka,
    *,
    flow_active: bool = True,
    active: tuple[TP, ...] = (SOURCE,),
    recreated: frozenset[str] = frozenset(),
) -> Any:
    """The guarded thread without its loop."""
    made: Any = GuardedThread.__new__(GuardedThread)
    made.consumer = SimpleNamespace(
        flow_active=flow_active,
        app=SimpleNamespace(consumer_generation_id=1, tables=SimpleNamespace(changelog_topics={"changelog"})),
        _get_active_partitions=lambda: set(active),
        recreated=recreated,
    )
    made._ensure_consumer = lambda: kafka

    async def call_thread(function: Any, *arguments: Any) -> Any:
        return await function(*arguments)

    made.call_thread = call_thread
    return made


def test_nothing_is_fetched_when_no_partition_is_active() -> None:
    """Correction 2: to aiokafka an empty set means all partitions."""
    assert asyncio.run(thread(FakeKafka({})).getmany(set(), 1.0)) == {}


def test_a_fetch_keeps_to_the_partitions_that_were_active_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Correction 2: Faust's live set becomes empty while aiokafka waits, and empty means all."""
    live = {SOURCE}
    fetched: list[set[TP]] = []

    async def getmany(self: Any, active_partitions: set[TP], timeout: float) -> dict[TP, list[Any]]:  # noqa: ASYNC109
        del self, timeout
        live.clear()
        fetched.append(set(active_partitions))
        return {}

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "getmany", getmany)
    asyncio.run(thread(FakeKafka({})).getmany(live, 1.0))
    assert fetched == [{SOURCE}]


@pytest.mark.parametrize(("flow_active", "generation"), [(False, 1), (True, 0)])
def test_records_fetched_for_a_former_state_are_handed_back(flow_active: bool, generation: int) -> None:
    """Correction 2: the flow stopped or the generation changed meanwhile."""
    kafka = FakeKafka({})
    records = {SOURCE: [SimpleNamespace(offset=7), SimpleNamespace(offset=8)]}
    assert asyncio.run(thread(kafka, flow_active=flow_active)._hand_back(records, generation)) == {}
    assert kafka.sought == [(SOURCE, 7)]


def test_records_of_partitions_no_longer_active_are_handed_back() -> None:
    """Correction 2: those of the others are delivered."""
    kafka = FakeKafka({})
    other = TP("web-clicks", 1)
    records = {SOURCE: [SimpleNamespace(offset=7)], other: [SimpleNamespace(offset=3)]}
    assert set(asyncio.run(thread(kafka)._hand_back(records, 1))) == {SOURCE}
    assert kafka.sought == [(other, 3)]


def test_uncommitted_source_partitions_are_sought_to_their_beginning() -> None:
    """Correction 3: aiokafka leaves them where they are; changelogs stay where recovery left them."""
    kafka = FakeKafka({SOURCE: None, CHANGELOG: None, TP("web-clicks", 1): 5})
    asyncio.run(thread(kafka).seek_to_committed())
    assert kafka.sought == [("beginning", (SOURCE,))]


def test_fausts_own_watch_for_livelocks_asks_what_ours_answers_with_nothing() -> None:
    """It takes changelogs for stuck after five minutes: a soak found it, for no shorter test runs so long."""
    assert "verify_all_partitions_active" in inspect.getsource(Consumer._commit_livelock_detector.fun)
    assert KafkaConsumer.verify_all_partitions_active is not Consumer.verify_all_partitions_active


async def test_answers_are_waited_for_shortly_and_batches_are_kept_long() -> None:
    """On a connection cut on one side no answer ever comes: waiting Faust's 20 minutes for it stalled the worker. A batch that
    expired where a later one is sent would be a hole.
    """
    app = faust.App("patience", broker="aiokafka://127.0.0.1:9", web_enabled=False, autodiscover=False)
    made: Any = KafkaTransport(app.conf.broker_producer, app).create_producer()
    producer = made._new_producer()
    assert producer.client._request_timeout_ms == producer._sender._request_timeout_ms == ANSWER_MS == 20_000
    assert producer._message_accumulator._batch_ttl == producer._request_timeout_ms / 1_000 == app.conf.producer_request_timeout
    assert app.conf.producer_request_timeout >= 600
    assert "self._request_timeout = request_timeout_ms" in inspect.getsource(AIOKafkaConnection.__init__)


def test_recreated_topics_begin_at_their_beginning_whatever_is_committed() -> None:
    """The committed offset is their predecessor's: it is overwritten, and Faust must not skip what lies below it."""
    kafka = FakeKafka({SOURCE: 70, TP("purchases", 0): 5})
    made = thread(kafka, recreated=frozenset({SOURCE.topic}))
    committed: list[dict[TP, int]] = []

    async def commit(offsets: dict[TP, int]) -> bool:
        committed.append(offsets)
        return True

    made.commit = commit
    assert asyncio.run(made.seek_to_committed()) == {SOURCE: None, TP("purchases", 0): 5}
    assert kafka.sought == [("beginning", (SOURCE,))]
    assert committed == [{SOURCE: 0}]


def test_batches_commit_one_past_their_last_offset() -> None:
    """Between two batches lie the second one's records, not a gap."""

    class Acked(BatchConsumer):
        _acked: dict[TP, list[int]]
        _acked_index: dict[TP, set[int]]

    consumer = Acked()
    consumer._acked, consumer._acked_index = {SOURCE: [499, 731]}, {SOURCE: {499, 731}}
    assert consumer._new_offset(SOURCE) == 732
    assert consumer._new_offset(SOURCE) is None


def test_a_heartbeat_is_still_one_call_that_tells_whether_the_group_answered_well() -> None:
    """The thread notes each one by standing in for this call; a lost membership still resets the coordinator's generation."""
    routine = inspect.getsource(GroupCoordinator._heartbeat_routine)
    assert "success = await self._do_heartbeat()" in routine
    beat = inspect.getsource(GroupCoordinator._do_heartbeat)
    assert "return True" in beat
    assert "return False" in beat
    assert "self.reset_generation()" in beat
    assert "self.generation = OffsetCommitRequest.DEFAULT_GENERATION_ID" in inspect.getsource(GroupCoordinator.reset_generation)
    assert driver.DEFAULT_GENERATION_ID == -1


@pytest.mark.parametrize(("answered", "noted"), [(True, True), (False, False)])
def test_only_a_heartbeat_that_the_group_answered_well_is_noted(
    monkeypatch: pytest.MonkeyPatch, answered: bool, noted: bool
) -> None:
    """With the time at which it was sent."""

    async def started(self: Any) -> None:
        del self

    async def beat() -> bool:
        return answered

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "on_start", started)
    made: Any = GuardedThread.__new__(GuardedThread)
    coordinator = SimpleNamespace(_do_heartbeat=beat, generation=4)
    made._ensure_consumer = lambda: SimpleNamespace(_coordinator=coordinator)

    async def run() -> bool:
        await made.on_start()
        result: bool = await coordinator._do_heartbeat()
        return result

    assert asyncio.run(run()) is answered
    assert (made.heartbeat_at > 0) is noted
    assert made.generation == 4


@pytest.mark.parametrize(("known", "age_s", "holds", "member"), [(4, 1, True, True), (-1, 1, False, True), (4, 31, True, False)])
def test_partitions_are_ours_in_the_coordinators_generation_and_sure_for_a_session_timeout(
    known: int, age_s: float, holds: bool, member: bool
) -> None:
    """-1 is a coordinator that was told that it is not in the group."""
    consumer: Any = KafkaConsumer.__new__(KafkaConsumer)
    consumer.app = SimpleNamespace(consumer_generation_id=4, conf=SimpleNamespace(broker_session_timeout=30.0))
    consumer._thread = SimpleNamespace(generation=known, heartbeat_at=time.monotonic() - age_s)
    assert consumer.holds(4) is holds
    assert not consumer.holds(3)
    assert consumer.is_member() is member


def test_offsets_of_transactions_come_before_their_outputs_where_the_wait_is_short() -> None:
    """What aiokafka answers to a transaction that follows another closely: the set backoff for offsets, 20 ms for partitions."""
    partitions = inspect.getsource(sender.AddPartitionsToTxnHandler.handle_response)
    assert "return BACKOFF_OVERRIDE" in partitions
    assert "BACKOFF_OVERRIDE" not in inspect.getsource(sender.AddOffsetsToTxnHandler.handle_response)
    for handler in (sender.AddPartitionsToTxnHandler, sender.AddOffsetsToTxnHandler, sender.EndTxnHandler):
        assert "raise ProducerFenced()" in inspect.getsource(handler.handle_response)


def test_a_rejoin_can_still_be_asked_for() -> None:
    """A worker that was fenced asks the group anew whose the partitions are."""
    assert parameters(GroupCoordinator.request_rejoin) == ["self"]


def kafka_consumer(positions: dict[TP, int], committed: dict[TP, int]) -> Any:
    """A Kafka consumer without its thread, in generation 4."""
    consumer: Any = KafkaConsumer.__new__(KafkaConsumer)
    consumer.app = SimpleNamespace(consumer_generation_id=4, tables=SimpleNamespace(changelog_topics={"changelog"}))
    consumer._thread = SimpleNamespace(positions=positions)
    consumer._committed_offset = defaultdict(lambda: None, committed)
    consumer._delivered = {}
    return consumer


def test_a_fetch_ends_where_its_partition_stands_so_that_markers_of_transactions_leave_no_lag() -> None:
    """Behind the last record; where the marker comes alone, in an empty batch of its own, once."""
    record = SimpleNamespace(offset=7, timestamp=5)
    consumer = kafka_consumer({SOURCE: 9, CHANGELOG: 5}, {})
    assert consumer._batch_message(SOURCE, [record]).offset == 8
    assert consumer._passed([SOURCE]) == []
    assert consumer._passed([]) == []
    consumer._thread.positions = {SOURCE: 10, CHANGELOG: 5}
    assert consumer._passed([]) == [SOURCE]
    empty = consumer._batch_message(SOURCE, [])
    assert (empty.offset, empty.value) == (9, [])
    assert consumer._passed([]) == []


def test_after_a_new_assignment_a_partition_has_passed_what_lies_behind_its_committed_offset() -> None:
    """What was delivered in the last generation is no measure."""
    consumer = kafka_consumer({SOURCE: 6}, {SOURCE: 5})
    consumer._delivered = {SOURCE: (3, 11)}
    assert consumer._passed([]) == [SOURCE]
    consumer._committed_offset[SOURCE] = 6
    assert consumer._passed([]) == []
