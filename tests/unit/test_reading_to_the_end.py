"""Reading topics to their ends, over each client library: by position, so that missing records cannot keep it waiting."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition

from stream.core.records import PlainRecord
from stream.kafka.cluster.clients import TopicError
from stream.kafka.cluster.fetching import fetch_until
from stream.kafka.cluster.topic_reader import TopicReader, poll_until

TP = TopicPartition("clicks", 0)
OTHER = TopicPartition("clicks", 1)


def record(offset: int, partition: int = 0) -> Any:
    return SimpleNamespace(offset=offset, partition=partition)


class Polled:
    """A kafka-python consumer of one partition: each poll returns the next fetch and moves to its position."""

    def __init__(self, *fetches: tuple[Sequence[int], int]) -> None:
        self._fetches = list(fetches)
        self._position = 0

    def position(self, _: TopicPartition) -> int:
        return self._position

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        del timeout_ms
        if not self._fetches:
            return {}
        offsets, self._position = self._fetches.pop(0)
        return {TP: [record(offset) for offset in offsets]} if offsets else {}

    def assign(self, _: list[TopicPartition]) -> None:
        """One partition, always."""

    def seek(self, _: TopicPartition, offset: int) -> None:
        self._position = offset

    def partitions_for_topic(self, _: str) -> set[int]:
        return {0}

    def end_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 5)

    def beginning_offsets(self, tps: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(tps, 0)


def test_polling_ends_by_position_and_returns_what_was_fetched_beyond_the_end() -> None:
    """Offsets 3 and 4 are control records. What the consumer has passed would not come again, so it is not dropped."""
    assert [found.offset for found in poll_until(Polled(([0, 1], 2), ([2], 5)), {TP: 5}, 1.0)] == [0, 1, 2]
    assert [found.offset for found in poll_until(Polled(([0, 4, 5, 6], 7)), {TP: 5}, 1.0)] == [0, 4, 5, 6]


def test_a_reader_of_the_present_contents_drops_what_was_fetched_beyond_the_end() -> None:
    """It promises the records up to the end that the topic has when the reading begins."""
    assert [found.offset for found in TopicReader(Polled(([0, 4, 5, 6], 7))).records("clicks")] == [0, 4]


def test_polling_fails_if_no_record_comes_although_there_are_more() -> None:
    """The error names the topic."""
    with pytest.raises(TopicError, match="clicks: no records for 0 s although there are more"):
        list(poll_until(Polled(([0], 1)), {TP: 5}, 0.0))


class Fetched:
    """An aiokafka consumer: each fetch returns records by partition and moves to positions; paused partitions return nothing."""

    def __init__(self, *fetches: dict[TopicPartition, tuple[Sequence[int], int]]) -> None:
        self._fetches = list(fetches)
        self._positions = {TP: 0, OTHER: 0}
        self.paused: list[TopicPartition] = []

    async def position(self, tp: TopicPartition) -> int:
        return self._positions[tp]

    def pause(self, tp: TopicPartition) -> None:
        self.paused.append(tp)

    async def getmany(self, timeout_ms: int, max_records: int | None) -> dict[TopicPartition, list[PlainRecord]]:
        del timeout_ms, max_records
        fetch = {tp: moved for tp, moved in self._fetches.pop(0).items() if tp not in self.paused}
        self._positions |= {tp: position for tp, (_, position) in fetch.items()}
        return {tp: [PlainRecord(offset, 0, None, None) for offset in offsets] for tp, (offsets, _) in fetch.items() if offsets}


async def test_fetching_ends_each_partition_by_position_and_pauses_it() -> None:
    """An advance over control records only is yielded without records; a partition whose end is its start is not waited for."""
    consumer = Fetched({TP: ([0, 1], 2)}, {TP: ([], 4)})
    fetched = [(tp, len(records), position) async for tp, records, position in fetch_until(consumer, {TP: 4, OTHER: 0})]
    assert fetched == [(TP, 2, 2), (TP, 0, 4)]
    assert consumer.paused == [OTHER, TP]
