"""The internals of Faust, mode and aiokafka that `stream.kafka` depends on.

If one of these tests fails after an upgrade, review `stream.kafka`. Each part of the three corrections (the held resume; the frozen
set, the answer to an empty one and the seek back; the seek to the beginning) was removed once by hand: the tests named after it
failed.
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
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.producer import sender
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.producer.transaction_manager import TransactionManager
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.services import ServiceTask

from stream.kafka.cluster.clients import FETCHER_TIMEOUT_MS
from stream.kafka.embedded.transport import Transport
from stream.kafka.faust.batch_consumer import BatchConsumer
from stream.kafka.faust.batch_transport import BatchTransport, FetchPolicy
from stream.kafka.faust.fetched_positions import FetchedPositions
from stream.kafka.faust.producer import REQUEST_TIMEOUT_MS
from stream.kafka.faust.recovery import SafeRecovery
from stream.kafka.faust.transport import GuardedThread, KafkaConsumer, KafkaTransport

SOURCE = TP("web-clicks", 0)
CHANGELOG = TP("changelog", 0)


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_versions_are_those_that_were_reviewed() -> None:
    """The subclasses were written against these; pyproject.toml pins the range."""
    assert version("faust-streaming").startswith("0.15.")
    assert version("aiokafka").startswith("0.14.")


def test_overridden_methods_have_unchanged_signatures() -> None:
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


def test_private_names_that_are_used_still_exist() -> None:
    """By their use in Faust's own source."""
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
        assert isinstance(getattr(Recovery, name), ServiceTask), "SafeRecovery overrides these"
    for name in ("_wait", "_set_recovery_started", "_is_changelog_tp", "signal_recovery_start", "_generation_id", "active_tps"):
        assert name in inspect.getsource(Recovery)
    assert "self._isolation_level" in inspect.getsource(AIOKafkaConsumer.start)
    assert "_recovery" in inspect.getsource(TableManager)
    assert "self.recovery.start()" in inspect.getsource(TableManager.on_start)


def test_recovery_still_resumes_before_it_seeks() -> None:
    """As long as this holds, correction 1 is needed (faust-streaming/faust#596)."""
    source = inspect.getsource(Recovery.on_recovery_completed)
    assert source.index("resume_partitions") < source.index("perform_seek")


@pytest.mark.parametrize(("generation", "resumed"), [(1, [{SOURCE}]), (0, [])])
def test_source_partitions_are_resumed_only_after_the_recovery_has_completed(
    monkeypatch: pytest.MonkeyPatch, generation: int, resumed: list[set[TP]]
) -> None:
    """Correction 1: what Faust resumes is held until its method returns; after a change of generation nothing is resumed."""
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


@pytest.mark.parametrize("transport", [KafkaTransport, Transport])
def test_both_transports_offer_what_the_apps_use(transport: type) -> None:
    """Faust's classes are untyped, so the type checker accepts anything as a `BatchTransport`."""
    declared = [name for name, member in vars(BatchTransport).items() if inspect.isfunction(member) and not name.startswith("_")]
    assert set(declared) >= {"cluster_view", "sender", "use_transactions", "read_changelog"}
    for name in declared:
        assert parameters(getattr(transport, name)) == parameters(getattr(BatchTransport, name))
    assert transport.fetch_policy == FetchPolicy()  # type: ignore[attr-defined]


