"""Reading a changelog to its end on both transports: aborted and control records, compacted tails, partial reads."""

import asyncio
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from kafka import KafkaAdminClient
from kafka.admin import NewTopic

from stream.errors import IsthmusError
from stream.kafka.app import make_app
from stream.kafka.cluster.topics import changelog_name, source_topics, specs
from stream.kafka.embedded.log import open_log
from stream.kafka.faust.changelog import Fetched
from tests.system.test_embedded import SOURCES, TOPICS, assert_exact, events, name, send, until, worker

__all__ = ["name"]


async def read(url: str, folder: Path, topic: str, starts: Mapping[int, int]) -> list[Fetched]:
    app = make_app("reader", url, data=folder, partitions=2)
    return [fetched async for fetched in app.transport.read_changelog(topic, starts)]


def values(found: list[Fetched], number: int = 0) -> list[bytes | None]:
    return [record.value for fetched in found if fetched.number == number for record in fetched.records]


async def test_aborted_and_control_records_are_skipped_up_to_the_end(kafka: str, unique: str, tmp_path: Path) -> None:
    """Only committed records are returned; the last position is the end offset although no record is there."""
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.create_topics([NewTopic(unique, num_partitions=2, replication_factor=1)])
    admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=unique)
    await producer.start()
    for number in range(6):
        await producer.begin_transaction()
        await producer.send_and_wait(unique, key=b"k%d" % number, value=b"v%d" % number, partition=0)
        await (producer.abort_transaction() if number % 2 else producer.commit_transaction())
    await producer.stop()
    found = await read(f"kafka://{kafka}", tmp_path, unique, {0: 0, 1: 0})
    assert values(found) == [b"v0", b"v2", b"v4"]
    assert found[-1].position == 12
    assert await read(f"kafka://{kafka}", tmp_path, unique, {0: 12, 1: 0}) == [Fetched(0, (), 12)]
    with pytest.raises(IsthmusError, match="was recreated"):
        await read(f"kafka://{kafka}", tmp_path, unique, {0: 13})


async def test_many_records_of_several_partitions_arrive_in_order_and_in_bounded_fetches(
    kafka: str, unique: str, tmp_path: Path
) -> None:
    """Each partition is read from its own start offset, after the record before it."""
    admin = KafkaAdminClient(bootstrap_servers=kafka)
    admin.create_topics([NewTopic(unique, num_partitions=2, replication_factor=1)])
    admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=kafka, linger_ms=5)
    await producer.start()
    sent = [await producer.send(unique, key=b"k", value=b"%d" % number, partition=number % 2) for number in range(9_000)]
    await asyncio.gather(*sent)
    await producer.stop()
    found = await read(f"kafka://{kafka}", tmp_path, unique, {0: 0, 1: 4_000})
    assert values(found, 0) == [b"%d" % number for number in range(0, 9_000, 2)]
    assert values(found, 1) == [b"%d" % number for number in range(7_999, 9_000, 2)]
    assert max(len(fetched.records) for fetched in found) <= 2_000


async def test_a_restart_with_its_store_reads_only_what_is_missing(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After a clean shutdown that is nothing, and the number of users is known without counting them again."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    made = events(600)
    async with worker(name, log, tmp_path) as (_, metrics):
        await send(log, made)
        await until(lambda: log.lag("isthmus-profiles", source_topics(TOPICS)) == 0)
        users = metrics.gauge("users")._value.get()
    with caplog.at_level("INFO", "stream.kafka.faust.recovery"):
        async with worker(name, log, tmp_path) as (app, metrics):
            await until(lambda: app.tables.actives_ready)
            assert metrics.gauge("users")._value.get() == users > 40
    assert "restored 0 changelog records of 4 partitions" in caplog.text


async def test_a_compacted_changelog_whose_last_record_is_a_tombstone_restores_the_table(name: str, tmp_path: Path) -> None:
    """After the store is wiped, new events continue from the restored state."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    made = events(800)
    async with worker(name, log, tmp_path):
        await send(log, made[:400])
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
    for partition in log.topics[changelog_name("isthmus-profiles")].partitions:
        by_key: dict[bytes | None, Any] = {record.key: record for record in partition.records}
        gone = partition.records[-1]._replace(key=b"hnobody", value=None, offset=partition.next)
        partition.records = [*sorted(by_key.values(), key=lambda record: record.offset), gone]
        partition.next += 1
    shutil.rmtree(tmp_path)
    async with worker(name, log, tmp_path):
        await send(log, made[400:])
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
    assert_exact(log)


async def test_a_store_ahead_of_its_changelog_stops_the_worker_with_a_remedy(name: str, tmp_path: Path) -> None:
    """The log was lost but the state directory kept."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    async with worker(name, log, tmp_path):
        await send(log, events(300))
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
    empty = open_log(name)
    empty.create_topics(specs(TOPICS))
    with pytest.raises(IsthmusError, match="was recreated"):
        async with worker(name, empty, tmp_path) as (app, _):
            await until(lambda: app.crash_reason is not None)
