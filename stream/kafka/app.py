"""The Faust apps of worker and encoder on either transport, and running one until it is stopped."""

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import faust
import mode

from stream.core import limits
from stream.core.events import Source
from stream.core.watermarks import Watermark, decode_mark, furthest
from stream.kafka.agents.profile_agent import ProfileAgent, ProfileContext
from stream.kafka.agents.stateless_agent import StatelessAgent, StatelessContext
from stream.kafka.agents.watchdog import Supervision, Watchdog, until_all_exist
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.view import ClusterView
from stream.kafka.delivery.at_least_once import AtLeastOnce
from stream.kafka.delivery.committed_marks import CommittedMarks
from stream.kafka.delivery.contracts import Delivery
from stream.kafka.delivery.exactly_once import ExactlyOnce
from stream.kafka.faust.batch_transport import BatchTransport, FetchPolicy, no_metadata
from stream.kafka.faust.credentials import broker_credentials
from stream.kafka.faust.ownership import Ownership
from stream.kafka.faust.recovery import SafeTableManager
from stream.kafka.faust.transport import KafkaTransport
from stream.kafka.faust.user_table import UserTable
from stream.kafka.faust.watermarks import Watermarks
from stream.metrics import Metrics
from stream.process_settings import Guarantee

logger = logging.getLogger(__name__)


def make_app(
    name: str,
    url: str,
    *,
    data: Path,
    partitions: int,
    batch_records: int = 1_000,
    instance: str | None = None,
    session_timeout_s: float = 30.0,
) -> Any:
    """Makes a Faust app with batch delivery.

    Args:
        name: The application: consumer group and prefix of the changelog's name.
        url: kafka://host:port, or embedded://NAME for a log that is open in this process.
        data: Folder of the local stores.
        partitions: Of all topics keyed by user.
        batch_records: Records of one batch, at most.
        instance: A stable name, for static membership; None: without it.
        session_timeout_s: After this long without a heartbeat, the group assigns the app's partitions to others.
    """
    data.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        name,
        broker=url.replace("kafka://", "aiokafka://"),
        broker_credentials=None if url.startswith("embedded://") else broker_credentials(),
        store="rocksdb://",
        datadir=data,
        autodiscover=False,
        web_enabled=False,
        agent_supervisor=mode.CrashingSupervisor,
        broker_commit_interval=0.5,
        broker_session_timeout=session_timeout_s,
        broker_request_timeout=max(40.0, session_timeout_s + 10),
        broker_heartbeat_interval=session_timeout_s / 10,
        broker_max_poll_records=batch_records,
        consumer_auto_offset_reset="earliest",
        consumer_group_instance_id=instance,
        consumer_max_fetch_size=limits.RECORD_BYTES,
        producer_linger=0.002,
        producer_max_batch_size=262_144,
        producer_max_request_size=limits.RECORD_BYTES,
        stream_buffer_maxsize=64,
        stream_recovery_delay=0.0,
        table_standby_replicas=0,
        topic_partitions=partitions,
        topic_allow_declare=False,
        topic_disable_leader=True,
        TableManager=SafeTableManager,
    )
    if not url.startswith("embedded://"):
        app.transport = KafkaTransport(app.conf.broker_consumer, app)
        app.producer_transport = KafkaTransport(app.conf.broker_producer, app)
    return app


def make_delivery(
    app: Any, guarantee: Guarantee, metrics: Metrics, metadata: Callable[[Partition, int], str] = no_metadata
) -> Delivery:
    """Returns the delivery that makes an app's batches durable; `metadata` as in `FetchPolicy`.

    Raises:
        IsthmusError: exactly once needs Kafka.
    """
    transport: BatchTransport = app.transport
    if guarantee == "exactly_once":
        return ExactlyOnce(app, transport.use_transactions(), metrics, metadata)
    return AtLeastOnce(app, transport.sender(), metrics)


def add_profile_agent(
    app: Any, context: ProfileContext, *, guarantee: Guarantee = "at_least_once", supervision: Supervision | None = None
) -> Watchdog:
    """Adds the user table and the profile agent over all inputs to an app; returns the app's watchdog."""
    supervision = supervision or Supervision()
    table = UserTable(app, context.metrics)

    async def stored(partitions: Collection[Partition]) -> Mapping[Partition, Watermark]:
        return table.watermarks(partitions)

    replayable = [topic for topic, source in context.sources.items() if source is Source.CALL]
    watermarks = Watermarks(app, context.epochs, context.metrics, stored, replayable=replayable, has_states=table.has_states)
    watchdog = _make_watchdog(app, context.epochs, context.metrics, supervision, watermarks)
    delivery = make_delivery(app, guarantee, context.metrics)
    policy = FetchPolicy(context.in_flight, supervision.recreated, supervision.stopped, supervision.gate)
    _connect(app, policy, delivery, watermarks, table)
    _add_agent(app, list(context.sources), ProfileAgent(app, context, watchdog, watermarks, table, delivery).run, "profiles")
    ownership = Ownership(context.sources)

    async def on_assigned(_: Any, assigned: Any, **__: Any) -> None:
        if await watchdog.after_assignment():
            await ownership.check(app.consumer, assigned)

    app.on_partitions_assigned.connect(on_assigned, weak=False)
    return watchdog