class FakeKafka:
    """The part of an aiokafka consumer that the thread uses, with aiokafka's own assignments."""

    def __init__(self, committed: dict[TP, int | None]) -> None:
        self.committed = committed
        self.sought: list[object] = []
        self.paused: list[TP] = []
        self._subscription: Any = SimpleNamespace(is_assigned=lambda _: True, subscription=None)
        self._fetcher = SimpleNamespace(seek_to=lambda tp, offset: self.sought.append((tp, offset)))

    def assign(self, positions: dict[TP, int]) -> None:
        """As the coordinator does, also where the same partitions are assigned again."""
        if self._subscription.subscription is None:
            self._subscription = SubscriptionState()
            self._subscription.subscribe({tp.topic for tp in positions})
        self._subscription.assign_from_subscribed({TopicPartition(*tp) for tp in positions})
        for tp, position in positions.items():
            self._subscription.seek(TopicPartition(*tp), position)

    def fetch(self, guarded: Any, positions: dict[TP, int]) -> None:
        """Assigns partitions, and leaves them where a fetch would."""
        self.assign(positions)
        assert guarded._fetched.note(self, positions) == positions

    def pause(self, tp: TP) -> None:
        self.paused.append(tp)

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
    resume_at: dict[tuple[str, int], int] | None = None,
) -> Any:
    """The guarded thread without its loop."""
    guarded: Any = GuardedThread.__new__(GuardedThread)
    guarded.consumer = SimpleNamespace(
        flow_active=flow_active,
        app=SimpleNamespace(consumer_generation_id=1, tables=SimpleNamespace(changelog_topics={"changelog"})),
        _get_active_partitions=lambda: set(active),
        resume_at=resume_at or {},
        transport=SimpleNamespace(fetch_policy=FetchPolicy(recreated=recreated)),
    )
    guarded._ensure_consumer = lambda: kafka
    guarded._fetched = FetchedPositions()

    async def call_thread(function: Any, *arguments: Any) -> Any:
        return await function(*arguments)

    guarded.call_thread = call_thread
    return guarded


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
def test_records_of_an_outdated_fetch_are_fetched_again(flow_active: bool, generation: int) -> None:
    """Correction 2: the flow stopped or the generation changed during the fetch."""
    records = {SOURCE: [SimpleNamespace(offset=7), SimpleNamespace(offset=8)]}

    async def fetch() -> list[object]:
        kafka = FakeKafka({})
        guarded = thread(kafka, flow_active=flow_active)
        kafka.fetch(guarded, {SOURCE: 9})
        assert await guarded._seek_back_stale(records, generation) == {}
        return kafka.sought

    assert asyncio.run(fetch()) == [(SOURCE, 7)]


def test_records_of_partitions_no_longer_active_are_fetched_again() -> None:
    """Correction 2: those of the other partitions are delivered."""
    other = TP("web-clicks", 1)
    records = {SOURCE: [SimpleNamespace(offset=7)], other: [SimpleNamespace(offset=3)]}

    async def fetch() -> list[object]:
        kafka = FakeKafka({})
        guarded = thread(kafka)
        kafka.fetch(guarded, {SOURCE: 8, other: 4})
        assert set(await guarded._seek_back_stale(records, 1)) == {SOURCE}
        return kafka.sought

    assert asyncio.run(fetch()) == [(other, 3)]


@pytest.mark.parametrize("happens", ["nothing", "the same partitions are assigned again", "others are", "it is sought"])
def test_an_offset_of_a_fetch_is_sought_only_where_the_fetch_left_the_partition(happens: str) -> None:
    """Records of an outdated fetch, and the first one of which the schema is not known. Before it lie records that were dropped
    with the former assignment: beyond them, they would be passed over.
    """

    async def fetch() -> tuple[bool, list[object], list[TP]]:
        kafka = FakeKafka({})
        guarded = thread(kafka, flow_active=False)
        kafka.fetch(guarded, {SOURCE: 9})
        if happens == "it is sought":
            kafka._subscription.seek(TopicPartition(*SOURCE), 5)
        elif happens != "nothing":
            kafka.assign({SOURCE: 9} if happens.startswith("the same") else {TP("web-clicks", 1): 9})
        await guarded._seek_back_stale({SOURCE: [SimpleNamespace(offset=7)]}, 1)
        return await guarded.wait_at(SOURCE, 8), kafka.sought, kafka.paused

    is_current = happens == "nothing"
    assert asyncio.run(fetch()) == (is_current, [(SOURCE, 7), (SOURCE, 8)] if is_current else [], [SOURCE] if is_current else [])


def test_a_partition_that_was_assigned_anew_is_not_held_for_a_schema() -> None:
    """Its records are fetched again, and judged again. Nobody would release it."""
    held: list[object] = []

    class Gate:
        async def first_waiting(self, *_: object) -> int:
            return 1

        def hold(self, *held_at: object) -> None:
            held.append(held_at)

    class Consumer(BatchConsumer):
        flow_active = True
        waits = True

        async def _wait_at(self, tp: TP, offset: int) -> bool:
            del tp, offset
            return self.waits

    consumer = Consumer()
    consumer.app = SimpleNamespace(consumer_generation_id=1)
    consumer.transport = SimpleNamespace(fetch_policy=SimpleNamespace(gate=Gate()))
    records = [SimpleNamespace(offset=7), SimpleNamespace(offset=8)]
    for consumer.waits in (True, False):
        assert asyncio.run(consumer._without_waiting(SOURCE, records, 1, 0)) == records[:1]
        assert held == [(SOURCE, records[1])]


