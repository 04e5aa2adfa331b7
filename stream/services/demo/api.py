"""The API, the live page and the shop in the demo without Kafka: on the loopback address, with keys that are made at each start."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from stream.api.api_keys import Scope
    from stream.kafka.embedded.log import Log
    from stream.metrics import Metrics
    from stream.services.api import ApiParts
    from stream.services.demo.context import DemoContext

USER: Final = "you"
_TAGS: Final = ("home",)
_POLL_S: Final = 0.2
_LISTED: Final = 100
_RECENT: Final = 50  # lists of a partition
_EXAMPLES: Final = 3


async def serve_demo_api(context: DemoContext, log: Log, metrics: Metrics) -> None:
    """Serves one replica from the embedded log until it is cancelled.

    It begins after the first recommendation, and its libraries, a second of work, are loaded in a thread.
    """
    while context.stats.first_recommendation_s is None:  # noqa: ASYNC110  (a statistic, not an event)
        await asyncio.sleep(_POLL_S)
    await asyncio.to_thread(importlib.import_module, "stream.api.app")
    import msgspec
    from pydantic import SecretStr

    from stream.api.api_keys import Scope
    from stream.api.context import DemoAgent
    from stream.api.rocksdb_store import RocksDBStore
    from stream.kafka.cluster.local_broker import free_port
    from stream.kafka.embedded.event_sink import EmbeddedEventSink
    from stream.kafka.embedded.log_follower import follow_log
    from stream.kafka.embedded.log_reader import EmbeddedLogReader
    from stream.services.api import following, make_parts
    from stream.services.http_server import serve
    from stream.settings import with_changes

    own = {"host": "127.0.0.1", "port": free_port(), "metrics_port": 0, "live": True, "keep_clicks": True}
    settings = with_changes(context.settings, "api", token_secrets=(SecretStr(secrets.token_hex(32)),), **own)
    topics = settings.topics
    scopes = (Scope.READ, Scope.WRITE), (Scope.PUBLIC,), (Scope.LIVE,), (Scope.READ, Scope.FEEDBACK)
    secret, shop, live, agent = (_new_key(log, topics.api_keys, *one) for one in scopes)
    store, stop = RocksDBStore(context.folder / "api"), asyncio.Event()
    sink = EmbeddedEventSink(log, topics.model_dump())

    async def read_metrics() -> tuple[list[Iterable[Metric]], int]:
        return [metrics.registry.collect()], 1

    parts = make_parts(settings, store, EmbeddedLogReader(log), sink, metrics, read_metrics=read_metrics)
    demo_agent = DemoAgent(agent, lambda: _recent_users(log, topics.recommendations))
    pages = {"page_key": shop, "live_key": live, "demo_agent": demo_agent}
    parts = dataclasses.replace(parts, api=msgspec.structs.replace(parts.api, **pages))
    follows = {
        topics.api_keys: parts.api.keys.on_records,
        topics.items: parts.current.on_items,
        topics.models: parts.current.on_models,
    }
    work = [follow_log(log, topic, apply, asyncio.Event()) for topic, apply in follows.items()]
    work.append(_say_how_to_ask(context.say, parts, f"http://127.0.0.1:{settings.api.port}", secret))
    tasks = [asyncio.create_task(one) for one in work]
    try:
        async with following(parts, stop):
            await serve(parts.api, metrics, stop, lambda _: None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()


def _new_key(log: Log, topic: str, *scopes: Scope) -> str:
    from stream.api.api_keys import encode_api_key, make_api_key
    from stream.services.api import now_ms

    secret, key = make_api_key("demo", scopes, now_ms())
    log.append(topic, key.key_id, encode_api_key(key))
    return secret


def _recent_users(log: Log, topic: str) -> tuple[str, ...]:
    """Users of recent lists, for an agent to look at: those who both clicked and called first, and not the newest, whose states
    the API may not have yet.
    """
    from stream.api.answers import decode_list

    recent = [record for part in log.topics[topic].partitions for record in list(part.records)[-_RECENT:] if record.value]
    lists = [decode_list(record.value) for record in sorted(recent, key=lambda record: record.timestamp) if record.value]
    lists.sort(key=lambda made: not (made.modalities.session and made.modalities.conversation))
    return tuple(dict.fromkeys(made.user_id for made in lists))[:_EXAMPLES]


async def _say_how_to_ask(say: Callable[[str], None], parts: ApiParts, url: str, key: str) -> None:
    """Prints two requests, once there is a catalogue: the first shows a list, the second changes it.

    The user clicks first: a list of his own stays until his next event, whereas popularity's changes with each purchase of others.
    """
    import msgspec

    from stream.core.events import Click
    from stream.kafka.cluster.event_sink import OutgoingEvent
    from stream.services.api import now_ms

    while not parts.current.catalogue.items or parts.missing() is not None:  # noqa: ASYNC110  (two states at once)
        await asyncio.sleep(_POLL_S)
    await parts.api.send([OutgoingEvent("clicks", USER, "", msgspec.json.encode(Click(USER, now_ms(), _TAGS)))])
    while (answer := (await parts.api.service.lists([USER], _LISTED))[0]).recommendation_id is None:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
    first = next(entry for entry in answer.items if not parts.current.catalogue.is_repeatable(entry.item))
    event = f'{{"type": "purchase", "user_id": "{USER}", "occurred_at": {now_ms()}, "items": ["{first.item}"]}}'
    curl = f"curl -sH 'Authorization: Bearer {key}'"
    say(f"watch it live:   {url}/")
    say(f"open the shop:   {url}/shop")
    say(f"be an agent:     {url}/agent")
    say(f"ask for a list:  {curl} {url}/v1/users/{USER}/recommendations")
    say(f"then change it:  {curl} -H 'Content-Type: application/json' {url}/v1/events -d '{{\"events\": [{event}]}}'")
