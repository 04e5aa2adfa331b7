"""Checks that contenders do the same work: compares the final list of every user with the step's.

They agree if the same users have a list and at least 99.9 % of the lists have the same items in the same order (the contract of
two implementations of one network). Scores are not compared: an unchanged list is suppressed, so the last one sent may carry the
scores of an earlier click, depending on the batch boundaries.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from kafka import KafkaConsumer, TopicPartition

SAME: Final = 0.999

Lists = Mapping[str, list[str]]
"""Items of each user's last list, best first."""


class _Ranked(msgspec.Struct):
    item: str


class _List(msgspec.Struct):
    user_id: str
    items: list[_Ranked]


def list_in(value: bytes) -> tuple[str, list[str]]:
    """Returns user and items of a recommendation's JSON."""
    read = msgspec.json.decode(value, type=_List)
    return read.user_id, [one.item for one in read.items]


def read_lists(path: Path) -> Lists:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, list[str]])


def final_lists(bootstrap: str, topic: str) -> Lists:
    """Returns the last list of every user in a topic. A user's lists are in one partition, in order."""
    consumer: Any = KafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest")
    try:
        partitions = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(partitions)
        ends = consumer.end_offsets(partitions)
        found: dict[str, list[str]] = {}
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            for records in consumer.poll(timeout_ms=2_000, max_records=10_000).values():
                found.update(list_in(record.value) for record in records if record.value is not None)
        return found
    finally:
        consumer.close()


def disagreement(found: Lists, wanted: Lists) -> str | None:
    """Returns what is wrong with a contender's lists, or None if they agree."""
    if found.keys() != wanted.keys():
        return f"{len(found)} users have a list, {len(wanted)} should ({len(wanted.keys() - found.keys())} of them are missing)"
    same = sum(found[user] == items for user, items in wanted.items())
    return None if same >= SAME * len(wanted) else f"only {same} of {len(wanted)} lists name the same items in the same order"
