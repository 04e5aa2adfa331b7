"""The API and its pages in the demo: on the loopback address, with keys that this process alone knows and makes at each start."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

from stream.services.metrics_reader import reader_of_metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from prometheus_client.metrics_core import Metric

    from stream.api.api_keys import ApiKey, Scope
    from stream.api.live_view import ReadMetrics
    from stream.api.rocksdb_store import RocksDBStore
    from stream.health import Health
    from stream.kafka.cluster.event_sink import EventSink
    from stream.kafka.cluster.log_reader import LogReader
    from stream.kafka.cluster.topic_follower import Apply
    from stream.kafka.embedded.log import Log
    from stream.metrics import Metrics
    from stream.services.api import ApiParts
    from stream.services.demo.context import DemoContext
    from stream.services.demo.stats import DemoStats
    from stream.settings import Settings

USER: Final = "you"
_TAGS: Final = ("home",)
_HOST: Final = "127.0.0.1"
_POLL_S: Final = 0.2
_LISTED: Final = 100
_EXAMPLES: Final = 3


class Backend(NamedTuple):
    """What the demo's API stands on.

    Attributes:
        reader: Reads lists and states.
        sink: Takes the pages' events.
        read_metrics: Reads the workers' metrics.
        follow: Follows whole topics inside a context; sets the event if that ends by itself.
    """

    reader: LogReader
    sink: EventSink
    read_metrics: ReadMetrics | None
    follow: Callable[[Mapping[str, Apply], Health, asyncio.Event], AbstractAsyncContextManager[None]]


@asynccontextmanager
async def on_log(log: Log, settings: Settings, metrics: Metrics) -> AsyncIterator[Backend]:
    """The embedded log; `metrics` are those of the worker in this process."""
    from stream.kafka.embedded.event_sink import EmbeddedEventSink
    from stream.kafka.embedded.log_follower import follow_log
    from stream.kafka.embedded.log_reader import EmbeddedLogReader
    from stream.services.process import running

    async def read_metrics() -> tuple[list[Iterable[Metric]], int]:
        return [metrics.registry.collect()], 1

    def follow(follows: Mapping[str, Apply], _: Health, stop: asyncio.Event) -> AbstractAsyncContextManager[None]:
        return running([follow_log(log, topic, apply, asyncio.Event()) for topic, apply in follows.items()], stop)

    sink = EmbeddedEventSink(log, settings.topics.model_dump())
    yield Backend(EmbeddedLogReader(log), sink, read_metrics, follow)


@asynccontextmanager
async def on_broker(bootstrap: str, context: DemoContext, metrics_of_workers: Sequence[str]) -> AsyncIterator[Backend]:
    """A broker, with workers in other processes."""
    from stream.kafka.cluster.corrupt_batches import StoppedPartitions
    from stream.kafka.cluster.event_sink import open_event_sink
    from stream.kafka.cluster.kafka_log_reader import KafkaLogReader
    from stream.services.process import followed

    topics, own, stopped = context.settings.topics, context.settings.api, StoppedPartitions()

    def follow(follows: Mapping[str, Apply], health: Health, stop: asyncio.Event) -> AbstractAsyncContextManager[None]:
        return followed(bootstrap, follows, health, stop, context.startup, stopped)

    async with open_event_sink(bootstrap, topics.model_dump(), topics.partitions, own.send_timeout_s) as sink:
        yield Backend(KafkaLogReader(bootstrap, stopped=stopped), sink, reader_of_metrics(metrics_of_workers), follow)


async def serve_demo_api(context: DemoContext, opening: AbstractAsyncContextManager[Backend], metrics: Metrics) -> None:
    """Serves one replica until it is cancelled.

    It begins after the first recommendation, and its libraries, a second of work, are loaded in a thread.
    """
    while context.stats.first_recommendation_s is None:  # noqa: ASYNC110  (a statistic, not an event)
        await asyncio.sleep(_POLL_S)
    await asyncio.to_thread(importlib.import_module, "stream.api.app")
    from stream.api.rocksdb_store import RocksDBStore
    from stream.services.api import following
    from stream.services.http_server import serve

    settings, topics = _own_settings(context), context.settings.topics
    stop, store = asyncio.Event(), RocksDBStore(context.folder / "api")
    try:
        async with opening as backend:
            parts, secret = _parts(settings, store, backend, metrics, context.stats)
            follows: dict[str, Apply] = {
                topics.api_keys: parts.api.keys.on_records,
                topics.items: parts.current.on_items,
                topics.models: parts.current.on_models,
            }
            async with backend.follow(follows, parts.api.health, stop), following(parts, stop):
                url = f"http://{_HOST}:{settings.api.port}"
                saying = asyncio.create_task(_say_how_to_ask(context.say, parts, url, secret))
                try:
                    await serve(parts.api, metrics, stop, lambda _: None, _HOST)
                finally:
                    saying.cancel()
    finally:
        await store.close()


def _own_settings(context: DemoContext) -> Settings:
    from pydantic import SecretStr

    from stream.kafka.cluster.local_broker import free_port
    from stream.settings import with_changes

    settings = with_changes(context.settings, "registry", trusted_folders=(str(context.folder),))
    own = {"host": _HOST, "port": context.settings.api.port or free_port(), "metrics_port": 0, "live": True, "keep_clicks": True}
    return with_changes(settings, "api", token_secrets=(SecretStr(secrets.token_hex(32)),), **own)


def _parts(settings: Settings, store: RocksDBStore, backend: Backend, metrics: Metrics, stats: DemoStats) -> tuple[ApiParts, str]:
    """The replica, whose pages have keys of their own, and a key for the terminal."""
    import msgspec

    from stream.api.api_keys import ApiKeys, Scope
    from stream.api.context import DemoAgent
    from stream.services.api import make_parts

    scopes = (Scope.READ, Scope.WRITE), (Scope.PUBLIC,), (Scope.LIVE,), (Scope.READ, Scope.FEEDBACK)
    (secret, first), (shop, second), (live, third), (agent, fourth) = (_new_key(*one) for one in scopes)
    parts = make_parts(settings, store, backend.reader, backend.sink, metrics, read_metrics=backend.read_metrics)
    api = msgspec.structs.replace(
        parts.api,
        keys=ApiKeys((first, second, third, fourth)),
        page_key=shop,
        live_key=live,
        demo_agent=DemoAgent(agent, lambda: _recent_users(stats)),
    )
    return dataclasses.replace(parts, api=api), secret


def _new_key(*scopes: Scope) -> tuple[str, ApiKey]:
    from stream.api.api_keys import make_api_key
    from stream.services.api import now_ms

    return make_api_key("demo", scopes, now_ms())


def _recent_users(stats: DemoStats) -> tuple[str, ...]:
    """Users of recent lists, for an agent to look at: those who both clicked and called first, then those who did either, and not
    the newest, whose states the API may not have yet.
    """
    from stream.api.answers import decode_list

    lists = [decode_list(value) for value in stats.recent]
    lists.sort(key=lambda made: bool(made.modalities.session) + bool(made.modalities.conversation), reverse=True)
    return tuple(dict.fromkeys(made.user_id for made in lists))[:_EXAMPLES]


async def _say_how_to_ask(say: Callable[[str], None], parts: ApiParts, url: str, key: str) -> None:
    """Prints where the pages are, once there is a catalogue, and two requests: the first shows a list, the second changes it.

    The user clicks first: a list of his own stays until his next event, whereas popularity's changes with each purchase of others.
    """
    import msgspec

    from stream.core.events import Click
    from stream.kafka.cluster.event_sink import OutgoingEvent
    from stream.services.api import now_ms

    while not parts.current.catalogue.items or parts.missing() is not None:  # noqa: ASYNC110  (two states at once)
        await asyncio.sleep(_POLL_S)
    say(f"watch it live:   {url}/")
    say(f"open the shop:   {url}/shop")
    say(f"be an agent:     {url}/agent")
    say(f'a page of yours: <script src="{url}/snippet.js" data-key="{parts.api.page_key}" defer></script>')
    say(f"                 {_who_may_read(parts.api.settings.cors_origins)}; its key has the scope public")
    click = OutgoingEvent("clicks", USER, "", msgspec.json.encode(Click(USER, now_ms(), _TAGS)))
    while await parts.api.sink.send([click]) == [None]:  # noqa: ASYNC110  (a busy broker did not take it in time)
        await asyncio.sleep(_POLL_S)
    while (answer := (await parts.api.service.lists([USER], _LISTED))[0]).recommendation_id is None:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
    first = next(entry for entry in answer.items if not parts.current.catalogue.is_repeatable(entry.item))
    event = f'{{"type": "purchase", "user_id": "{USER}", "occurred_at": {now_ms()}, "items": ["{first.item}"]}}'
    curl = f"curl -sH 'Authorization: Bearer {key}'"
    say(f"ask for a list:  {curl} {url}/v1/users/{USER}/recommendations")
    say(f"then change it:  {curl} -H 'Content-Type: application/json' {url}/v1/events -d '{{\"events\": [{event}]}}'")
    say("                 the key of both has the scopes read and write; all keys end with the demo")


def _who_may_read(origins: Sequence[str]) -> str:
    """Which other sites' pages may use the API."""
    if origins:
        return f"from {', '.join(origins)}"
    return """from the origins in ISTHMUS_API__CORS_ORIGINS, such as '["http://localhost:8000"]' (none is set)"""
