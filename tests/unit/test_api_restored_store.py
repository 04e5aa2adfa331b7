"""A shared store that comes back with other contents under a running replica: a real Redis whose file is an older copy, or gone."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stream.api.redis_store import open_redis_store
from stream.core.limits import DAY_MS
from stream.kafka.embedded.log import Log, compact
from tests import api
from tests.api import CHANGELOG, ITEMS, TOPICS, Replica, replica
from tests.redis_server import RedisServer, redis_cluster, redis_or_skip

WITHIN_S = 60


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    redis_or_skip()
    with RedisServer(tmp_path / "redis") as running:
        yield running


def fill(log: Log) -> None:
    for user in ("erased", "other"):
        api.put_list(log, user, recommendation_id=f"old-{user}")
        api.put_state(log, user, owned=["item-01"])


def change(log: Log) -> None:
    """What the older copy lacks: an erasure, a newer list, and a user who came."""
    api.erase(log, "erased")
    api.put_list(log, "other", ITEMS[7:12], recommendation_id="new-other")
    api.put_state(log, "third")


def keep_a_copy(server: RedisServer) -> Path:
    with server.client() as client:
        client.save()
    return Path(shutil.copy(server.folder / "dump.rdb", server.folder.parent / "older.rdb"))


def let_tombstones_go(log: Log) -> None:
    """As Kafka does a week later. The newest record of a partition stays."""
    for topic in (TOPICS.recommendations, CHANGELOG):
        for partition in log.topics[topic].partitions:
            last = partition.records[-1:]
            partition.records = [one for one in compact(partition.records) if one.value is not None or one in last]


async def come_back_with(server: RedisServer, copy: Path | None) -> None:
    """Kills the server and starts it with the copy's contents, or none."""
    await asyncio.to_thread(server.kill)
    (server.folder / "dump.rdb").unlink(missing_ok=True)
    if copy is not None:
        shutil.copy(copy, server.folder / "dump.rdb")
    await asyncio.to_thread(server.start)


async def watch(running: Replica, said: list[Any], stop: asyncio.Event) -> None:
    """Asks for both users' lists and the erased one's profile, on and on; keeps what the API should not have said."""
    while not stop.is_set():
        batch = await running.client.post("/v1/users/batch", json={"users": ["erased", "other"]})
        profile = await running.get("/v1/users/erased/profile")
        if batch.status_code < 300:
            ids = [one.get("recommendation_id") for one in batch.json()["lists"]]
            said += [] if ids == [None, "new-other"] else [ids]
        if profile.status_code not in {404, 503}:
            said.append(profile.text)
        await asyncio.sleep(0.001)


async def returns_current(running: Replica, server: RedisServer, copy: Path | None) -> None:
    """While and after the server comes back, nothing but the present is served, and the replica is ready again in the end."""
    said: list[Any] = []
    stop = asyncio.Event()
    watching = asyncio.create_task(watch(running, said, stop))
    await come_back_with(server, copy)
    await running.until(lambda: is_refused(running), WITHIN_S)
    await running.until(lambda: is_current(running), WITHIN_S)
    stop.set()
    await watching
    assert said == []


async def is_refused(running: Replica) -> bool:
    return bool((await running.get("/readyz")).status_code == 503)


async def is_current(running: Replica) -> bool:
    ready = (await running.get("/readyz")).status_code == 200
    return ready and bool((await running.get("/v1/users/third/profile")).status_code == 200)


@pytest.mark.parametrize("contents", ["an older copy", "nothing"])
async def test_a_redis_that_comes_back_with_old_contents_brings_nothing_back(
    server: RedisServer, tmp_path: Path, contents: str
) -> None:
    """The replica goes on at the copy's position, or reads everything; an erased user and an older list are served by neither."""
    log = api.new_log()
    fill(log)
    async with replica(log, tmp_path / "store", redis_url=server.url, failures_per_minute=0) as running:
        await running.settled()
        copy = keep_a_copy(server) if contents == "an older copy" else None
        change(log)
        await running.settled()
        await returns_current(running, server, copy)


async def test_a_copy_that_is_older_than_tombstones_is_reconciled(server: RedisServer, tmp_path: Path) -> None:
    """The topics no longer say who was erased since; so everything is read, and what they do not hold is deleted."""
    log = api.new_log()
    fill(log)
    async with replica(log, tmp_path / "store", redis_url=server.url) as first:
        await first.settled()
        copy = keep_a_copy(server)
    change(log)
    let_tombstones_go(log)
    own: dict[str, Any] = {"redis_url": server.url, "failures_per_minute": 0}
    async with replica(log, tmp_path / "store", ahead_ms=7 * DAY_MS, **own) as running:
        await running.settled()
        reconciled = running.parts.api.metrics.total("api_reconciled")
        await returns_current(running, server, copy)
        assert running.parts.api.metrics.total("api_reconciled") > reconciled


async def test_each_server_process_has_an_id_of_its_own(server: RedisServer, tmp_path: Path) -> None:
    """The replicas learn by it that another one answers, although no contents differ: of a cluster, all that hold rows."""
    store = await open_redis_store(server.url, "x")
    before = await store.servers()
    assert before == await store.servers()
    server.kill()
    server.start()
    assert len(before) == 1
    assert before.isdisjoint(await store.servers())
    await store.close()
    with redis_cluster(tmp_path / "cluster") as cluster:
        clustered = await open_redis_store(cluster.url, "x")
        assert len(await clustered.servers()) == 2
        await clustered.close()
