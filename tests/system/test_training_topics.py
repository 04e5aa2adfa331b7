"""The trainer on real Kafka: newest examples of a compacted topic, announcements, and `isthmus train --every` until a signal."""

import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaProducer
from kafka.admin import NewPartitions, NewTopic

from stream.core.announcements import ModelAnnouncement, decode_announcement
from stream.core.catalogue_records import ItemTable
from stream.core.outputs import TrainingExample, encode_example, example_key
from stream.kafka.cluster.clients import TopicError
from stream.kafka.cluster.compacted_topic import CompactedTopic, announce, examples_in, read_items
from stream.kafka.cluster.topics import admin_client
from stream.services.child_processes import ChildProcess, wait_for
from tests.purchases import ITEMS, purchases
from tests.system.exact import newest, read_all
from tests.system.registries import registry_in, uri_of

Record = tuple[bytes, bytes | None]


@pytest.fixture
def topic(kafka: str, unique: str) -> str:
    """A new compacted topic of three partitions."""
    return create(kafka, f"{unique}-examples", 3)


def create(kafka: str, name: str, partitions: int = 1) -> str:
    admin = admin_client(kafka)
    try:
        admin.create_topics(
            [NewTopic(name, num_partitions=partitions, replication_factor=1, topic_configs={"cleanup.policy": "compact"})]
        )
    finally:
        admin.close()
    return name


def send(kafka: str, topic: str, records: Iterable[Record]) -> None:
    producer: Any = KafkaProducer(bootstrap_servers=kafka, acks="all", enable_idempotence=True)
    try:
        for sent in [producer.send(topic, key=key, value=value) for key, value in records]:
            sent.get(timeout=30)
    finally:
        producer.close()


def record(example: TrainingExample) -> Record:
    return example_key(example.user_id, example.purchase_id), encode_example(example)


@pytest.fixture
def reader(kafka: str, topic: str) -> Iterator[CompactedTopic]:
    reader = CompactedTopic(kafka, topic)
    yield reader
    reader.close()


def test_the_newest_revision_of_each_example_is_returned_in_order_of_time(kafka: str, topic: str, reader: CompactedTopic) -> None:
    """The order of sending does not matter."""
    examples = purchases(40)
    revised = msgspec.structs.replace(examples[3], revision=1, items=("item-5",))
    send(kafka, topic, [record(example) for example in [*reversed(examples), revised]])
    assert reader.read_on() == 41
    assert examples_in(reader) == [*examples[:3], revised, *examples[4:]]


def test_a_tombstone_removes_its_example_and_no_other(kafka: str, topic: str, reader: CompactedTopic) -> None:
    examples = purchases(5)
    send(kafka, topic, [record(example) for example in examples])
    reader.read_on()
    send(kafka, topic, [(record(examples[2])[0], None)])
    assert reader.read_on() == 1
    assert examples_in(reader) == [*examples[:2], *examples[3:]]


def test_reading_on_returns_only_new_records(kafka: str, topic: str, reader: CompactedTopic) -> None:
    send(kafka, topic, [record(example) for example in purchases(5)])
    assert reader.read_on() == 5
    assert reader.read_on() == 0
    send(kafka, topic, [record(example) for example in purchases(3, first=5)])
    assert reader.read_on() == 3
    assert len(examples_in(reader)) == 8


def test_a_reader_that_goes_on_reads_partitions_that_were_added(kafka: str, topic: str, reader: CompactedTopic) -> None:
    """By hand, or because the topic was made again with another count: a trainer that runs for weeks would miss their examples."""
    send(kafka, topic, [record(example) for example in purchases(5)])
    reader.read_on()
    with closing(admin_client(kafka)) as admin:
        admin.create_partitions({topic: NewPartitions(12)})
    deadline = time.monotonic() + 60
    while len(read_all(kafka, topic)) < 12:
        assert time.monotonic() < deadline, "the partitions were not added"
    send(kafka, topic, [record(example) for example in purchases(40, first=5)])
    reader.read_on()
    assert len(examples_in(reader)) == 45


