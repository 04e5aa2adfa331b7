"""A replica of the API on an embedded log, without a port: for the API's tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
from httpx import ASGITransport, AsyncClient
from litestar import Litestar
from litestar.testing import AsyncTestClient

from stream.api.api_keys import ApiKey, Scope, encode_api_key, make_api_key
from stream.api.app import make_app
from stream.api.store import Store
from stream.core.events import Erasure, Item
from stream.core.feedback import Mark, UserFeedback, encode_feedback
from stream.core.kept_interactions import KeptSession
from stream.core.known_erasures import KnownErasures
from stream.core.outputs import Cause, Modalities, ModelName, Output, RankedItem, Recommendation
from stream.core.partitioner import partition_of
from stream.core.state import (
    ErasureMarker,
    Facts,
    Head,
    KeptPurchase,
    encode_state,
    erasure_marker_key,
    facts_key,
    feedback_key,
    head_key,
)
from stream.kafka.cluster.event_sink import EventSink
from stream.kafka.cluster.log_reader import LogReader
from stream.kafka.cluster.topics import changelog_name, specs
from stream.kafka.embedded.event_sink import EmbeddedEventSink
from stream.kafka.embedded.log import Log
from stream.kafka.embedded.log_follower import follow_log
from stream.kafka.embedded.log_reader import EmbeddedLogReader
from stream.kafka.faust.changelog import term_headers as stamp
from stream.metrics import Metrics
from stream.process_settings import ApiSettings, RegistrySettings, StepSettings
from stream.services.api import ApiParts, following, make_parts, now_ms, open_store
from stream.settings import Settings, TopicSettings

PARTITIONS = 2
TOKEN_SECRET = "0123456789abcdef0123456789abcdef"  # 32 bytes
TOPICS = TopicSettings(partitions=PARTITIONS)
CHANGELOG = changelog_name("isthmus-profiles")
ITEMS = tuple(f"item-{number:02}" for number in range(20))
NOW = now_ms()


def settings(**api: Any) -> Settings:
    return Settings(
        topics=TOPICS,
        step=StepSettings(),
        api=ApiSettings(**{"heartbeat_s": 0.2, "port": 0, "metrics_port": 0, "token_secrets": (TOKEN_SECRET,), **api}),
    )


def new_log() -> Log:
    log = Log()
    log.create_topics(specs(TOPICS))
    return log


def put_items(log: Log, items: Sequence[str] = ITEMS, **fields: Any) -> None:
    for item in items:
        log.append(TOPICS.items, item, msgspec.json.encode(Item(item, item.title(), **fields)))


def withdraw(log: Log, *items: str) -> None:
    for item in items:
        log.append(TOPICS.items, item, None)


def make_list(user: str, items: Sequence[str] = ITEMS[:5], reserve: Sequence[str] = ITEMS[5:15], **fields: Any) -> Recommendation:
    scored = fields.pop("filled_from", 1_000)
    ranked = [
        RankedItem(item, rank, round(1 - rank / 100, 4), None if rank < scored else "catalogue")
        for rank, item in enumerate([*items, *reserve], start=1)
    ]
    return Recommendation(
        recommendation_id=fields.pop("recommendation_id", f"id-{user}-{'-'.join(items)}"),
        user_id=user,
        occurred_at=fields.pop("occurred_at", NOW),
        caused_by=Cause("e", "click", NOW),  # type: ignore[arg-type]
        model=ModelName("fusion", "7"),
        items=tuple(ranked[: len(items)]),
        modalities=Modalities(1, 0),
        reserve=tuple(ranked[len(items) :]),
        **fields,
    )


def put_list(log: Log, user: str, *lists: Sequence[str], **fields: Any) -> None:
    made = make_list(user, *lists, **fields)
    append(log, TOPICS.recommendations, user, Output(user.encode(), msgspec.json.encode(made)))


def put_state(log: Log, user: str, owned: Sequence[str] = (), excluded: Sequence[str] = (), term: int = 1) -> None:
    tail = [KeptSession(NOW, NOW, "", "\x1fsecret-tag", b"\x00" * 8, b"\x01\x00")]
    head = Head(owned=tuple(owned), excluded=tuple(excluded), newest_at=NOW, tail=list(tail))
    facts = Facts(purchases=[KeptPurchase(NOW, "p", True, tuple(owned))] if owned else [])
    for state_key, record in ((head_key, head), (facts_key, facts)):
        append(log, CHANGELOG, user, Output(state_key(user.encode()), encode_state(record), stamp(term)))


def put_feedback(log: Log, user: str, marks: Iterable[Mark]) -> None:
    kept = UserFeedback((1, 0))
    kept.add(marks)
    append(log, CHANGELOG, user, Output(feedback_key(user.encode()), encode_feedback(kept), stamp(1)))


def erase(log: Log, user: str, term: int = 1) -> None:
    append(log, TOPICS.recommendations, user, Output(user.encode(), None))
    for state_key in (head_key, facts_key, feedback_key):
        append(log, CHANGELOG, user, Output(state_key(user.encode()), None, stamp(term)))


def mark_erased(log: Log, user: str, until_ms: int, term: int = 1, event_id: str | None = None) -> None:
    """What an erasure leaves: no state, and a marker under a keyed hash."""
    erase(log, user, term)
    secret = StepSettings().erasure_key.get_secret_value().encode()
    known = KnownErasures(user.encode(), secret)
    known.add(Erasure(user, event_id=event_id))
    marker = encode_state(ErasureMarker(1, until_ms, until_ms, {}, known.ids))
    append(log, CHANGELOG, user, Output(erasure_marker_key(user.encode(), secret), marker, stamp(term)))


def append(log: Log, topic: str, user: str, output: Output) -> None:
    log.append_to(topic, partition_of(user.encode(), PARTITIONS), output, None)


def put_key(log: Log, *scopes: Scope, expires_at: int | None = None) -> tuple[str, ApiKey]:
    """A new key: what the client presents, and its record."""
    secret, key = make_api_key("test", scopes, NOW, expires_at)
    log.append(TOPICS.api_keys, key.key_id, encode_api_key(key))
    return secret, key


@dataclass
class Replica:
    """One running replica, and a client with a key that may do everything."""

    log: Log
    parts: ApiParts
    app: Litestar
    client: AsyncClient
    store: Store

    async def get(self, path: str, **more: Any) -> Any:
        return await self.client.get(path, **more)

    async def until(self, holds: Callable[[], Awaitable[bool]], within_s: float = 5) -> None:
        async with asyncio.timeout(within_s):
            while not await holds():
                await asyncio.sleep(0.01)

    async def has_key(self, key_id: str) -> bool:
        """Whether it has read the key from its topic."""
        return any(key.key_id == key_id for key in self.parts.api.keys.all())

    async def items_of(self, user: str, **parameters: Any) -> list[str]:
        answer = await self.client.get(f"/v1/users/{user}/recommendations", params=parameters)
        assert answer.status_code == 200, answer.text
        return [one["item"] for one in answer.json()["items"]]

    async def settled(self) -> None:
        """Everything that is in the log now has been applied."""
        ends = {one: self.log.topics[one[0]].partitions[one[1]].end for one in self.parts.follower.positions()}
        await self.until(lambda: self._reached(ends))

    async def _reached(self, ends: dict[tuple[str, int], int]) -> bool:
        return all(self.parts.follower.positions()[one] >= end for one, end in ends.items())


def _client(app: Litestar, own: ApiSettings) -> AsyncClient:
    """A client of the application. Litestar's own runs it in another event loop, where a connection to Redis cannot be used."""
    if own.redis_url is None:
        return AsyncTestClient(app, raise_server_exceptions=False)
    return AsyncClient(transport=ASGITransport(cast("Any", app), raise_app_exceptions=False), base_url="http://testserver.local")