def add_stateless_agent(
    app: Any, context: StatelessContext, *, guarantee: Guarantee = "at_least_once", supervision: Supervision | None = None
) -> Watchdog:
    """Adds an agent without state to an app; returns the app's watchdog."""
    supervision = supervision or Supervision()
    transport: BatchTransport = app.transport

    marks = CommittedMarks(context.in_flight)

    async def stored(partitions: Collection[Partition]) -> Mapping[Partition, Watermark]:
        last = await transport.read_last_records(context.output, {number for _, number in partitions})
        said = {(context.topic, number): context.watermark_of(record) for number, record in last.items()}
        outputs = {partition: watermark for partition, watermark in said.items() if watermark is not None}
        marks.begin(outputs)
        committed, epoch = await app.consumer.committed_metadata(partitions), context.epochs[context.topic]
        found = {one: furthest(decode_mark(committed.get(one, "")), outputs.get(one), epoch) for one in partitions}
        return {partition: watermark for partition, watermark in found.items() if watermark is not None}

    watermarks = Watermarks(app, context.epochs, context.metrics, stored, keeps_state=False, on_compared=marks.read_from)
    watchdog = _make_watchdog(app, context.epochs, context.metrics, supervision, watermarks)
    delivery = make_delivery(app, guarantee, context.metrics, marks.metadata)
    policy = FetchPolicy(context.in_flight, supervision.recreated, supervision.stopped, supervision.gate, marks.metadata)
    _connect(app, policy, delivery, watermarks)
    _add_agent(app, [context.topic], StatelessAgent(app, context, watchdog, watermarks, delivery, marks).run, "processor")

    async def on_assigned(*_: Any, **__: Any) -> None:
        await watchdog.after_assignment()

    app.on_partitions_assigned.connect(on_assigned, weak=False)
    return watchdog


def _make_watchdog(
    app: Any, epochs: Mapping[str, int], metrics: Metrics, supervision: Supervision, watermarks: Watermarks
) -> Watchdog:
    transport: BatchTransport = app.transport
    return Watchdog(app, supervision.view or transport.cluster_view(), epochs, metrics, watermarks, supervision)


def _connect(app: Any, policy: FetchPolicy, delivery: Delivery, watermarks: Watermarks, table: UserTable | None = None) -> None:
    """Configures the transport and the table manager, which Faust makes itself."""
    transport: BatchTransport = app.transport
    transport.fetch_policy = policy
    tables: SafeTableManager = app.tables
    tables.connect(delivery, watermarks, table)


def _add_agent(app: Any, topics: list[str], run: Callable[[Any], Awaitable[None]], name: str) -> None:
    channel = app.topic(
        *topics,
        key_type=bytes,
        value_type=bytes,
        key_serializer="raw",
        value_serializer="raw",
        partitions=app.conf.topic_partitions,
    )

    async def agent(stream: Any) -> None:
        await run(stream)

    app.agent(channel, name=name, concurrency=1)(agent)


async def run_with_renewal(
    build: Callable[[Mapping[str, int], frozenset[str]], tuple[Any, Watchdog]],
    view: ClusterView,
    epochs: Mapping[str, int],
    stop: asyncio.Event,
) -> None:
    """Runs the app that `build` makes, given the input topics' epochs and the recreated ones, until `stop` is set.

    When an input topic is deleted or recreated, waits until all exist again and runs a new app.
    """
    recreated: frozenset[str] = frozenset()
    while not stop.is_set():
        app, watchdog = build(epochs, recreated)
        try:
            await run_until_stopped(app, stop, watchdog.renew)
        except Exception as error:
            if not watchdog.renew.is_set():
                raise
            logger.warning("the app ended with %s while an input topic was missing", type(error).__name__)
        current = await until_all_exist(view, epochs, stop)
        if current is not None:
            recreated = frozenset(name for name, epoch in epochs.items() if current[name] != epoch)
            epochs = current


async def run_until_stopped(app: Any, *stops: asyncio.Event) -> None:
    """Runs an app until one of `stops` is set or it crashes; then finishes the batches in flight, commits and leaves the group.

    Raises:
        Exception: the error that crashed the app.
    """
    app.finalize()
    await app.start()
    relax_garbage_collector()
    try:
        ends = [asyncio.create_task(_crashed(app)), *(asyncio.create_task(stop.wait()) for stop in stops)]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for task in ends:
            task.cancel()
    finally:
        await _stop(app)
    if app.crash_reason is not None:
        raise app.crash_reason


async def _stop(app: Any) -> None:
    """Stops the app. Shutdown errors after a crash are logged, not raised, so the crash stays the visible error."""
    try:
        await app.stop()
        await app.tables.delivery.close()
    except (Exception, asyncio.CancelledError):
        if app.crash_reason is None:
            raise
        logger.info("the crashed app did not shut down cleanly", exc_info=True)


def relax_garbage_collector() -> None:
    """Makes the cyclic garbage collector run rarely: a batch makes and frees 30,000 objects, and walking them took a third of the
    time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000, 5, 5)


async def _crashed(app: Any) -> None:
    await app._crashed.wait()
