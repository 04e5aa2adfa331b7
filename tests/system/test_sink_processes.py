"""Sinks as processes on real Kafka: killed, two of them in a rebalance, from an empty database on; lists given up and replayed."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.kafka.cluster.topics import create_or_check
from stream.services.child_processes import wait_for
from stream.settings import TopicSettings
from tests.benchmarks.sink import Plan, measure
from tests.postgres import Database, LocalPostgres, sink_variables
from tests.published_lists import publish, said
from tests.sink_processes import Sinks, dead_letters
from tests.system.exact import newest, read_all
from tests.webhooks import LISTS, Endpoint, out_of_order, webhook_variables

TOPICS = TopicSettings(partitions=4)


@pytest.fixture
def broker(empty_kafka: str) -> str:
    create_or_check(empty_kafka, TOPICS, dev=True)
    return empty_kafka


@pytest.fixture
def sinks(broker: str, database: Database, tmp_path: Path) -> Iterator[Sinks]:
    environment = {**sink_variables(broker, database, TOPICS.partitions), "ISTHMUS_POSTGRES__BATCH_RECORDS": "50"}
    made_here = Sinks("postgres", environment, tmp_path)
    yield made_here
    made_here.stop_all()


def test_sinks_that_are_killed_and_join_leave_what_the_topic_says(broker: str, database: Database, sinks: Sinks) -> None:
    """Killed in the first load, a second one joining, one of two killed while lists come: no user too many, none missing."""
    rng = random.Random(19)
    publish(broker, TOPICS, rng, 3_000)
    sinks.start()
    wait_for(lambda: len(database.lists()) > 20, sinks.running, 60, "the first lists")
    sinks.kill()
    sinks.start()
    sinks.start()
    publish(broker, TOPICS, rng, 500)
    wait_for(sinks.are_ready, sinks.running, 90, "both sinks to be ready")
    wanted = said(broker, TOPICS)
    wait_for(lambda: database.lists() == wanted, sinks.running, 90, "the database to say what the topic says")
    publish(broker, TOPICS, rng, 500)
    sinks.kill()
    publish(broker, TOPICS, rng, 500)
    wanted = said(broker, TOPICS)
    wait_for(lambda: database.lists() == wanted, sinks.running, 90, "the survivor to take over")


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
    environment = webhook_variables(broker, endpoint, TOPICS.partitions)
    made_here = Sinks("webhook", environment, tmp_path)
    yield made_here
    made_here.stop_all()


def test_a_receiver_of_sinks_that_are_killed_and_join_knows_what_the_topic_says(
    broker: str, endpoint: Endpoint, webhooks: Sinks
) -> None:
    """No list of a user overtakes another, an endpoint that fails now and then included."""
    rng = random.Random(20)
    endpoint.decide = lambda _: 500 if rng.random() < 0.1 else 204
    publish(broker, TOPICS, random.Random(21), 2_000)
    webhooks.start()
    wait_for(lambda: len(endpoint.taken) > 5, webhooks.running, 60, "the first messages")
    webhooks.kill()
    webhooks.start()
    webhooks.start()
    publish(broker, TOPICS, random.Random(22), 500)
    wait_for(webhooks.are_ready, webhooks.running, 90, "both sinks to be ready")
    publish(broker, TOPICS, random.Random(23), 500)
    wanted = said(broker, TOPICS)
    wait_for(lambda: endpoint.lists() == wanted, webhooks.running, 90, "the receiver to know what the topic says")
    assert not out_of_order(endpoint.taken)


def letters_of(bootstrap: str) -> dict[bytes, bytes]:
    return newest(read_all(bootstrap, TOPICS.dead_letters))


def test_lists_that_were_given_up_are_sent_after_a_replay(broker: str, endpoint: Endpoint, webhooks: Sinks) -> None:
    """As the topic says them then. The dead letters hold neither user nor list."""
    endpoint.decide = lambda message: 400 if message["type"] == LISTS else 204
    publish(broker, TOPICS, random.Random(24), 60, users=20)
    webhooks.start()
    given_up = len(said(broker, TOPICS))
    wait_for(lambda: len(letters_of(broker)) >= given_up, webhooks.running, 90, "the sink to have given up")
    letters = letters_of(broker).values()
    assert not any(b"u1" in value or b"item" in value for value in letters)
    environment = webhook_variables(broker, endpoint, TOPICS.partitions)
    endpoint.decide = lambda _: 204
    assert "requested" in dead_letters(environment, "replay", "--reason", "undelivered")
    publish(broker, TOPICS, random.Random(25), 30, users=20)  # of every partition
    wanted = said(broker, TOPICS)
    wait_for(lambda: endpoint.lists() == wanted, webhooks.running, 90, "the receiver to know what the topic says")
    assert "already replayed" in dead_letters(environment, "replay", "--reason", "undelivered")