def test_an_empty_topic_has_no_examples(reader: CompactedTopic) -> None:
    assert reader.read_on() == 0
    assert examples_in(reader) == []


def test_an_undecodable_example_is_logged_and_skipped(
    kafka: str, topic: str, reader: CompactedTopic, caplog: pytest.LogCaptureFixture
) -> None:
    """One such record must not block training forever."""
    send(kafka, topic, [(b"broken", b"\xc1 no msgpack"), (b"other", b"\x01"), *(record(example) for example in purchases(2))])
    reader.read_on()
    assert examples_in(reader) == purchases(2)
    assert "2 of 4 records are no training examples" in caplog.text


def test_items_are_returned_in_order_without_undecodable_ones(kafka: str, topic: str, reader: CompactedTopic) -> None:
    items = [(item.encode(), msgspec.json.encode({"item_id": item, "name": item})) for item in reversed(ITEMS)]
    send(kafka, topic, [*items, (b"x", b"no item"), (ITEMS[0].encode(), None)])
    assert [item.item_id for item in read_items(reader, ItemTable())] == sorted(ITEMS[1:])


def test_a_missing_topic_is_an_error_that_says_how_to_create_it(kafka: str, unique: str) -> None:
    with pytest.raises(TopicError, match="isthmus topics"):
        CompactedTopic(kafka, f"{unique}-missing")


def test_an_announcement_is_durable_when_the_call_returns_and_the_newest_of_a_role_counts(kafka: str, unique: str) -> None:
    models = create(kafka, f"{unique}-models")
    first, second = (
        ModelAnnouncement(role="champion", name="popular", version=version, uri="u", sha256="s", published_at=1) for version in "12"
    )
    announce(kafka, models, first)
    announce(kafka, models, second)
    found = newest(read_all(kafka, models))
    assert {key: decode_announcement(value) for key, value in found.items()} == {b"champion": second}


@pytest.mark.timeout(180)
def test_a_periodic_trainer_reads_examples_from_the_topic_announces_and_stops_on_a_signal(
    kafka: str, unique: str, topic: str, registry_folder: Path, tmp_path: Path
) -> None:
    """The real command in its own process announces popularity at once, then the network; SIGTERM ends it with exit code 0."""
    models, items = create(kafka, f"{unique}-models"), create(kafka, f"{unique}-items")
    send(kafka, topic, [record(example) for example in purchases(600)])
    send(kafka, items, [(item.encode(), msgspec.json.encode({"item_id": item, "name": item})) for item in ITEMS])
    environment = {
        "ISTHMUS_REGISTRY__URI": uri_of(registry_folder),
        "ISTHMUS_REGISTRY__FOLDER": str(registry_folder / "models"),
        "ISTHMUS_TOPICS__TRAINING_EXAMPLES": topic,
        "ISTHMUS_TOPICS__MODELS": models,
        "ISTHMUS_TOPICS__ITEMS": items,
        "ISTHMUS_TRAINING__MIN_JUDGED": "30",
        "OMP_NUM_THREADS": "1",
    }
    trainer = ChildProcess(["train", "--bootstrap", kafka, "--every", "1s"], environment, tmp_path / "train.log")
    try:
        wait_for(lambda: len(all_of(kafka, models)) == 2, [trainer], 120, "two announcements")
        wait_for(lambda: "nothing new" in (tmp_path / "train.log").read_text(), [trainer], 30, "a turn without new examples")
    finally:
        trainer.stop()
    assert trainer.process.returncode == 0, (tmp_path / "train.log").read_text()
    assert [announcement.name for announcement in all_of(kafka, models)] == ["popular", "isthmus"]
    champion = registry_in(registry_folder).version_in_role("champion")
    assert champion is not None
    assert champion.sha256 == all_of(kafka, models)[-1].sha256


def all_of(kafka: str, models: str) -> list[ModelAnnouncement]:
    return [decode_announcement(record.value) for found in read_all(kafka, models).values() for record in found if record.value]