def _has_read_keys(parts: ApiParts) -> bool:
    """Whether the provider's keys were asked for once. A client in another loop must not meet the lock that this holds."""
    oidc = parts.api.oidc
    return oidc is None or (oidc._read_at > -float("inf") and not oidc._lock.locked())


@asynccontextmanager
async def replica(
    log: Log,
    folder: Path,
    ready: bool = True,
    sink: EventSink | None = None,
    reader: LogReader | None = None,
    ahead_ms: int = 0,
    **api: Any,
) -> AsyncIterator[Replica]:
    """Runs a replica on a log; by default until it is ready. Its wall clock is `ahead_ms` ahead.

    Its store is in `folder`, or, with `redis_url`, in Redis under the folder's name. Models in `folder` are trusted.
    """
    chosen = settings(**api, state_dir=folder.parent, name=folder.name, redis_prefix=folder.name)
    chosen = chosen.model_copy(update={"registry": RegistrySettings(folder=str(folder))})
    store, metrics = await open_store(chosen), Metrics()

    def clock_ms() -> int:
        return now_ms() + ahead_ms

    events = sink or EmbeddedEventSink(log, TOPICS.model_dump())
    parts = make_parts(chosen, store, reader or EmbeddedLogReader(log, clock_ms), events, metrics, clock_ms)
    follows = {
        TOPICS.api_keys: parts.api.keys.on_records,
        TOPICS.items: parts.current.on_items,
        TOPICS.models: parts.current.on_models,
    }
    secret, _ = put_key(log, Scope.ADMIN)
    tasks = [asyncio.create_task(follow_log(log, topic, apply, asyncio.Event())) for topic, apply in follows.items()]
    app = make_app(parts.api, metrics)
    try:
        async with following(parts, asyncio.Event()), _client(app, chosen.api) as client:
            client.headers["Authorization"] = f"Bearer {secret}"
            if ready:
                async with asyncio.timeout(10):
                    while parts.missing() is not None or not _has_read_keys(parts):
                        await asyncio.sleep(0.01)
            yield Replica(log, parts, app, client, store)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()
