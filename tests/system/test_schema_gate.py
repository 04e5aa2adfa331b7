"""A schema that is not known while the registry is away: its partition waits, and the others go on."""

import asyncio
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from stream.core.events import Source, ValueFormat
from stream.core.framing import framed
from stream.core.outputs import Output
from stream.core.partitioner import partition_of
from stream.core.records import PlainRecord
from stream.core.step import StepConfig
from stream.formats.gate import SchemaGate
from stream.formats.topic_decoder import TopicDecoder
from stream.health import Health
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.agents.watchdog import Supervision
from stream.kafka.app import add_profile_agent, make_app, run_until_stopped
from stream.kafka.cluster.event_sink import HEADERS
from stream.kafka.cluster.topics import source_topics, specs
from stream.kafka.embedded.log import Log, forget, open_log
from stream.metrics import Metrics
from stream.settings import TopicSettings
from tests import world
from tests.avro import avro_value
from tests.schema_registry import FakeRegistry
from tests.system.test_embedded import until

TOPICS = TopicSettings(partitions=2)
SOURCES = source_topics(TOPICS)
CLICK = {
    "type": "record",
    "name": "Click",
    "fields": [
        {"name": "user_id", "type": "string"},
        {"name": "occurred_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}
USERS = [next(user for user in map("user-{}".format, range(99)) if partition_of(user.encode(), 2) == number) for number in range(2)]


@pytest.fixture
def log() -> Iterator[tuple[str, Log]]:
    name = uuid4().hex[:8]
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    yield name, log
    forget(name)


class Running:
    """A worker whose clicks are Avro."""

    def __init__(self, registry: FakeRegistry, name: str, log: Log, folder: Path) -> None:
        self.metrics, self.health, self.stop = Metrics(), Health(), asyncio.Event()
        schemas = registry.known()
        schemas.observe = lambda outcome: self.metrics.counter("schema_requests", outcome).inc()
        self.decoder = TopicDecoder("formats.clicks", ValueFormat.AVRO, schemas)
        self.app = make_app("isthmus-profiles", f"embedded://{name}", data=folder, partitions=2)
        context = ProfileContext(
            sources=SOURCES,
            epochs=log.epochs(SOURCES),
            served=ServedModel(world.OrderRanker(text_model=None), world.catalogue()),
            step=StepConfig(partitions=2, decoders={Source.CLICK: self.decoder}),
            topics=TOPICS,
            metrics=self.metrics,
        )
        supervision = Supervision(health=self.health, gate=SchemaGate({TOPICS.clicks: self.decoder}))
        self.watchdog = add_profile_agent(self.app, context, supervision=supervision)
        self._task = asyncio.create_task(run_until_stopped(self.app, self.stop))

    async def end(self) -> None:
        self.stop.set()
        await self._task

    def applied(self) -> float:
        return self.metrics.total("events", "click", "applied")


def click(number: int, user: str, schema_id: int = 1) -> bytes:
    return avro_value(schema_id, CLICK, {"user_id": user, "occurred_at": now_ms() + number, "tags": [f"tag{number}"]})


def now_ms() -> int:
    return time.time_ns() // 1_000_000


async def test_a_partition_waits_for_its_schema_and_the_others_go_on(
    log: tuple[str, Log], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Told within a second, counted, in `/readyz`, and never a dead letter; all is applied once the registry is back."""
    name, topics = log
    waiting, going_on = USERS
    with FakeRegistry() as registry:
        registry.add(CLICK)
        running = Running(registry, name, topics, tmp_path)
        await topics.append(TOPICS.clicks, waiting, click(0, waiting))
        await until(lambda: running.applied() == 1)
        registry.go()
        other = registry.add(CLICK, "other")
        with caplog.at_level(logging.INFO, logger="isthmus"):
            sent = time.monotonic()
            for number in range(1, 4):
                await topics.append(TOPICS.clicks, waiting, click(number, waiting))  # known: before the one that waits
            for number in range(4, 8):
                await topics.append(TOPICS.clicks, waiting, click(number, waiting, other))
            await topics.append(TOPICS.clicks, going_on, click(8, going_on))
            await until(lambda: "has schema 2, which" in caplog.text)
            told_s = time.monotonic() - sent
            await until(lambda: running.applied() == 5)  # the known ones of both partitions
            await until(lambda: running.metrics.total("schema_requests", "failed") > 0)
            (gauge,) = running.metrics.gauge("waiting_partitions").collect()
            assert [sample.value for sample in gauge.samples] == [1]
            partition = partition_of(waiting.encode(), 2)
            (said,) = [problem for problem in Health.wrong(running.health.ready) if problem.startswith("schemas")]
            assert f"{TOPICS.clicks}-{partition}: the record at offset 4 has schema 2, which is not known (" in said
            assert not Health.wrong(running.health.live)
            await until(
                lambda: topics.committed.get("isthmus-profiles", {}).get((TOPICS.clicks, partition)) == 4
            )  # not past what waits
            registry.come()
            await until(lambda: running.applied() == 9)
        assert told_s < 10  # a second on an idle machine
        assert not [problem for problem in Health.wrong(running.health.ready) if problem.startswith("schemas")]
        assert caplog.text.count("has schema 2, which") == 1
        await running.end()
    assert not topics.topics[TOPICS.dead_letters].partitions[0].records
    assert not topics.topics[TOPICS.dead_letters].partitions[1].records


async def test_what_waits_is_read_by_the_next_process(log: tuple[str, Log], tmp_path: Path) -> None:
    """A worker ends while records wait: nothing of them was committed."""
    name, topics = log
    with FakeRegistry() as registry:
        registry.add(CLICK)
        registry.go()
        first = Running(registry, name, topics, tmp_path)
        for user in USERS:
            await topics.append(TOPICS.clicks, user, click(0, user))
        await until(lambda: len(first.app.transport.fetch_policy.gate.partitions()) == 2)
        await first.end()
        registry.come()
        second = Running(registry, name, topics, tmp_path)
        await until(lambda: second.applied() == 2)
        await second.end()


async def test_a_rebalance_does_not_wait_for_what_waits(log: tuple[str, Log], tmp_path: Path) -> None:
    name, topics = log
    with FakeRegistry() as registry:
        registry.add(CLICK)
        registry.go()
        running = Running(registry, name, topics, tmp_path)
        await topics.append(TOPICS.clicks, USERS[0], click(0, USERS[0]))
        gate = running.app.transport.fetch_policy.gate
        await until(lambda: len(gate.partitions()) == 1)
        async with asyncio.timeout(15):
            await running.app.consumer.rebalance()
        registry.come()
        await until(lambda: running.applied() == 1)
        await running.end()


async def test_a_denied_schema_is_a_dead_letter_and_our_json_never_waits(log: tuple[str, Log], tmp_path: Path) -> None:
    name, topics = log
    user = USERS[0]
    with FakeRegistry() as registry:
        running = Running(registry, name, topics, tmp_path)
        await topics.append(TOPICS.clicks, user, framed(17, b"x"))
        await until(lambda: running.metrics.total("dead_letters", "unknown_schema") == 1)
        registry.go()
        own = b'{"user_id":"%s","occurred_at":%d,"tags":["own"]}' % (user.encode(), now_ms())
        await topics.append_to(TOPICS.clicks, partition_of(user.encode(), 2), Output(user.encode(), own, HEADERS), None)
        await until(lambda: running.applied() == 1)
        await running.end()


def test_a_partition_that_was_stopped_is_read_on_although_the_registry_answered_meanwhile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Between the question and the stop lies a seek: without a note nobody would read on, and health would say that all is well."""
    with FakeRegistry() as registry:
        schema_id = registry.add(CLICK)
        decoder = TopicDecoder("formats.clicks", ValueFormat.AVRO, registry.known())
        gate, record = SchemaGate({TOPICS.clicks: decoder}), PlainRecord(7, 0, b"u", framed(schema_id, b""), [])
        decoder.schemas.settle([schema_id])
        gate.hold((TOPICS.clicks, 0), record)
        assert gate.partitions() == {(TOPICS.clicks, 0)}
        assert gate.check() is None
        assert gate.released() == [(TOPICS.clicks, 0)]
        assert gate.released() == []
    assert "waits" not in caplog.text
