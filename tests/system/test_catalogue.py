"""Items that cannot be used, on a broker: one dead letter a record, whatever the number of workers and restarts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from kafka import KafkaProducer

from stream.connection_settings import KafkaSettings
from stream.core.catalogue_records import ItemFormat
from stream.kafka.agents.catalogue_dead_letters import report_unusable_items
from stream.kafka.cluster.topic_reader import open_topic_reader
from stream.kafka.cluster.topics import create_or_check
from stream.metrics import Metrics
from stream.services.text_models import words_on_kafka
from stream.settings import Settings

WAIT_S = 20.0


def publish(bootstrap: str, topic: str, *records: tuple[bytes, bytes | None]) -> None:
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    for key, value in records:
        producer.send(topic, key=key, value=value).get(10)
    producer.close()


def dead_letters(settings: Settings) -> list[str]:
    """The reasons of all that were sent, copies included."""
    with open_topic_reader(settings.kafka.bootstrap) as reader:
        return [msgspec.json.decode(record.value)["reason"] for record in reader.records(settings.topics.dead_letters)]


@asynccontextmanager
async def workers(settings: Settings, count: int) -> AsyncIterator[list[Metrics]]:
    """As many workers' reports of the catalogue, at the same time."""
    metrics = [Metrics() for _ in range(count)]
    topics, application = settings.topics, settings.application
    reports = [
        report_unusable_items(settings.kafka.bootstrap, application, topics.items, topics.dead_letters, ItemFormat(), each)
        for each in metrics
    ]
    tasks = [asyncio.create_task(report) for report in reports]
    try:
        yield metrics
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def reach(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.1)


def read_by(metrics: list[Metrics]) -> float:
    return sum(each.total("events", "item", outcome) for each in metrics for outcome in ("applied", "dead_letter"))


async def test_an_item_that_cannot_be_used_is_one_dead_letter_of_all_workers_and_stops_no_command(empty_kafka: str) -> None:
    """Two workers, then a restart: each record is reported once, and the words of the others make a keyword list."""
    settings = Settings(kafka=KafkaSettings(bootstrap=empty_kafka, dev=True))
    await asyncio.to_thread(create_or_check, empty_kafka, settings.topics, dev=True)
    good, seen = (b"17", b'{"item_id": "17", "name": "Dog insurance"}'), (b"18", b'{"item_id": 18}')
    publish(empty_kafka, settings.topics.items, good, seen)
    async with workers(settings, 2) as metrics:
        await reach(lambda: read_by(metrics) == 2)
    assert await asyncio.to_thread(dead_letters, settings) == ["invalid"]
    publish(empty_kafka, settings.topics.items, (b"19", b'{"item_id": "20", "name": "n"}'), (b"17", None))
    async with workers(settings, 1) as metrics:
        await reach(lambda: read_by(metrics) == 2)
    assert await asyncio.to_thread(dead_letters, settings) == ["invalid", "key_mismatch"]
    publish(empty_kafka, settings.topics.items, good)
    told: list[str] = []
    assert await asyncio.to_thread(words_on_kafka, settings, told.append) == {"Dog insurance", ""}
    assert told[0].startswith("2 records of items cannot be used")
