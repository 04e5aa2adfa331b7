"""The API as a process: the followers and the store behind the HTTP server, health and metrics, until a signal stops it."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from stream.application import worker_group
from stream.core.event_times import rule_of
from stream.core.events import INPUTS
from stream.errors import IsthmusError
from stream.health import Beat, Health

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable

    from stream.api.audit import Audit
    from stream.api.catalogue import CurrentCatalogue, ModelReader
    from stream.api.context import Api
    from stream.api.follower import Follower
    from stream.api.guests import Guests
    from stream.api.live_bodies import Kind
    from stream.api.live_feed import LiveFeed
    from stream.api.live_view import ReadMetrics
    from stream.api.oidc import Oidc
    from stream.api.signing import Signer
    from stream.api.store import Store, Table
    from stream.api.streams import Changes
    from stream.core.ranking import Ranker, Rows
    from stream.kafka.cluster.corrupt_batches import StoppedPartitions
    from stream.kafka.cluster.event_sink import EventSink
    from stream.kafka.cluster.log_reader import LogReader
    from stream.metrics import Metrics
    from stream.process_settings import ApiSettings
    from stream.services.startup import Startup
    from stream.settings import Settings, TopicSettings

logger = logging.getLogger("isthmus")


@dataclass(frozen=True)
class ApiParts:
    """What one replica consists of, beside its store.

    Attributes:
        missing: Why the store must not be answered from; None where it may.
        work: What runs for as long as the replica does.
    """

    api: Api
    current: CurrentCatalogue
    follower: Follower
    reader: LogReader
    missing: Callable[[], str | None]
    work: tuple[Callable[[], Coroutine[Any, Any, None]], ...]


def run_api(settings: Settings, startup: Startup, *, insecure: bool = False) -> None:
    """Runs one replica on Kafka until SIGTERM or SIGINT; `startup` reports the steps until it serves. With `insecure` it asks
    for no key.
    """
    import uvloop

    from stream.services.threads import limit_threads

    if settings.api.guests or settings.api.live:
        limit_threads()
    uvloop.run(_api(settings, startup, insecure=insecure))


async def _api(settings: Settings, startup: Startup, *, insecure: bool) -> None:
    from stream.kafka.cluster.corrupt_batches import StoppedPartitions
    from stream.kafka.cluster.event_sink import open_event_sink
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.stopped_reading import report_stopped
    from stream.metrics import Metrics
    from stream.services.http_server import check_tls, serve
    from stream.services.process import check_topics, followed, stop_on_signals

    bootstrap, topics, own = settings.kafka.bootstrap, settings.topics, settings.api
    check_tls(own)
    startup.step(f"checking topics at {bootstrap}")
    await asyncio.to_thread(check_topics, Process.API, settings)
    stop, metrics, store, stopped = stop_on_signals(), Metrics(), await open_store(settings), StoppedPartitions()
    try:
        async with open_event_sink(bootstrap, topics.model_dump(), topics.partitions, own.send_timeout_s) as sink:
            parts = make_parts(settings, store, _reader(settings, stopped), sink, metrics, insecure=insecure)
            report_stopped(parts.api.health, metrics, stopped)
            follows = {
                topics.api_keys: parts.api.keys.on_records,
                topics.items: parts.current.on_items,
                topics.models: parts.current.on_models,
            }
            async with followed(bootstrap, follows, parts.api.health, stop, startup, stopped), following(parts, stop):
                startup.watch(lambda: None if parts.missing() is None else "reading lists and states of users")
                await serve(parts.api, metrics, stop, metrics_host=settings.health.metrics_host)
    finally:
        await store.close()


async def open_store(settings: Settings) -> Store:
    """The store that the settings name: shared, or this replica's own."""
    own = settings.api
    if own.redis_url is not None:
        from stream.api.redis_store import open_redis_store

        return await open_redis_store(own.redis_url.get_secret_value(), own.redis_prefix)
    from stream.api.rocksdb_store import RocksDBStore

    return RocksDBStore(settings.api_state_dir / own.name)


def _reader(settings: Settings, stopped: StoppedPartitions) -> LogReader:
    """Reads all partitions, or, for a shared store, those that the group of the replicas assigns."""
    from stream.kafka.cluster.group_membership import GroupMembership
    from stream.kafka.cluster.kafka_log_reader import KafkaLogReader

    bootstrap, own = settings.kafka.bootstrap, settings.api
    if own.redis_url is None:
        return KafkaLogReader(bootstrap, stopped=stopped)
    return KafkaLogReader(bootstrap, GroupMembership(bootstrap, own.redis_prefix, *_tables(settings)), stopped=stopped)


