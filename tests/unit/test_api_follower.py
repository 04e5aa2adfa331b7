"""The follower: what the store holds is what the topics say, whatever was missed, late or recreated meanwhile; in either store."""

from pathlib import Path
from typing import Any

import pytest

from stream.api.rocksdb_store import RocksDBStore
from stream.core.limits import DAY_MS
from stream.core.outputs import Output
from stream.kafka.embedded.log import compact
from stream.kafka.faust.changelog import term_headers
from tests import api
from tests.api import CHANGELOG, ITEMS, TOPICS, replica


@pytest.fixture(params=["rocksdb", "redis"])
def at(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Settings of the store."""
    return {} if request.param == "rocksdb" else {"redis_url": request.getfixturevalue("redis_server").url}


async def test_a_replica_that_was_away_forgets_who_was_erased_meanwhile(tmp_path: Path, at: dict[str, Any]) -> None:
    """Store down, user erased, tombstone compacted away, store up: the row is gone. Others are kept."""
    log = api.new_log()
    for user in ("erased", "other"):
        api.put_list(log, user)
        api.put_state(log, user, owned=["item-01"])
    async with replica(log, tmp_path, **at) as first:
        assert (await first.get("/v1/users/erased/profile")).status_code == 200
    api.erase(log, "erased")
    api.put_list(log, "third")
    api.put_state(log, "third")
    for topic in (TOPICS.recommendations, CHANGELOG):
        for partition in log.topics[topic].partitions:
            partition.records = [record for record in compact(partition.records) if record.value is not None]
    async with replica(log, tmp_path, ahead_ms=7 * DAY_MS, **at) as second:
        assert (await second.get("/v1/users/erased/profile")).status_code == 404
        assert (await second.get("/v1/users/erased/recommendations")).json()["fallback"] == "catalogue"
        assert (await second.get("/v1/users/other/profile")).status_code == 200


async def test_a_replica_that_was_away_shortly_continues(tmp_path: Path, at: dict[str, Any]) -> None:
    """It reads only what came meanwhile."""
    log = api.new_log()
    api.put_list(log, "u")
    async with replica(log, tmp_path, **at):
        pass
    api.put_list(log, "v", ITEMS[7:12])
    async with replica(log, tmp_path, **at) as again:
        assert again.parts.api.metrics.total("api_reconciled") == 0
        assert await again.items_of("v") == list(ITEMS[7:12])
        assert await again.items_of("u") == list(ITEMS[:5])


async def test_a_recreated_topic_is_read_anew(tmp_path: Path, at: dict[str, Any]) -> None:
    """Its offsets begin again at 0; what only its predecessor held is gone."""
    log = api.new_log()
    api.put_list(log, "u")
    async with replica(log, tmp_path, **at):
        pass
    recreated = api.new_log()
    log.topics[TOPICS.recommendations] = recreated.topics[TOPICS.recommendations]
    api.put_list(log, "v", ITEMS[7:12])
    async with replica(log, tmp_path, **at) as again:
        assert await again.items_of("v") == list(ITEMS[7:12])
        assert (await again.get("/v1/users/u/recommendations")).json()["fallback"] == "catalogue"


async def test_a_wiped_store_is_filled_again(tmp_path: Path) -> None:
    """From the topics alone."""
    log = api.new_log()
    api.put_list(log, "u", ITEMS[7:12])
    async with replica(log, tmp_path / "one"):
        pass
    async with replica(log, tmp_path / "two") as again:
        assert await again.items_of("u") == list(ITEMS[7:12])


async def test_changelog_records_of_an_earlier_owner_are_left_out(tmp_path: Path, at: dict[str, Any]) -> None:
    """As recovery leaves them out; counted. Records of the same or a later term are applied."""
    log = api.new_log()
    api.put_state(log, "u", owned=["item-01"], term=3)
    async with replica(log, tmp_path, **at) as running:
        api.put_state(log, "u", owned=[], term=2)
        await running.settled()
        assert (await running.get("/v1/users/u/profile")).json()["owned"] == 1
        assert running.parts.api.metrics.total("late_records") >= 2


async def test_a_state_of_a_later_version_counts_as_absent(tmp_path: Path, at: dict[str, Any]) -> None:
    """Counted; the list is still served."""
    log = api.new_log()
    api.put_list(log, "u")
    api.append(log, CHANGELOG, "u", Output(b"hu", b"\x00", term_headers(1)))
    async with replica(log, tmp_path, **at) as running:
        assert await running.items_of("u") == list(ITEMS[:5])
        assert (await running.get("/v1/users/u/profile")).status_code == 404
        assert running.parts.api.metrics.total("api_unreadable") == 1


async def test_nothing_is_answered_before_the_store_has_caught_up(tmp_path: Path) -> None:
    """503 with the time to come again; health says why."""
    log = api.new_log()
    async with replica(log, tmp_path) as running:
        await running.until(lambda: ready_is(running, 200))
        running.parts.follower.ready.clear()
        refused = await running.get("/v1/users/u/recommendations")
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "1")
        assert (await running.get("/readyz")).status_code == 503
        assert (await running.get("/livez")).status_code == 200


async def ready_is(running: api.Replica, status: int) -> bool:
    return bool((await running.get("/readyz")).status_code == status)


async def test_the_store_holds_no_tag_and_no_text(tmp_path: Path) -> None:
    """What it does not need of a state record it does not keep."""
    log = api.new_log()
    api.put_state(log, "u")
    async with replica(log, tmp_path) as running:
        await running.settled()
        assert isinstance(running.store, RocksDBStore)
        values = [value for _, value in running.store._db.items()]
        assert values
        assert not any(b"secret-tag" in value for value in values)
