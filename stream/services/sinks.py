"""Sinks as processes: follower of the lists, target system, health and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from stream.errors import IsthmusError
from stream.health import Beat, Health
from stream.services.process import background, check_topics, running, stop_on_signals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from stream.api.follower import Follower
    from stream.api.store import FollowedStore
    from stream.kafka.cluster.log_reader import LogReader
    from stream.metrics import Metrics
    from stream.process_settings import WebhookSettings
    from stream.services.startup import Startup
    from stream.settings import Settings
    from stream.sinks.undelivered import Letters, Requests, Scan
    from stream.sinks.webhook_messages import Signer
    from stream.sinks.webhook_sender import Endpoint, Sender
    from stream.sinks.webhook_store import Group, WebhookStore

logger = logging.getLogger("isthmus")
_PROGRESS_S: Final = 5.0


def run_postgres_sink(settings: Settings, startup: Startup) -> None:
    """Fills a PostgreSQL database until SIGTERM or SIGINT. Reports to `startup` until the first load is done."""
    import uvloop

    uvloop.run(_postgres_sink(settings, startup))


async def _postgres_sink(settings: Settings, startup: Startup) -> None:
    from stream.kafka.cluster.corrupt_batches import StoppedPartitions
    from stream.kafka.cluster.group_membership import GroupMembership
    from stream.kafka.cluster.kafka_log_reader import KafkaLogReader
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.stopped_reading import report_stopped
    from stream.metrics import Metrics
    from stream.sinks.postgres_store import SINK, PostgresStore, Target
    from stream.sinks.postgres_tables import Owner

    bootstrap, topics, own = settings.kafka.bootstrap, settings.topics, settings.postgres
    startup.step(f"checking topics at {bootstrap}")
    await asyncio.to_thread(check_topics, Process.POSTGRES, settings)
    stop, metrics, health = stop_on_signals(), Metrics(), Health()
    owner = Owner(settings.application, topics.recommendations)
    target = Target(own.dsn.get_secret_value(), own.db_schema, own.rows, topics.partitions, owner, own.timeout_s)
    store = PostgresStore(target, metrics)
    health.ready["database"] = store.problem
    stopped = StoppedPartitions()
    report_stopped(health, metrics, stopped)
    membership = GroupMembership(bootstrap, own.group, topics.recommendations)
    reader = KafkaLogReader(bootstrap, membership, own.batch_records, stopped)
    follower = make_follower(settings, SINK, store, reader, metrics, own.reconcile_after_s)
    try:
        async with following(follower, health, stop), served(SINK, own.metrics_port, metrics, health, settings.health.metrics_host):
            startup.watch(lambda: None if follower.missing() is None else "reading lists")
            async with background("progress", partial(say_progress, follower), health):
                await stop.wait()
    finally:
        await reader.close()
        await store.close()


def run_webhook_sink(settings: Settings, startup: Startup) -> None:
    """Posts to an endpoint until SIGTERM or SIGINT. Reports to `startup` until it has caught up."""
    import uvloop

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs the URL of each request
    uvloop.run(_webhook_sink(settings, startup))


async def _webhook_sink(settings: Settings, startup: Startup) -> None:
    from stream.kafka.cluster.corrupt_batches import StoppedPartitions
    from stream.kafka.cluster.group_membership import GroupMembership
    from stream.kafka.cluster.kafka_log_reader import KafkaLogReader
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.stopped_reading import report_stopped
    from stream.metrics import Metrics
    from stream.services.process import followed
    from stream.sinks.undelivered import Requests
    from stream.sinks.webhook_sender import Sender
    from stream.sinks.webhook_store import SINK

    bootstrap, topics, own = settings.kafka.bootstrap, settings.topics, settings.webhook
    endpoint, signer = endpoint_of(own), signer_of(own)
    startup.step(f"checking topics at {bootstrap}")
    await asyncio.to_thread(check_topics, Process.WEBHOOK, settings)
    stop, metrics, health = stop_on_signals(), Metrics(), Health()
    membership = GroupMembership(bootstrap, own.group, topics.recommendations)
    stopped = StoppedPartitions()
    report_stopped(health, metrics, stopped)
    reader, requests = KafkaLogReader(bootstrap, membership, stopped=stopped), Requests(topics.recommendations)

    @asynccontextmanager
    async def guard() -> AsyncIterator[None]:
        async with membership.in_use:
            reader.check_partitions()
            yield

    sender = Sender(endpoint, signer, guard, metrics)
    health.ready["endpoint"] = sender.problem
    async with _letters(settings) as letters:
        store = make_webhook_store(settings, membership, sender, letters, requests, metrics)
        follower = make_follower(settings, SINK, store, reader, metrics, own.reconcile_after_s)
        try:
            async with (
                followed(bootstrap, {topics.replayed: requests.on_records}, health, stop, startup, stopped),
                following(follower, health, stop),
                served(SINK, own.metrics_port, metrics, health, settings.health.metrics_host),
                background("progress", partial(say_progress, follower), health),
            ):
                startup.watch(lambda: None if follower.missing() is None else "sending lists")
                await stop.wait()
        finally:
            await reader.close()
            await store.close()


def endpoint_of(own: WebhookSettings) -> Endpoint:
    """Returns the endpoint of the settings.

    Raises:
        IsthmusError: its URL is not an HTTP URL.
    """
    import httpx

    from stream.sinks.webhook_sender import Endpoint

    try:
        url = httpx.URL(own.url.get_secret_value())
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not url.host:
        raise IsthmusError("setting webhook.url (ISTHMUS_WEBHOOK__URL) must be the endpoint's https:// URL")
    if url.scheme == "http" and url.host not in {"localhost", "127.0.0.1", "::1"}:
        logger.warning("lists of users cross the network in the clear: give webhook.url an https:// URL")
    return Endpoint(str(url), own.timeout_s, own.first_pause_s, own.longest_pause_s, own.give_up_s)


def signer_of(own: WebhookSettings) -> Signer:
    from stream.sinks.webhook_messages import Signer

    return Signer([secret.get_secret_value() for secret in own.secrets])


def make_webhook_store(
    settings: Settings,
    group: Group,
    sender: Sender,
    letters: Letters,
    requests: Requests,
    metrics: Metrics,
    scan: Scan | None = None,
) -> WebhookStore:
    """Assembles the store of an endpoint."""
    from stream.services.api import now_ms
    from stream.sinks.undelivered import kafka_scan
    from stream.sinks.webhook_store import WebhookStore

    topic = settings.topics.recommendations
    reads = scan or kafka_scan(settings.kafka.bootstrap, topic)
    return WebhookStore(topic, group, sender, letters, requests, reads, metrics, now_ms, settings.webhook.batch_lists)


@asynccontextmanager
async def _letters(settings: Settings) -> AsyncIterator[Letters]:
    from aiokafka.errors import KafkaError

    from stream.kafka.cluster.clients import async_producer
    from stream.sinks.undelivered import KafkaLetters

    topics = settings.topics
    producer = async_producer(settings.kafka.bootstrap)
    try:
        await producer.start()
        yield KafkaLetters(producer, topics.recommendations, topics.dead_letters, topics.replayed, settings.application.encode())
    except KafkaError as error:
        raise IsthmusError(
            f"the broker at {settings.kafka.bootstrap} does not take dead letters ({type(error).__name__})"
        ) from error
    finally:
        await producer.stop()


def make_follower(
    settings: Settings, sink: str, store: FollowedStore, reader: LogReader, metrics: Metrics, reconcile_after_s: int
) -> Follower:
    """Returns a follower of the lists only."""
    from stream.api.follower import Follower
    from stream.api.store import Table
    from stream.services.api import now_ms

    follower = Follower(
        store,
        reader,
        {settings.topics.recommendations: Table.LISTS},
        lambda _: None,
        metrics,
        now_ms,
        reconcile_after_s * 1_000,
        ("sink_reconciled", sink),
    )
    metrics.gauge("sink_age_seconds", sink).set_function(lambda: follower.age_ms() / 1_000)
    return follower


@asynccontextmanager
async def following(follower: Follower, health: Health, stop: asyncio.Event) -> AsyncIterator[None]:
    """Follows the lists inside the context. If the follower ends, sets `stop`, and raises its error on exit."""
    beat = Beat(30, time.monotonic)
    health.live["event loop"] = beat.check
    health.ready["lists"] = follower.missing
    async with running([follower.run(), beat.keep_beating()], stop):
        yield


@asynccontextmanager
async def served(sink: str, port: int, metrics: Metrics, health: Health, host: str) -> AsyncIterator[None]:
    """Serves metrics and health inside the context."""
    server, _ = metrics.serve(port, health, host)
    logger.info("%s sink: metrics and health at %s/metrics, /livez, /readyz", sink, server.url)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


async def say_progress(follower: Follower) -> None:
    """Logs the progress of a first load or a reconciliation."""
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PROGRESS_S):
                await follower.ready.wait()
        if follower.ready.is_set():
            await asyncio.sleep(_PROGRESS_S)
        else:
            logger.info("%.0f %% of the topic is read", 100 * follower.progress())