def test_uncommitted_source_partitions_are_sought_to_their_beginning() -> None:
    """Correction 3: aiokafka skips them; changelogs stay where recovery left them."""
    kafka = FakeKafka({SOURCE: None, CHANGELOG: None, TP("web-clicks", 1): 5})
    asyncio.run(thread(kafka).seek_to_committed())
    assert kafka.sought == [("beginning", (SOURCE,))]


def test_fausts_livelock_detector_calls_the_method_that_is_overridden_with_nothing() -> None:
    """It reports changelogs as stuck after five minutes, longer than any test but the soak runs."""
    assert "verify_all_partitions_active" in inspect.getsource(Consumer._commit_livelock_detector.fun)
    assert KafkaConsumer.verify_all_partitions_active is not Consumer.verify_all_partitions_active


async def test_requests_time_out_soon_and_batches_expire_late() -> None:
    """On a connection that was cut on one side no answer ever comes: waiting Faust's 20 minutes for it stalls the worker. A batch
    that expires before a later one is sent would leave a gap.
    """
    app = faust.App("patience", broker="aiokafka://127.0.0.1:9", web_enabled=False, autodiscover=False)
    faust_producer: Any = KafkaTransport(app.conf.broker_producer, app).create_producer()
    producer = faust_producer._new_producer()
    assert producer.client._request_timeout_ms == producer._sender._request_timeout_ms == REQUEST_TIMEOUT_MS == 20_000
    assert producer._message_accumulator._batch_ttl == producer._request_timeout_ms / 1_000 == app.conf.producer_request_timeout
    assert app.conf.producer_request_timeout >= 600
    assert "self._request_timeout = request_timeout_ms" in inspect.getsource(AIOKafkaConnection.__init__)


def test_recreated_topics_are_read_from_their_beginning_whatever_is_committed() -> None:
    """The committed offset belongs to the deleted topic: it is overwritten, so that Faust does not skip what lies below it."""
    kafka = FakeKafka({SOURCE: 70, TP("purchases", 0): 5})
    guarded = thread(kafka, recreated=frozenset({SOURCE.topic}))
    committed: list[dict[TP, int]] = []

    async def commit(offsets: dict[TP, int]) -> bool:
        committed.append(offsets)
        return True

    guarded.commit = commit
    assert asyncio.run(guarded.seek_to_committed()) == {SOURCE: None, TP("purchases", 0): 5}
    assert kafka.sought == [("beginning", (SOURCE,))]
    assert committed == [{SOURCE: 0}]


def test_partitions_whose_log_changed_are_read_on_where_that_says_whatever_is_committed() -> None:
    """The offset is committed at once, even if it is lower: Faust commits none below the one it remembers."""
    other = TP("purchases", 0)
    kafka = FakeKafka({SOURCE: 70, other: 5})
    guarded = thread(kafka, resume_at={(SOURCE.topic, SOURCE.partition): 40})
    committed: list[dict[TP, int]] = []

    async def commit(offsets: dict[TP, int]) -> bool:
        committed.append(offsets)
        return True

    guarded.commit = commit
    assert asyncio.run(guarded.seek_to_committed()) == {SOURCE: 40, other: 5}
    assert kafka.sought == [(SOURCE, 40)]
    assert committed == [{SOURCE: 40}]


def test_a_new_connection_to_a_partitions_leader_is_counted_after_the_fetch() -> None:
    """A log changes only under a restarted or another broker, and what that returns comes over another connection."""
    guarded = thread(FakeKafka({}))
    guarded.reconnections, guarded._connections = {}, {}
    key, connections = (1, ConnectionGroup.DEFAULT), [object(), object()]
    client = SimpleNamespace(cluster=SimpleNamespace(leader_for_partition=lambda _: 1), _conns={key: connections[0]})
    for connection in (connections[0], connections[0], connections[1], connections[1]):
        client._conns[key] = connection
        guarded._count_reconnections(SimpleNamespace(_client=client), [SOURCE])
    assert guarded.reconnections == {tuple(SOURCE): 1}
    assert "self._conns[conn_id] = await create_conn(" in inspect.getsource(AIOKafkaClient._get_conn)
    assert "self._conns[(node_id, group)].send(" in inspect.getsource(AIOKafkaClient.send)


