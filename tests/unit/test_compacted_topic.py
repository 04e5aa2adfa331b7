"""A trainer's view of a compacted topic whose log was cut between two rounds."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from kafka.errors import KafkaError

from stream.core.catalogue_records import ItemTable
from stream.kafka.cluster.clients import TopicError
from stream.kafka.cluster.compacted_topic import CompactedTopic, read_items
from stream.kafka.cluster.topics import TopicShape

TOPIC = "training-examples"


class Consumer:
    """The part of kafka-python's consumer that reads one partition."""

    def __init__(self) -> None:
        self.records: list[Any] = []
        self.at = 0
        self.epoch = 1
        self.partitions = 1

    def write(self, offset: int, timestamp: int, key: bytes, value: bytes | None) -> None:
        """Loses what the log held from the offset on, and continues with this record."""
        self.records = [record for record in self.records if record.offset < offset]
        self.records.append(
            SimpleNamespace(topic=TOPIC, partition=0, offset=offset, timestamp=timestamp, key=key, value=value, headers=())
        )

    def end_offsets(self, partitions: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(partitions, self.records[-1].offset + 1 if self.records else 0)

    def position(self, _: Any) -> int:
        return self.at

    def seek(self, _: Any, offset: int) -> None:
        self.at = offset

    def seek_to_beginning(self, *_: Any) -> None:
        self.at = 0

    def poll(self, timeout_ms: int) -> dict[Any, list[Any]]:
        del timeout_ms
        found = [record for record in self.records if record.offset >= self.at][:2]
        self.at = found[-1].offset + 1 if found else self.at
        return {0: found} if found else {}


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Consumer:
    made = Consumer()
    monkeypatch.setattr("stream.kafka.cluster.compacted_topic.topic_shape", lambda *_: TopicShape(made.epoch, made.partitions))
    made.assign = lambda _: None  # type: ignore[attr-defined]
    made.close = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr("stream.kafka.cluster.compacted_topic.ConsumerClient", lambda **_: made)
    for offset in range(4):
        made.write(offset, 100 + offset, b"k%d" % offset, b"old")
    return made


def test_each_round_counts_what_is_new(consumer: Consumer) -> None:
    topic = CompactedTopic("broker", TOPIC)
    assert [topic.read_on(), topic.read_on()] == [4, 0]
    consumer.write(4, 200, b"k0", b"new")
    assert topic.read_on() == 1
    assert topic.values[b"k0"] == b"new"


@pytest.mark.parametrize("refill", [1, 2, 9])
def test_a_topic_that_was_cut_is_read_again_from_its_beginning(
    consumer: Consumer, refill: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends below, at or beyond its old end: no record after the cut is missed, and a key that was cut off is forgotten."""
    topic = CompactedTopic("broker", TOPIC)
    topic.read_on()
    for number in range(refill):
        consumer.write(2 + number, 200 + number, b"k%d" % (number % 3), b"new-%d" % number)
    topic.read_on()
    newest = {b"k%d" % (number % 3): b"new-%d" % number for number in range(refill)}
    assert topic.values == {b"k0": b"old", b"k1": b"old"} | newest
    assert "was recreated, or its log was cut" in caplog.text
    assert topic.read_on() == 0


def test_a_last_record_that_was_compacted_away_is_no_cut(consumer: Consumer, caplog: pytest.LogCaptureFixture) -> None:
    topic = CompactedTopic("broker", TOPIC)
    topic.read_on()
    consumer.write(4, 200, b"k3", b"new")
    del consumer.records[3]
    assert topic.read_on() == 1
    assert caplog.text == ""


@pytest.mark.parametrize("refill", [0, 1, 9])
def test_a_recreated_topic_replaces_what_its_predecessor_held(consumer: Consumer, refill: int) -> None:
    """Even if it is empty, or its records have the offsets and timestamps of the old ones."""
    topic = CompactedTopic("broker", TOPIC)
    topic.read_on()
    consumer.records.clear()
    consumer.epoch = 2
    for number in range(refill):
        consumer.write(number, 100 + number, b"n%d" % number, b"new")
    assert topic.read_on() == refill
    assert topic.values == {b"n%d" % number: b"new" for number in range(refill)}


@pytest.mark.parametrize("days", [5, 7, 30])
def test_a_topic_that_was_not_read_for_as_long_as_tombstones_are_kept_is_read_whole(
    consumer: Consumer, days: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer that ran once a fortnight, or was paused, kept the examples of users who were erased meanwhile."""
    now = [1_000.0]
    monkeypatch.setattr("stream.kafka.cluster.compacted_topic.time", SimpleNamespace(time=lambda: now[0]))
    topic = CompactedTopic("broker", TOPIC)
    topic.read_on()
    del consumer.records[1]  # compacted away, and its tombstone with it
    now[0] += days * 86_400
    assert topic.read_on() == (3 if days > 6 else 0)
    assert (b"k1" in topic.values) == (days < 6)


def test_readings_that_fail_do_not_make_a_topic_read(consumer: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that is cut off from Kafka tries each hour, for longer than tombstones are kept."""
    now = [1_000.0]
    monkeypatch.setattr("stream.kafka.cluster.compacted_topic.time", SimpleNamespace(time=lambda: now[0]))
    topic = CompactedTopic("broker", TOPIC)
    topic.read_on()
    del consumer.records[1]
    with monkeypatch.context() as away:
        away.setattr(consumer, "end_offsets", Mock(side_effect=KafkaError))
        for _ in range(8):
            now[0] += 86_400
            with pytest.raises(TopicError):
                topic.read_on()
    assert topic.read_on() == 3
    assert b"k1" not in topic.values


def test_a_recreated_catalogue_forgets_the_items_of_its_predecessor(consumer: Consumer) -> None:
    """A trainer would rank items that nobody publishes any more."""
    consumer.records.clear()
    consumer.write(0, 1, b"18", b'{"item_id":"18","name":"old"}')
    topic, table = CompactedTopic("broker", TOPIC), ItemTable()
    assert [item.item_id for item in read_items(topic, table)] == ["18"]
    consumer.epoch = 2
    consumer.write(0, 1, b"19", b'{"item_id":"19","name":"new"}')
    assert [item.item_id for item in read_items(topic, table)] == ["19"]