def _tables(settings: Settings) -> dict[str, Table]:
    from stream.api.store import Table
    from stream.kafka.cluster.topics import changelog_name

    changelog = changelog_name(worker_group(settings.application))
    return {settings.topics.recommendations: Table.LISTS, changelog: Table.STATES}


def make_parts(
    settings: Settings,
    store: Store,
    reader: LogReader,
    sink: EventSink,
    metrics: Metrics,
    clock_ms: Callable[[], int] | None = None,
    read_metrics: ReadMetrics | None = None,
    *,
    insecure: bool = False,
) -> ApiParts:
    """Puts a replica together. `clock_ms` is the wall clock; `read_metrics` reads those of the workers, for the live page."""
    from stream.api.api_keys import ApiKeys
    from stream.api.catalogue import CurrentCatalogue
    from stream.api.context import Api
    from stream.api.live_feed import LiveFeed
    from stream.api.live_view import LiveView
    from stream.api.served_lists import ServedLists
    from stream.api.service import ReadService
    from stream.api.stream_places import Places
    from stream.api.streams import Changes
    from stream.services.formats import count_schema_requests
    from stream.services.metrics_reader import reader_of_metrics
    from stream.services.model_trust import announcement_trust
    from stream.services.process import item_format

    own, topics, clock_ms = settings.api, settings.topics, clock_ms or now_ms
    current = CurrentCatalogue(_model_reader(settings), metrics, item_format(settings), announcement_trust(settings))
    changes, health = Changes(), Health()
    count_schema_requests(settings, metrics)
    feed = LiveFeed(clock_ms) if own.live else None
    filling = _filling(settings, store, reader, changes, metrics, clock_ms, feed)
    health.ready["store"] = filling.missing
    metrics.gauge("api_store_age_seconds").set_function(lambda: filling.age_ms() / 1_000)
    metrics.gauge("api_streams").set_function(lambda: changes.open)
    signer, erasure_key = signer_of(own), settings.step.erasure_key.get_secret_value().encode()
    service = ReadService(store, current, topics.partitions, erasure_key, filling.age_ms, clock_ms, ServedLists(signer))
    api = Api(
        service=service,
        keys=ApiKeys(),
        signer=signer,
        changes=changes,
        places=Places(own.max_streams, own.max_streams_of_a_user, own.max_streams_of_an_address, own.heartbeat_s),
        audit=_audit(own, erasure_key, metrics, clock_ms),
        sink=sink,
        metrics=metrics,
        settings=own.model_copy(update={"placements": placements_of(settings)}),
        list_length=settings.step.list_length,
        max_ahead_ms=settings.step.max_ahead_s * 1_000,
        times={row.role: rule_of(row, earliest=settings.times.earliest_of(row.role)) for row in INPUTS if not row.is_derived},
        health=health,
        guests=_guests(settings, current) if own.guests else None,
        insecure=insecure,
        oidc=_oidc(own, metrics),
        live=None if feed is None else LiveView(feed, service, _kinds(topics), read_metrics or reader_of_metrics(own.live_metrics)),
    )
    work = (*filling.work, current.keep_trying, *(() if api.live is None else (api.live.run,)))
    return ApiParts(api, current, filling.follower, reader, filling.missing, work)


def _kinds(topics: TopicSettings) -> dict[str, Kind]:
    """What the live page calls the events of the inputs that it counts."""
    return {topics.clicks: "click", topics.encoded_calls: "call", topics.purchases: "purchase"}


class _Filling(NamedTuple):
    """Who fills the store, what runs for it, and how old the store is."""

    follower: Follower
    work: tuple[Callable[[], Coroutine[Any, Any, None]], ...]
    age_ms: Callable[[], int]
    missing: Callable[[], str | None]