def test_batches_commit_one_past_their_last_offset() -> None:
    """The offsets between two batches' last ones are the second batch's records, not a gap."""

    class Acked(BatchConsumer):
        _acked: dict[TP, list[int]]
        _acked_index: dict[TP, set[int]]

    consumer = Acked()
    consumer._acked, consumer._acked_index = {SOURCE: [499, 731]}, {SOURCE: {499, 731}}
    assert consumer._new_offset(SOURCE) == 732
    assert consumer._new_offset(SOURCE) is None


def test_a_heartbeat_is_still_one_call_that_returns_whether_it_succeeded() -> None:
    """The thread replaces this call to record each one; a lost membership still resets the coordinator's generation."""
    routine = inspect.getsource(GroupCoordinator._heartbeat_routine)
    assert "success = await self._do_heartbeat()" in routine
    beat = inspect.getsource(GroupCoordinator._do_heartbeat)
    assert "return True" in beat
    assert "return False" in beat
    assert "self.reset_generation()" in beat
    assert "self.generation = OffsetCommitRequest.DEFAULT_GENERATION_ID" in inspect.getsource(GroupCoordinator.reset_generation)
    assert driver.DEFAULT_GENERATION_ID == -1


@pytest.mark.parametrize(("answered", "recorded"), [(True, True), (False, False)])
def test_only_a_successful_heartbeat_is_recorded(monkeypatch: pytest.MonkeyPatch, answered: bool, recorded: bool) -> None:
    """With the time at which it was sent."""

    async def started(self: Any) -> None:
        del self

    async def beat() -> bool:
        return answered

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "on_start", started)
    guarded: Any = GuardedThread.__new__(GuardedThread)
    coordinator = SimpleNamespace(_do_heartbeat=beat, generation=4)
    fetcher = SimpleNamespace(_fetch_min_bytes=1, _fetch_max_wait_ms=1_500, _proc_fetch_request=None)
    guarded.consumer = SimpleNamespace(transport=SimpleNamespace(commits_in_transactions=False))
    guarded._ensure_consumer = lambda: SimpleNamespace(_coordinator=coordinator, _fetcher=fetcher)

    async def run() -> bool:
        await guarded.on_start()
        result: bool = await coordinator._do_heartbeat()
        return result

    assert asyncio.run(run()) is answered
    assert (guarded.heartbeat_at > 0) is recorded
    assert guarded.generation == 4


@pytest.mark.parametrize(("known", "age_s", "holds", "member"), [(4, 1, True, True), (-1, 1, False, True), (4, 31, True, False)])
def test_partitions_are_ours_in_the_coordinators_generation_and_sure_for_a_session_timeout(
    known: int, age_s: float, holds: bool, member: bool
) -> None:
    """Generation -1: the group has answered that this worker is not a member."""
    consumer: Any = KafkaConsumer.__new__(KafkaConsumer)
    consumer.app = SimpleNamespace(consumer_generation_id=4, conf=SimpleNamespace(broker_session_timeout=30.0))
    consumer._thread = SimpleNamespace(generation=known, heartbeat_at=time.monotonic() - age_s)
    assert consumer.holds(4) is holds
    assert not consumer.holds(3)
    assert consumer.is_member() is member


def test_the_sender_of_transactions_is_as_ours_expects() -> None:
    """`stream.kafka.cluster.transactions` replaces it before the producer starts, and waits for markers for less time."""
    assert parameters(sender.Sender.__init__)[2:] == [
        "acks",
        "txn_manager",
        "message_accumulator",
        "retry_backoff_ms",
        "request_timeout_ms",
    ]
    requests = inspect.getsource(sender.Sender._maybe_do_transactional_request)
    for asked in ("_do_add_partitions_to_txn(tps)", "_do_add_offsets_to_txn(group_id)"):
        assert f"create_task(self.{asked})" in requests
    assert "return BACKOFF_OVERRIDE" in inspect.getsource(sender.AddPartitionsToTxnHandler.handle_response)
    assert "self._sender.start()" in inspect.getsource(AIOKafkaProducer.start)
    for handler in (sender.AddPartitionsToTxnHandler, sender.AddOffsetsToTxnHandler, sender.EndTxnHandler):
        assert "raise ProducerFenced()" in inspect.getsource(handler.handle_response)
    manager = inspect.getsource(TransactionManager)
    for name in ("self._txn_consumer_group = None", "def txn_partitions", "def maybe_add_partition_to_txn(self, tp"):
        assert name in manager


