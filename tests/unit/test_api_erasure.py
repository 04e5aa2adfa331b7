"""Erasure on the read side, to the bytes: no interface reads what the user had, and no file of the store holds it."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from stream.api.rocksdb_store import RocksDBStore
from stream.core.feedback import SHOWN, Mark, hash_item
from stream.kafka.embedded.log import Log
from tests import api
from tests.api import ITEMS, NOW, Replica, replica
from tests.redis_server import RedisServer, redis_or_skip

USER, OTHER = "erased-4d1f", "known-77aa"
ITEM_OF = {USER: "Qm7x-Vw3k-Zp9t", OTHER: "Jf4h-Bn8s-Yd2r"}
SHOWN_AT = {USER: 1_754_321_987_643, OTHER: 1_767_898_765_432}


def traces_of(user: str) -> tuple[bytes, ...]:
    """What the store keeps of a user: id, list and owned items, and, of feedback, its time. Nothing in them repeats, so that no
    compression hides them: what is searched for is found of another user.
    """
    return user.encode(), ITEM_OF[user].encode(), msgspec.msgpack.encode(SHOWN_AT[user])[-5:]


def fill(log: Log) -> None:
    """Two users; each has an item that nobody else has, and was shown it at a time of his own."""
    for user, item in ITEM_OF.items():
        api.put_list(log, user, [item, *ITEMS[:4]], recommendation_id="his-list")
        api.put_state(log, user, owned=[item])
        api.put_feedback(log, user, [Mark(SHOWN_AT[user], hash_item(item), SHOWN, 1, 0, 0, "7", b"once")])


def found_in(folder: Path, user: str) -> list[bytes]:
    """What any file still holds of a user."""
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return [trace for trace in traces_of(user) if any(trace in content for content in contents)]


async def erase_and_look(running: Replica) -> None:
    """Erases the user, and asks every route that could say something of him."""
    assert (await running.get(f"/v1/users/{USER}/profile")).json()["feedback"]["newest_at"] == SHOWN_AT[USER]
    assert (await say_that_the_list_was_shown(running)).status_code == 202
    api.erase(running.log, USER)
    await running.settled()
    assert (await running.get(f"/v1/users/{USER}/profile")).status_code == 404
    batch = await running.client.post("/v1/users/batch", json={"users": [USER]})
    for answer in (await running.get(f"/v1/users/{USER}/recommendations"), batch):
        assert answer.status_code in {200, 201}
        assert ITEM_OF[USER].encode() not in answer.content
        assert b"recommendation_id" not in answer.content
    assert (await say_that_the_list_was_shown(running)).status_code == 422
    assert (await running.get(f"/v1/users/{OTHER}/profile")).status_code == 200


async def say_that_the_list_was_shown(running: Replica) -> Any:
    """Feedback that names a list without its items: the API must know it."""
    event = {"user_id": USER, "occurred_at": NOW, "channel": "web", "action": "shown", "recommendation_id": "his-list"}
    return await running.client.post("/v1/feedback", json={"events": [event]})


async def test_an_erased_user_is_gone_from_the_files_of_rocksdb(tmp_path: Path) -> None:
    """After a forced compaction; before, he is found, and another user stays."""
    log = api.new_log()
    fill(log)
    async with replica(log, tmp_path / "store") as running:
        await running.settled()
        assert await asyncio.to_thread(found_in, tmp_path, USER) == [*traces_of(USER)]
        await erase_and_look(running)
        assert isinstance(running.store, RocksDBStore)
        running.store.compact()
    assert await asyncio.to_thread(found_in, tmp_path, OTHER) == [*traces_of(OTHER)]
    assert await asyncio.to_thread(found_in, tmp_path, USER) == []


async def test_an_erased_user_is_gone_from_the_files_of_redis(tmp_path: Path) -> None:
    """After a rewrite of both of its files; before, he is found, and another user stays."""
    redis_or_skip()
    log = api.new_log()
    fill(log)
    files = tmp_path / "redis"
    with RedisServer(files, "--appendonly", "yes", "--appendfsync", "always", "--rdbcompression", "no") as server:
        async with replica(log, tmp_path / "store", redis_url=server.url) as running:
            await running.settled()
            assert await asyncio.to_thread(found_in, files, USER) == [*traces_of(USER)]
            await erase_and_look(running)
        with server.client() as client:
            client.save()
            client.bgrewriteaof()
        server.until(lambda client: is_rewritten(client.info("persistence")))
        assert await asyncio.to_thread(found_in, files, OTHER) == [*traces_of(OTHER)]
        server.until(lambda _: not found_in(files, USER))  # the former file is unlinked in the background


def is_rewritten(persistence: dict[str, object]) -> bool:
    return not persistence["aof_rewrite_in_progress"] and not persistence["aof_rewrite_scheduled"]
