"""The Faust apps of worker and encoder, on either transport, and how a process runs one until it is told to stop."""

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faust
import mode
from mode import get_logger

from stream.core import limits
from stream.core.dead_letters import DeadLetterLimit
from stream.core.events import Source
from stream.core.records import Batch
from stream.core.step import StepConfig
from stream.errors import IsthmusError
from stream.health import Health
from stream.kafka.agents.profile_agent import ProfileAgent, ServedModel
from stream.kafka.agents.stateless_agent import StatelessAgent
from stream.kafka.agents.watchdog import Watchdog, until_all_exist
from stream.kafka.cluster.view import ClusterView, EmbeddedClusterView, KafkaClusterView
from stream.kafka.delivery.at_least_once import AtLeastOnce, Delivery
from stream.kafka.delivery.exactly_once import ExactlyOnce
from stream.kafka.faust.batch_consumer import Sender
from stream.kafka.faust.ownership import Ownership
from stream.kafka.faust.recovery import SafeTableManager
from stream.kafka.faust.transport import KafkaSender, KafkaTransport
from stream.kafka.faust.user_table import UserTable
from stream.metrics import Metrics
from stream.settings import Guarantee, TopicSettings

logger = get_logger(__name__)


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
    """A Faust app with batch delivery. `url` is kafka://host:port or embedded://NAME; `instance` a stable name (static
    membership); after `session_timeout_s` without a heartbeat its partitions go to others.
    """
    data.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        name,
        broker=url.replace("kafka://", "aiokafka://"),
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


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """How an app is looked after: by which view of the log, into which health; what is begun at its beginning, and its changelog's
    epoch by name.
    """

    view: ClusterView | None = None
    health: Health = field(default_factory=Health)
    recreated: frozenset[str] = frozenset()
    changelog: Mapping[str, int] = field(default_factory=dict)
    stalled_s: float = 300.0


def view_of(app: Any) -> ClusterView:
    if isinstance(app.transport, KafkaTransport):
        return KafkaClusterView(",".join(f"{url.host}:{url.port}" for url in app.conf.broker_consumer), app.conf.id)
    return EmbeddedClusterView(app.producer_transport.log, app.conf.id)


def sender_of(app: Any) -> Sender:
    if isinstance(app.transport, KafkaTransport):

        def producer() -> Any:
            return app.producer._ensure_producer()

        return KafkaSender(producer)
    sender: Sender = app.producer_transport.sender
    return sender


def add_delivery(app: Any, guarantee: Guarantee, metrics: Metrics) -> Delivery:
    """How the app's batches become durable.

    Raises:
        IsthmusError: exactly once was asked for without Kafka.
    """
    delivery: Delivery
    if guarantee == "at_least_once":
        delivery = AtLeastOnce(app, sender_of(app), metrics)
    elif isinstance(app.transport, KafkaTransport):
        app.transport.commits_in_transactions = True

        def producer(name: str) -> Any:
            return app.producer.transactional(name)

        delivery = ExactlyOnce(app, producer, metrics)
    else:
        raise IsthmusError("delivery.guarantee = exactly_once needs Kafka's transactions: the embedded log delivers at least once")
    app.tables.delivery = delivery
    return delivery


def add_profile_agent(
    app: Any,
    sources: Mapping[str, Source],
    epochs: Mapping[str, int],
    serving: ServedModel,
    settings: StepConfig,
    topics: TopicSettings,
    metrics: Metrics,
    *,
    in_flight: int = 6,
    limit: DeadLetterLimit | None = None,
    guarantee: Guarantee = "at_least_once",
    looks: Supervision | None = None,
) -> Watchdog:
    """Gives the app its user table and the profile agent over all five inputs."""
    looks = looks or Supervision()
    watch = Watchdog(
        app, looks.view or view_of(app), epochs, metrics, looks.health, changelog=looks.changelog, stalled_s=looks.stalled_s
    )
    table = UserTable(app, metrics)
    delivery = add_delivery(app, guarantee, metrics)
    limit = limit or DeadLetterLimit()
    profiles = ProfileAgent(app, sources, watch, table, delivery, serving, settings, topics, metrics, limit, in_flight)
    _add_agent(app, list(sources), profiles.run, "profiles")

    ownership = Ownership(sources)

    async def on_assigned(_: Any, assigned: Any, **__: Any) -> None:
        app.consumer.in_flight, app.consumer.recreated = in_flight, looks.recreated
        if await watch.after_assignment():
            await ownership.check(app.consumer, assigned)

    app.on_partitions_assigned.connect(on_assigned, weak=False)
    return watch


def add_stateless_agent(
    app: Any,
    topic: str,
    epochs: Mapping[str, int],
    process: Callable[[Batch], Any],
    metrics: Metrics,
    *,
    in_flight: int = 4,
    guarantee: Guarantee = "at_least_once",
    looks: Supervision | None = None,
) -> Watchdog:
    """Gives the app a stateless agent over one topic."""
    looks = looks or Supervision()
    watch = Watchdog(app, looks.view or view_of(app), epochs, metrics, looks.health, stalled_s=looks.stalled_s)
    processor = StatelessAgent(app, watch, add_delivery(app, guarantee, metrics), process)
    _add_agent(app, [topic], processor.run, "processor")

    async def on_assigned(*_: Any, **__: Any) -> None:
        app.consumer.in_flight, app.consumer.recreated = in_flight, looks.recreated
        await watch.after_assignment()

    app.on_partitions_assigned.connect(on_assigned, weak=False)
    return watch


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
    """Runs the app that `build` makes of epochs and recreated topics, and another each time a topic was recreated, until `stop`."""
    recreated: frozenset[str] = frozenset()
    while not stop.is_set():
        app, watch = build(epochs, recreated)
        try:
            await run_until_stopped(app, stop, watch.renew)
        except Exception as error:
            if not watch.renew.is_set():
                raise
            logger.warning("ended with %s while a topic was deleted", type(error).__name__)
        found = await until_all_exist(view, epochs, stop)
        if found is not None:
            recreated = frozenset(name for name, epoch in epochs.items() if found[name] != epoch)
            epochs = found


async def run_until_stopped(app: Any, *stops: asyncio.Event) -> None:
    """Runs an app until one of `stops` is set or it crashes; then finishes what is in flight, commits and leaves.

    Raises whatever crashed it.
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
        await _stopped(app)
    if app.crash_reason is not None:
        raise app.crash_reason


async def _stopped(app: Any) -> None:
    """Stops the app; what goes wrong in stopping one that has crashed is logged, for the crash is what is to be told."""
    try:
        await app.stop()
        await app.tables.delivery.close()
    except (Exception, asyncio.CancelledError):
        if app.crash_reason is None:
            raise
        logger.info("a crashed app did not stop in order", exc_info=True)


def relax_garbage_collector() -> None:
    """Lets the cyclic garbage collector run rarely: a batch makes and frees 30,000 objects, and walking them took a third of the
    time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000_000, 5, 5)


async def _crashed(app: Any) -> None:
    await app._crashed.wait()


def stop_on_signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