def test_the_fetcher_asks_for_records_as_gathering_expects() -> None:
    """Each request takes bytes and wait from the fetcher; the handler returns whether there were records."""
    assert parameters(Fetcher._proc_fetch_request) == ["self", "assignment", "node_id", "request"]
    request = inspect.getsource(Fetcher._get_actions_per_node)
    assert "self._fetch_max_wait_ms,\n                self._fetch_min_bytes," in request
    assert "self._proc_fetch_request(assignment, node_id, request)" in inspect.getsource(Fetcher._fetch_requests_routine)
    assert "return needs_wakeup" in inspect.getsource(Fetcher._proc_fetch_request)


def test_the_fetcher_is_woken_by_all_that_it_has_to_do() -> None:
    """So a timeout of seconds delays nothing: answers, seeks, taken records, resumed and revoked partitions end its sleep."""
    assert "fetcher_timeout=self._consumer_timeout" in inspect.getsource(AIOKafkaConsumer.start)
    routine = inspect.getsource(Fetcher._fetch_requests_routine)
    assert "set(chain(self._pending_tasks, other_futs, resume_futures))" in routine
    assert "other_futs = [self._wait_consume_future, assignment.unassign_future]" in routine
    for wakes in (Fetcher.seek_to, Fetcher.request_offset_reset, Fetcher.fetched_records):
        assert "self._notify(self._wait_consume_future)" in inspect.getsource(wakes)
    assert "backoff = self._fetcher_timeout" in inspect.getsource(Fetcher._get_actions_per_node)
    assert inspect.signature(Fetcher.__init__).parameters["fetcher_timeout"].default < FETCHER_TIMEOUT_MS / 1_000


def test_a_rejoin_can_still_be_requested() -> None:
    """A worker that was fenced asks the group for a new assignment."""
    assert parameters(GroupCoordinator.request_rejoin) == ["self"]


def kafka_consumer(positions: dict[TP, int], committed: dict[TP, int]) -> Any:
    """A Kafka consumer without its thread, in generation 4."""
    consumer: Any = KafkaConsumer.__new__(KafkaConsumer)
    consumer.app = SimpleNamespace(consumer_generation_id=4, tables=SimpleNamespace(changelog_topics={"changelog"}))
    consumer._thread = SimpleNamespace(positions=positions)
    consumer._committed_offset = defaultdict(lambda: None, committed)
    consumer._delivered = {}
    return consumer


def test_a_batch_ends_at_the_partitions_position_so_that_control_records_leave_no_lag() -> None:
    """Behind the last record; a control record that comes alone gives one empty batch."""
    record = SimpleNamespace(offset=7, timestamp=5)
    consumer = kafka_consumer({SOURCE: 9, CHANGELOG: 5}, {})
    assert consumer._batch_message(SOURCE, [record]).offset == 8
    assert consumer._advanced_without_records([SOURCE]) == []
    assert consumer._advanced_without_records([]) == []
    consumer._thread.positions = {SOURCE: 10, CHANGELOG: 5}
    assert consumer._advanced_without_records([]) == [SOURCE]
    empty = consumer._batch_message(SOURCE, [])
    assert (empty.offset, empty.value) == (9, [])
    assert consumer._advanced_without_records([]) == []


def test_after_a_new_assignment_a_partition_has_advanced_if_it_is_past_its_committed_offset() -> None:
    """What was delivered in the last generation does not count."""
    consumer = kafka_consumer({SOURCE: 6}, {SOURCE: 5})
    consumer._delivered = {SOURCE: (3, 11)}
    assert consumer._advanced_without_records([]) == [SOURCE]
    consumer._committed_offset[SOURCE] = 6
    assert consumer._advanced_without_records([]) == []