def _filling(
    settings: Settings,
    store: Store,
    reader: LogReader,
    changes: Changes,
    metrics: Metrics,
    clock_ms: Callable[[], int],
    feed: LiveFeed | None,
) -> _Filling:
    """An embedded store is this replica's alone. Of a shared one it fills its part, and learns of the others' from the store."""
    from stream.api.follower import TOUCH_EVERY_MS, Follower

    own = settings.api

    def follower(changed: Callable[[Iterable[str]], None], touch_every_ms: int) -> Follower:
        return Follower(
            store,
            reader,
            _tables(settings),
            changed,
            metrics,
            clock_ms,
            own.reconcile_after_s * 1_000,
            touch_every_ms=touch_every_ms,
            keep_clicks=own.keep_clicks,
            watcher=feed,
        )

    if own.redis_url is None:
        from stream.api.rocksdb_store import RocksDBStore

        assert isinstance(store, RocksDBStore)
        alone = follower(changes.notify, TOUCH_EVERY_MS)
        return _Filling(alone, (alone.run, store.keep_purging), alone.age_ms, alone.missing)
    from stream.api.redis_store import RedisStore
    from stream.api.shared_age import EVERY_S, SharedAge

    assert isinstance(store, RedisStore)
    age, part = SharedAge(store, settings.topics.partitions, clock_ms), follower(lambda _: None, int(EVERY_S * 1_000))
    metrics.gauge("api_store_away").set_function(lambda: age.is_away)
    work = (part.run, age.run, lambda: store.keep_listening(changes.notify, age.distrust))
    return _Filling(part, work, age.age_ms, age.missing)


def _model_reader(settings: Settings) -> ModelReader:
    """Reads the whole champion for guests and the live page, and otherwise its popularity prior, without weights and torch."""
    from models.artifact import load_ranker, read_prior
    from stream.services.model_trust import folder_trust

    own, trust = settings.api, folder_trust(settings)

    def read(uri: str, sha256: str) -> tuple[tuple[str, ...], Rows, Ranker | None]:
        if not own.guests and not own.live:
            return (*read_prior(uri, sha256, trust), None)
        ranker = load_ranker(uri, sha256, trust)
        return ranker.items, ranker.prior, ranker

    return read


def _guests(settings: Settings, current: CurrentCatalogue) -> Guests:
    """Loads the text model.

    Raises:
        IsthmusError: it is missing.
    """
    from stream.api.guests import Guests
    from stream.services.text_models import folder_of
    from stream.text.model import TextModel

    text_model = TextModel(folder_of(settings), cached_sentences=settings.encoder.cached_sentences)
    return Guests(current, text_model, settings.step.session_gap_s * 1_000, settings.api.max_guests)


def placements_of(settings: Settings) -> tuple[str, ...]:
    """Returns the names that `placement` may have in the API: those of feedback, so that lists and feedback agree, and its own."""
    return tuple(dict.fromkeys((*settings.feedback.placements, *settings.api.placements)))


def _oidc(own: ApiSettings, metrics: Metrics) -> Oidc | None:
    if own.oidc_jwks is None:
        return None
    from stream.api.oidc import Oidc, Provider

    provider = Provider(
        own.oidc_jwks,
        own.oidc_issuer or "",
        own.oidc_audience or "",
        own.oidc_algorithms,
        own.oidc_scope_claim,
        own.oidc_scope_prefix,
    )
    return Oidc(provider, metrics, now_ms)


def _audit(own: ApiSettings, key: bytes, metrics: Metrics, clock_ms: Callable[[], int]) -> Audit:
    """The audit log in its file, or in the log of the process.

    Raises:
        IsthmusError: the file cannot be written.
    """
    from stream.api.audit import Audit, AuditFile

    if own.oidc_jwks is not None and key == b"isthmus":
        logger.warning("users in the audit log can be guessed: set ISTHMUS_STEP__ERASURE_KEY to a secret of your own")
    if own.audit_file is None:
        return Audit(key, metrics, clock_ms)
    try:
        return Audit(key, metrics, clock_ms, AuditFile(own.audit_file).append)
    except OSError as error:
        raise IsthmusError(f"setting api.audit_file: {own.audit_file} cannot be written ({error.strerror})") from None


def signer_of(own: ApiSettings) -> Signer:
    """What signs and verifies tokens and ids.

    Raises:
        IsthmusError: a secret is too short.
    """
    from stream.api.signing import Signer

    try:
        return Signer([secret.get_secret_value().encode() for secret in own.token_secrets])
    except ValueError as error:
        raise IsthmusError(f"setting api.token_secrets (ISTHMUS_API__TOKEN_SECRETS): {error}") from None


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def following(parts: ApiParts, stop: asyncio.Event) -> AsyncIterator[None]:
    """Fills the store inside the context. A follower that ends sets `stop`, and its error is raised on leaving."""
    from stream.services.process import running

    beat = Beat(30, time.monotonic)
    parts.api.health.live["event loop"] = beat.check
    work = [*parts.work, beat.keep_beating, *(() if parts.api.oidc is None else (parts.api.oidc.keep_reading,))]
    try:
        async with running([one() for one in work], stop):
            try:
                yield
            finally:
                if parts.api.guests is not None:
                    parts.api.guests.close()
    finally:
        await parts.reader.close()
