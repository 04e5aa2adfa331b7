"""Sinks as processes on real Kafka: killed, two of them in a rebalance, from an empty database on; lists given up and replayed."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
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
from tests.benchmarks.sink import Plan, measure
from tests.postgres import Database, LocalPostgres, sink_variables
from tests.system.exact import newest, read_all
from tests.system.readiness import readiness
from tests.webhooks import ERASED, LISTS, SECRET, Endpoint

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
    """Processes of one group."""

    def __init__(self, kind: str, environment: Mapping[str, str], folder: Path) -> None:
        self._kind = kind
        self._environment = environment
        self._folder = folder
        self.running: list[ChildProcess] = []
        self._ports: list[int] = []

    def start(self) -> ChildProcess:
        port = free_port()
        log = self._folder / f"sink-{port}.log"
        child = ChildProcess(["sink", self._kind, "--metrics-port", str(port)], self._environment, log)
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
    environment = {**sink_variables(broker, database, TOPICS.partitions), "ISTHMUS_POSTGRES__BATCH_RECORDS": "50"}
    made_here = Sinks("postgres", environment, tmp_path)
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


@pytest.mark.parametrize("form", ["user", "rank"])
def test_a_first_load_and_lists_that_are_replaced_stand_in_each_row(
    broker: str, postgres_server: LocalPostgres, tmp_path: Path, form: str
) -> None:
    """The short form of `make bench-sink`, which compares every row with the topic; how fast is not judged here."""
    row = measure(broker, postgres_server, tmp_path, Plan(2_000, 400, form))
    assert (row["users"], row["updates"]) == (2_000, 400)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    opened = Endpoint()
    yield opened
    opened.close()


@pytest.fixture
def webhooks(broker: str, endpoint: Endpoint, tmp_path: Path) -> Iterator[Sinks]:
    environment = {
        "ISTHMUS_KAFKA__BOOTSTRAP": broker,
        "ISTHMUS_TOPICS__PARTITIONS": str(TOPICS.partitions),
        "ISTHMUS_WEBHOOK__URL": endpoint.url,
        "ISTHMUS_WEBHOOK__SECRETS": f'["{SECRET}"]',
        "ISTHMUS_WEBHOOK__FIRST_PAUSE_S": "0.05",
        "ISTHMUS_WEBHOOK__GIVE_UP_S": "0.5",
        "ISTHMUS_WEBHOOK__BATCH_LISTS": "20",
    }
    made_here = Sinks("webhook", environment, tmp_path)
    yield made_here
    made_here.stop()


def is_in_order(messages: list[dict[str, Any]]) -> bool:
    """Whether each user's offsets rise, once what was sent again after a crash is left out."""
    newest: dict[tuple[int, str], int] = {}
    seen: set[tuple[int, str, int]] = set()
    for message in messages:
        data = message["data"]
        said = [(data["user_id"], data["offset"])] if message["type"] == ERASED else []
        said += [(one["list"]["user_id"], one["offset"]) for one in data.get("lists", ())]
        for user, offset in said:
            one = (data["partition"], user)
            if (*one, offset) in seen:
                continue
            seen.add((*one, offset))
            if offset < newest.get(one, -1):
                return False
            newest[one] = offset
    return True


def test_a_receiver_of_sinks_that_are_killed_and_join_knows_what_the_topic_says(
    broker: str, endpoint: Endpoint, webhooks: Sinks
) -> None:
    """No list of a user overtakes another, an endpoint that fails now and then included."""
    rng = random.Random(20)
    endpoint.decide = lambda _: 500 if rng.random() < 0.1 else 204
    publish(broker, random.Random(21), 2_000)
    webhooks.start()
    wait_for(lambda: len(endpoint.taken) > 5, webhooks.running, 60, "the first messages")
    webhooks.kill()
    webhooks.start()
    webhooks.start()
    publish(broker, random.Random(22), 500)
    wait_for(webhooks.are_ready, webhooks.running, 90, "both sinks to be ready")
    publish(broker, random.Random(23), 500)
    wait_for(lambda: endpoint.lists() == said(broker), webhooks.running, 90, "the receiver to know what the topic says")
    assert is_in_order(list(endpoint.taken))


def dead_letters(bootstrap: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "stream.cli.main", "dead-letters", *arguments, "--bootstrap", bootstrap]
    environment = {**os.environ, "ISTHMUS_TOPICS__PARTITIONS": str(TOPICS.partitions)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def letters_of(bootstrap: str) -> dict[bytes, bytes]:
    return newest(read_all(bootstrap, TOPICS.dead_letters))


def test_lists_that_were_given_up_are_sent_after_a_replay(broker: str, endpoint: Endpoint, webhooks: Sinks) -> None:
    """As the topic says them then. The dead letters hold neither user nor list."""
    endpoint.decide = lambda message: 400 if message["type"] == LISTS else 204
    publish(broker, random.Random(24), 60, users=20)
    webhooks.start()
    wait_for(lambda: len(letters_of(broker)) >= len(said(broker)), webhooks.running, 90, "the sink to have given up")
    letters = letters_of(broker).values()
    assert not any(b"u1" in value or b"item" in value for value in letters)
    assert "undelivered" in dead_letters(broker, "list")
    endpoint.decide = lambda _: 204
    assert "requested" in dead_letters(broker, "replay", "--reason", "undelivered")
    publish(broker, random.Random(25), 30, users=20)  # of every partition
    wait_for(lambda: endpoint.lists() == said(broker), webhooks.running, 90, "the receiver to know what the topic says")
    assert "already replayed" in dead_letters(broker, "replay", "--reason", "undelivered")
