"""A topic that is followed whole, recreated or cut under its reader and refilled beyond the reader's position."""

import asyncio
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer
from kafka import KafkaProducer

from stream.kafka.agents.followers import ServedModelFollower
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.cluster.clients import QUIET_WAIT_MS
from stream.kafka.cluster.corrupt_batches import StoppedPartitions
from stream.kafka.cluster.local_broker import LocalKafka
from stream.kafka.cluster.topic_follower import follow_topic
from stream.kafka.cluster.topics import admin_client, create_or_check
from stream.metrics import Metrics
from tests.broken_logs import cut_partition
from tests.system.test_kafka_log_gaps import TOPICS, broker, until

__all__ = ["broker"]


def publish(broker: LocalKafka, prefix: str, count: int) -> set[str]:
    """Sends items, one a batch; returns their ids."""
    items = {f"{prefix}{number}" for number in range(count)}
    producer: Any = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", batch_size=1)
    for item in sorted(items):
        value = msgspec.json.encode({"item_id": item, "name": item, "text": item})
        producer.send(TOPICS.items, key=item.encode(), value=value, partition=0)
    producer.flush()
    producer.close()
    return items


def recreate(broker: LocalKafka) -> int:
    """Deletes the topic and creates it again; returns the number of records that it keeps."""
    admin: Any = admin_client(broker.bootstrap)
    admin.delete_topics([TOPICS.items])
    while TOPICS.items in admin.list_topics():
        pass
    admin.close()
    create_or_check(broker.bootstrap, TOPICS, dev=True)
    return 0


def cut(broker: LocalKafka) -> int:
    broker.stop()
    kept = cut_partition(broker, TOPICS.items, 0, 60)
    broker.start()
    return kept


@pytest.mark.parametrize("break_log", [recreate, cut])
async def test_a_followed_topic_that_was_refilled_replaces_the_catalogue(broker: LocalKafka, break_log: Any) -> None:
    """No new item is missed, and none that the topic no longer holds is offered on."""
    served, ready = ServedModel(None), asyncio.Event()
    old = sorted(await asyncio.to_thread(publish, broker, "old", 100))
    follower = ServedModelFollower(served, Metrics())
    following = asyncio.create_task(follow_topic(broker.bootstrap, TOPICS.items, follower.on_items, ready, StoppedPartitions()))
    try:
        await asyncio.wait_for(ready.wait(), 30)
        assert set(served.catalogue.items) == set(old)
        kept = await asyncio.to_thread(break_log, broker)
        wanted = set(old[:kept]) | await asyncio.to_thread(publish, broker, "new", 150)
        await until(lambda: set(served.catalogue.items) == wanted, 25)
        assert not following.done()
        await asyncio.wait_for(ready.wait(), 5)
    finally:
        following.cancel()


async def test_a_quiet_topic_is_read_whole_before_its_fetches_are_held_back(
    broker: LocalKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker answers a connection's requests in turn: the question where a quiet topic ends would wait behind its fetch."""
    ready, waits = asyncio.Event(), []
    ask = AIOKafkaConsumer.end_offsets

    async def end_offsets(consumer: Any, partitions: Any) -> Any:
        waits.append(consumer)
        assert consumer._fetcher._fetch_max_wait_ms < QUIET_WAIT_MS
        return await ask(consumer, partitions)

    monkeypatch.setattr(AIOKafkaConsumer, "end_offsets", end_offsets)
    follower = ServedModelFollower(ServedModel(None), Metrics())
    following = asyncio.create_task(follow_topic(broker.bootstrap, TOPICS.models, follower.on_items, ready, StoppedPartitions()))
    try:
        async with asyncio.timeout(60):
            await ready.wait()
        (consumer,) = waits
        assert consumer._fetcher._fetch_max_wait_ms == QUIET_WAIT_MS
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError):
            await following
