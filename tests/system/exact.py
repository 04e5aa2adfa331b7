"""Compares the output topics with what the pure step makes of all records of the input topics."""

import time
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

import msgspec
from kafka import TopicPartition

from stream.application import DEFAULT, worker_group
from stream.core.events import Item
from stream.core.outputs import decode_example
from stream.core.ranking import Catalogue, Ranker
from stream.core.records import Batch, PlainRecord
from stream.core.state import FEEDBACK_PREFIX
from stream.core.step import StepConfig, step
from stream.kafka.cluster.clients import ConsumerClient
from stream.kafka.cluster.corrupt_batches import RaiseAtCorruptBatch
from stream.kafka.cluster.skips import read_skips
from stream.kafka.cluster.topics import changelog_name, source_topics, topic_epochs
from stream.settings import TopicSettings
from tests.world import Store, history_of


def read_all(bootstrap: str, topic: str, numbers: Collection[int] | None = None) -> dict[int, list[PlainRecord]]:
    """Returns all committed records of a topic by partition, limited to the given partition numbers if any."""
    policy = RaiseAtCorruptBatch(partial(read_skips, bootstrap))
    consumer: Any = ConsumerClient(bootstrap_servers=bootstrap, max_partition_fetch_bytes=8 << 20, check_crcs=policy)
    try:
        there = _partitions_of(consumer, topic)
        partitions = [TopicPartition(topic, number) for number in there if numbers is None or number in numbers]
        consumer.assign(partitions)
        consumer.seek_to_beginning(*partitions)
        ends = consumer.end_offsets(partitions)
        found: dict[int, list[PlainRecord]] = {partition.partition: [] for partition in partitions}
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for partition, records in consumer.poll(timeout_ms=500).items():
                found[partition.partition] += [
                    PlainRecord(one.offset, one.timestamp, one.key, one.value, tuple(one.headers or ())) for one in records
                ]
        return found
    finally:
        consumer.close()


def _partitions_of(consumer: Any, topic: str) -> list[int]:
    """The partitions of a topic: for a moment after it was made, there are none."""
    deadline = time.monotonic() + 60
    while not (found := consumer.partitions_for_topic(topic)):
        assert time.monotonic() < deadline, f"{topic} has no partitions"
        time.sleep(0.05)
    return sorted(found)


def newest(records: dict[int, list[PlainRecord]]) -> dict[bytes, bytes]:
    """Returns the newest value of each key, without keys whose newest record is a tombstone."""
    values = {record.key: record.value for found in records.values() for record in found}
    return {key: value for key, value in values.items() if key is not None and value is not None}


def expected(bootstrap: str, topics: TopicSettings, ranker: Ranker | None, store: Store | None = None) -> Store:
    """Applies the step to all input records, topic after topic, on top of `store`: a history is a function of the set of events."""
    items = Catalogue(msgspec.json.decode(value, type=Item) for value in newest(read_all(bootstrap, topics.items)).values())
    sources = source_topics(topics)
    epochs = topic_epochs(bootstrap, sources)
    store = Store() if store is None else store
    for topic, source in sources.items():
        for number, records in read_all(bootstrap, topic).items():
            for start in range(0, len(records), 500):
                batch = Batch(source, topic, epochs[topic], number, records[start : start + 500])
                store.apply(step(batch, store, ranker, items, StepConfig(partitions=topics.partitions)))
    return store


def actual(bootstrap: str, topics: TopicSettings, application: str = DEFAULT) -> Store:
    """Returns what the workers wrote to changelog, recommendations and training examples."""
    store = Store()
    store.records = newest(read_all(bootstrap, changelog_name(worker_group(application))))
    store.recommendations.update(newest(read_all(bootstrap, topics.recommendations)))
    store.examples.update(newest(read_all(bootstrap, topics.training_examples)))
    return store


def users_of(store: Store) -> set[str]:
    return {key[1:].decode() for key in store.records if key[:1] in {b"h", FEEDBACK_PREFIX}}


def assert_exact(bootstrap: str, topics: TopicSettings, ranker: Ranker | None, application: str = DEFAULT) -> int:
    """Asserts that histories, newest examples and last lists are exactly those of the step; returns the number of users."""
    wanted, found = expected(bootstrap, topics, ranker), actual(bootstrap, topics, application)
    assert users_of(found) == users_of(wanted)
    wrong = [user for user in users_of(wanted) if history_of(found, user) != history_of(wanted, user)]
    assert not wrong, f"{len(wrong)} users with another history, among them {wrong[:3]}"
    assert found.newest_examples() == wanted.newest_examples()
    other = [user for user in users_of(wanted) if found.last_list(user) != wanted.last_list(user)]
    assert not other, f"{len(other)} users with another last list, among them {other[:3]}"
    return len(users_of(wanted))


def contents_per_id(values: Iterable[bytes | None]) -> dict[str, set[bytes]]:
    """Returns the distinct contents sent under each recommendation id."""
    found: dict[str, set[bytes]] = {}
    for value in values:
        if value is not None:
            found.setdefault(msgspec.json.decode(value)["recommendation_id"], set()).add(value)
    return found


def revisions(records: dict[int, list[PlainRecord]]) -> dict[bytes, list[int]]:
    """Returns the revisions of each training example in order of sending."""
    found: dict[bytes, list[int]] = {}
    for partition in records.values():
        for record in partition:
            if record.value is not None and record.key is not None:
                found.setdefault(record.key, []).append(decode_example(record.value).revision)
    return found
