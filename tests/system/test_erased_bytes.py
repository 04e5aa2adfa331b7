"""Erasure of a whole system, to the bytes: worker and API on one embedded log, and everything that either keeps is searched."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from logging import Logger
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from uuid import uuid4

from rocksdict import BottommostLevelCompaction, CompactOptions

from stream.api.rocksdb_store import RocksDBStore
from stream.core.feedback import hash_item
from stream.core.step import StepConfig
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.app import add_profile_agent, make_app, run_until_stopped
from stream.kafka.cluster.topics import source_topics, specs
from stream.kafka.embedded.log import Log, compact, forget, open_log
from stream.metrics import Metrics
from stream.process_settings import StepSettings
from stream.rocksdb import purge_deleted
from stream.services.api import now_ms
from tests import world
from tests.api import CHANGELOG, PARTITIONS, TOPICS, Replica, replica

USER, OTHER = "erased-4d1f", "known-77aa"
SEEN = {USER: "Qm7x-Vw3k-Zp9t", OTHER: "Jf4h-Bn8s-Yd2r"}
BOUGHT = {USER: "Gc5v-Lx1j-Ts6b", OTHER: "Hk3d-Rw7p-Mf9z"}
TAG = {USER: "Xa2y-Uq8n-Ce4g", OTHER: "Do6i-Pb1l-Wj5s"}
VERSION = {USER: "Vt9m-Ky3f", OTHER: "Es7u-Nh2x"}


def traces_of(user: str) -> tuple[bytes, ...]:
    """What only this user's events said: his id, his tag, what he was shown (of which the hash is kept), by which version, and what
    he bought. No list offers these items. Nothing in the texts repeats, so that no compression hides them.
    """
    return *(said[user].encode() for said in (TAG, BOUGHT, VERSION)), user.encode(), hash_item(SEEN[user])


@asynccontextmanager
async def system(folder: Path) -> AsyncIterator[tuple[Replica, Any]]:
    """A worker and a replica of the API; gives the replica and the worker's app."""
    name = uuid4().hex[:8]
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    sources, stop = source_topics(TOPICS), asyncio.Event()
    app = make_app("isthmus-profiles", f"embedded://{name}", data=folder / "worker", partitions=PARTITIONS)
    context = ProfileContext(
        sources=sources,
        epochs=log.epochs(sources),
        served=ServedModel(world.OrderRanker(text_model=None), world.catalogue()),
        step=StepConfig(partitions=PARTITIONS, erasure_key=StepSettings().erasure_key.get_secret_value().encode()),
        topics=TOPICS,
        metrics=Metrics(),
    )
    add_profile_agent(app, context)
    running = asyncio.create_task(run_until_stopped(app, stop))
    try:
        async with replica(log, folder / "api") as serving:
            yield serving, app
    finally:
        stop.set()
        await running
        forget(name)


async def act(serving: Replica, user: str) -> None:
    """A click, an impression of one item, and a purchase of another."""
    now = now_ms() - 60_000
    own = {"user_id": user}
    click = {**own, "type": "click", "occurred_at": now, "tags": [TAG[user], "home"]}
    shown = {
        **own,
        "occurred_at": now + 1,
        "channel": "web",
        "action": "shown",
        "items": [SEEN[user]],
        "model_version": VERSION[user],
    }
    purchase = {**own, "type": "purchase", "occurred_at": now + 2, "purchase_id": f"p-{user}", "items": [BOUGHT[user]]}
    for path, event in (("events", click), ("feedback", shown)):
        assert (await serving.client.post(f"/v1/{path}", json={"events": [event]})).status_code == 202
    await serving.until(lambda: profile_has(serving, user, lambda profile: "feedback" in profile), 15)
    assert (await serving.client.post("/v1/events", json={"events": [purchase]})).status_code == 202
    await serving.until(lambda: profile_has(serving, user, lambda profile: profile["owned"] == 1), 15)


async def profile_has(serving: Replica, user: str, holds: Callable[[Any], bool]) -> bool:
    answer = await serving.get(f"/v1/users/{user}/profile")
    return answer.status_code == 200 and holds(answer.json())


async def erase(serving: Replica, user: str) -> None:
    receipt = (await serving.client.delete(f"/v1/users/{user}")).json()

    async def is_done() -> bool:
        return bool((await serving.get(receipt["status_url"])).json()["done"])

    await serving.until(is_done, 15)


def in_files(folder: Path, user: str) -> set[bytes]:
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return {trace for trace in traces_of(user) if any(trace in content for content in contents)}


def in_outputs(log: Log, user: str) -> set[bytes]:
    """What the worker's output topics hold of a user after a compaction."""
    outputs = [log.topics[topic] for topic in (TOPICS.recommendations, TOPICS.training_examples, CHANGELOG)]
    records = [record for topic in outputs for partition in topic.partitions for record in compact(partition.records)]
    texts = [text for record in records if record.value is not None for text in (record.key or b"", record.value)]
    return {trace for trace in traces_of(user) if any(trace in text for text in texts)}


def texts_reached_from(*roots: object) -> Iterable[bytes]:
    """All texts that can be reached from objects, but not through the log, which stands for the broker, nor through modules and
    loggers, which lead to pytest's copy of the requests.
    """
    seen, left = set[int](), list(roots)
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, (Log, ModuleType, type, Logger)):
            continue
        seen.add(id(one))
        if isinstance(one, str):
            yield one.encode(errors="replace")
        elif isinstance(one, (bytes, bytearray)):
            yield bytes(one)
        elif isinstance(one, FunctionType):  # its globals are its module
            left += [one.__closure__, one.__defaults__, one.__kwdefaults__]
        else:
            left += gc.get_referents(one)


def in_memory(serving: Replica, user: str) -> set[bytes]:
    texts = list(texts_reached_from(serving.parts, serving.store))
    return {trace for trace in traces_of(user) if any(trace in text for text in texts)}


def compact_worker(app: Any) -> None:
    options = CompactOptions()
    options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
    for table in app.tables.values():
        for db in table.data._dbs.values():
            db.flush()
            db.compact_range(None, None, options)
            purge_deleted(db, wait=True)


async def test_nothing_that_is_kept_holds_what_an_erased_user_did(tmp_path: Path) -> None:
    """Click, purchase and feedback are found in the files of worker and API and in the outputs. After the erasure and compactions
    they are not, nor in the API's memory; what another user did is.
    """
    worker, store = tmp_path / "worker", tmp_path / "api"
    async with system(tmp_path) as (serving, app):
        for user in (USER, OTHER):
            await act(serving, user)
        assert in_files(worker, USER) | in_files(store, USER) == {*traces_of(USER)}
        assert in_outputs(serving.log, USER) == {*traces_of(USER)}
        await erase(serving, USER)
        assert (await serving.get(f"/v1/users/{USER}/profile")).status_code == 404
        compact_worker(app)
        assert isinstance(serving.store, RocksDBStore)
        serving.store.compact()
        assert in_outputs(serving.log, OTHER) == {*traces_of(OTHER)}
        assert in_outputs(serving.log, USER) == in_memory(serving, USER) == set()
    assert in_files(worker, OTHER) | in_files(store, OTHER) == {*traces_of(OTHER)}
    assert in_files(tmp_path, USER) == set()
