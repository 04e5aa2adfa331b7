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
_POLL_S: Final = 0.2
_LISTED: Final = 100


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
    from stream.api.rocksdb_store import RocksDBStore
    from stream.kafka.cluster.local_broker import free_port
    from stream.kafka.embedded.event_sink import EmbeddedEventSink
    from stream.kafka.embedded.log_follower import follow_log
    from stream.kafka.embedded.log_reader import EmbeddedLogReader
    from stream.services.api import following, make_parts
    from stream.services.http_server import serve
    from stream.settings import with_changes

    secrets_of_tokens = (SecretStr(secrets.token_hex(32)),)
    own = {"host": "127.0.0.1", "port": free_port(), "metrics_port": 0, "token_secrets": secrets_of_tokens, "live": True}
    settings = with_changes(context.settings, "api", **own)
    topics = settings.topics
    secret, shop, live = (
        _new_key(log, topics.api_keys, *scopes) for scopes in ((Scope.READ, Scope.WRITE), (Scope.PUBLIC,), (Scope.LIVE,))
    )
    store, stop = RocksDBStore(context.folder / "api"), asyncio.Event()
    sink = EmbeddedEventSink(log, topics.model_dump())

    async def read_metrics() -> tuple[list[Iterable[Metric]], int]:
        return [metrics.registry.collect()], 1

    parts = make_parts(settings, store, EmbeddedLogReader(log), sink, metrics, read_metrics=read_metrics)
    parts = dataclasses.replace(parts, api=msgspec.structs.replace(parts.api, page_key=shop, live_key=live))
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


async def _say_how_to_ask(say: Callable[[str], None], parts: ApiParts, url: str, key: str) -> None:
    """Prints two requests, once there is a catalogue: the first shows a list, the second changes it."""
    from stream.services.api import now_ms

    while not parts.current.catalogue.items or parts.missing() is not None:  # noqa: ASYNC110  (two states at once)
        await asyncio.sleep(_POLL_S)
    (answer,) = await parts.api.service.lists([USER], _LISTED)
    first = next(entry for entry in answer.items if not parts.current.catalogue.is_repeatable(entry.item))
    event = f'{{"type": "purchase", "user_id": "{USER}", "occurred_at": {now_ms()}, "items": ["{first.item}"]}}'
    curl = f"curl -sH 'Authorization: Bearer {key}'"
    say(f"watch it live:   {url}/")
    say(f"open the shop:   {url}/shop")
    say(f"ask for a list:  {curl} {url}/v1/users/{USER}/recommendations")
    say(f"then change it:  {curl} -H 'Content-Type: application/json' {url}/v1/events -d '{{\"events\": [{event}]}}'")
