"""Erasure on the read side, to the bytes: no interface reads what the user had, and no file of the store holds it."""

import asyncio
from pathlib import Path

from stream.api.rocksdb_store import RocksDBStore
from stream.kafka.embedded.log import Log
from tests import api
from tests.api import ITEMS, Replica, replica
from tests.redis_server import RedisServer, redis_or_skip

USER, OTHER = "erased-4d1f", "other-77aa"
HIS = (USER.encode(), b"his-item-9c3e")


def fill(log: Log) -> None:
    """Two users; one has an item on his list that nobody else has, and owns another."""
    for user, item in ((USER, "his-item-9c3e"), (OTHER, "item-other-5b")):
        api.put_list(log, user, [item, *ITEMS[:4]])
        api.put_state(log, user, owned=[item])


def found_in(folder: Path, *texts: bytes) -> list[str]:
    """The files that hold one of the texts."""
    contents = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return [name for name, content in contents.items() if any(text in content for text in texts)]


async def erase_and_look(running: Replica) -> None:
    """Erases the user, and asks every route that could say something of him."""
    assert (await running.get(f"/v1/users/{USER}/profile")).status_code == 200
    api.erase(running.log, USER)
    await running.settled()
    assert (await running.get(f"/v1/users/{USER}/profile")).status_code == 404
    batch = await running.client.post("/v1/users/batch", json={"users": [USER]})
    for answer in (await running.get(f"/v1/users/{USER}/recommendations"), batch):
        assert answer.status_code in {200, 201}
        assert b"his-item-9c3e" not in answer.content
        assert b"recommendation_id" not in answer.content
    assert (await running.get(f"/v1/users/{OTHER}/profile")).status_code == 200


async def test_an_erased_user_is_gone_from_the_files_of_rocksdb(tmp_path: Path) -> None:
    """After a forced compaction; before, he is found, and another user stays."""
    log = api.new_log()
    fill(log)
    async with replica(log, tmp_path / "store") as running:
        await running.settled()
        assert await asyncio.to_thread(found_in, tmp_path, *HIS)
        await erase_and_look(running)
        assert isinstance(running.store, RocksDBStore)
        running.store.compact()
    store = RocksDBStore(tmp_path / "store")  # RocksDB's own list of files names first and last keys until it is opened again
    assert await asyncio.to_thread(found_in, tmp_path, OTHER.encode())
    assert await asyncio.to_thread(found_in, tmp_path, *HIS) == []
    await store.close()


async def test_an_erased_user_is_gone_from_the_files_of_redis(tmp_path: Path) -> None:
    """After a rewrite of both of its files; before, he is found, and another user stays."""
    redis_or_skip()
    log = api.new_log()
    fill(log)
    files = tmp_path / "redis"
    with RedisServer(files, "--appendonly", "yes", "--appendfsync", "always", "--rdbcompression", "no") as server:
        async with replica(log, tmp_path / "store", redis_url=server.url) as running:
            await running.settled()
            assert await asyncio.to_thread(found_in, files, *HIS)
            await erase_and_look(running)
        with server.client() as client:
            client.save()
            client.bgrewriteaof()
        server.until(lambda client: is_rewritten(client.info("persistence")))
        assert await asyncio.to_thread(found_in, files, OTHER.encode())
        server.until(lambda _: not found_in(files, *HIS))  # the former file is unlinked in the background


def is_rewritten(persistence: dict[str, object]) -> bool:
    return not persistence["aof_rewrite_in_progress"] and not persistence["aof_rewrite_scheduled"]
