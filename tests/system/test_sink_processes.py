"""The sink of a PostgreSQL database as processes on real Kafka: killed, two of them in a rebalance, from an empty database on."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaProducer

from stream.core.outputs import Cause, Modalities, ModelName, RankedItem, Recommendation
from stream.core.partitioner import partition_of
from stream.kafka.cluster.local_broker import free_port
from stream.kafka.cluster.topics import create_or_check
from stream.services.child_processes import ChildProcess, wait_for
from stream.settings import TopicSettings
from tests.postgres import Database, sink_variables
from tests.system.exact import newest, read_all
from tests.system.readiness import readiness

TOPICS = TopicSettings(partitions=4)


def made(user: str, number: int) -> bytes:
    """A list of its own for each number."""
    return msgspec.json.encode(
        Recommendation(
            recommendation_id=f"{user}-{number}",
            user_id=user,
            occurred_at=1_790_000_000_000,
            caused_by=Cause("e", "click", 0),  # type: ignore[arg-type]
            model=ModelName("fusion", "7"),
            items=tuple(RankedItem(f"item-{number}-{rank}", rank, 0.5) for rank in range(1, 2 + number % 5)),
            modalities=Modalities(1, 0),
        )
    )


def publish(bootstrap: str, rng: random.Random, count: int, users: int = 300) -> None:
    """Lists and, of every tenth record, tombstones."""
    producer: Any = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5)
    for number in range(count):
        user = f"u{rng.randrange(users)}"
        value = None if rng.random() < 0.1 else made(user, number)
        producer.send(
            TOPICS.recommendations, key=user.encode(), value=value, partition=partition_of(user.encode(), TOPICS.partitions)
        )
    producer.flush()
    producer.close()


def said(bootstrap: str) -> dict[str, list[str]]:
    """What the topic says: user -> items."""
    lists = newest(read_all(bootstrap, TOPICS.recommendations))
    return {
        user.decode(): [one.item for one in msgspec.json.decode(value, type=Recommendation).items] for user, value in lists.items()
    }


@pytest.fixture
def broker(empty_kafka: str) -> str:
    create_or_check(empty_kafka, TOPICS, dev=True)
    return empty_kafka


class Sinks:
    """Processes that fill one database."""

    def __init__(self, bootstrap: str, database: Database, folder: Path) -> None:
        self._environment = {**sink_variables(bootstrap, database, TOPICS.partitions), "ISTHMUS_POSTGRES__BATCH_RECORDS": "50"}
        self._folder = folder
        self.running: list[ChildProcess] = []
        self._ports: list[int] = []

    def start(self) -> ChildProcess:
        port = free_port()
        log = self._folder / f"sink-{port}.log"
        child = ChildProcess(["sink", "postgres", "--metrics-port", str(port)], self._environment, log)
        self.running.append(child)
        self._ports.append(port)
        return child

    def kill(self) -> None:
        self._ports.pop(0)
        self.running.pop(0).kill()

    def are_ready(self) -> bool:
        return all(readiness(port) == "ok\n" for port in self._ports)

    def stop(self) -> None:
        for child in self.running:
            child.stop()


@pytest.fixture
def sinks(broker: str, database: Database, tmp_path: Path) -> Iterator[Sinks]:
    made_here = Sinks(broker, database, tmp_path)
    yield made_here
    made_here.stop()


def test_sinks_that_are_killed_and_join_leave_what_the_topic_says(broker: str, database: Database, sinks: Sinks) -> None:
    """Killed in the first load, a second one joining, one of two killed while lists come: no user too many, none missing."""
    rng = random.Random(19)
    publish(broker, rng, 3_000)
    sinks.start()
    wait_for(lambda: len(database.lists()) > 20, sinks.running, 60, "the first lists")
    sinks.kill()
    sinks.start()
    sinks.start()
    publish(broker, rng, 500)
    wait_for(sinks.are_ready, sinks.running, 90, "both sinks to be ready")
    wait_for(lambda: database.lists() == said(broker), sinks.running, 90, "the database to say what the topic says")
    publish(broker, rng, 500)
    sinks.kill()
    publish(broker, rng, 500)
    wait_for(lambda: database.lists() == said(broker), sinks.running, 90, "the survivor to take over")
