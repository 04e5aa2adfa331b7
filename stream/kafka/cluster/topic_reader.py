"""Reading topics without a group, for operators' commands: whole, on from given offsets, or one record."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from kafka import TopicPartition
from kafka.errors import KafkaError

from stream.errors import IsthmusError
from stream.kafka.cluster.clients import Consumer

_POLL_MS: Final = 500
_SILENT_S: Final = 30.0


class TopicReader:
    """Committed records as they are now; what comes meanwhile is not waited for."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def ends(self, topic: str) -> dict[int, int]:
        """The end offset of each partition; none where there is no such topic."""
        return {found.partition: end for found, end in self._consumer.end_offsets(self._partitions(topic)).items()}

    def begins(self, topic: str) -> dict[int, int]:
        return {found.partition: begin for found, begin in self._consumer.beginning_offsets(self._partitions(topic)).items()}

    def records(self, topic: str, starts: Mapping[int, int] | None = None) -> Iterator[Any]:
        """All records of a topic, or those from the given offsets on, of these partitions only."""
        ends, begins = self.ends(topic), self.begins(topic)
        wanted = {number: max(begins[number], start) for number, start in (starts or begins).items() if number in ends}
        open_ = {TopicPartition(topic, number) for number, start in wanted.items() if start < ends[number]}
        self._consumer.assign(list(open_))
        for partition in open_:
            self._consumer.seek(partition, wanted[partition.partition])
        silent_since = time.monotonic()
        while open_:
            polled = self._consumer.poll(timeout_ms=_POLL_MS)
            for records in polled.values():
                yield from (record for record in records if record.offset < ends[record.partition])
            if polled:
                silent_since = time.monotonic()
            elif time.monotonic() - silent_since > _SILENT_S:
                raise IsthmusError(f"{topic}: nothing came for {_SILENT_S:.0f} s although there is more: is the broker well?")
            open_ = {one for one in open_ if self._consumer.position(one) < ends[one.partition]}

    def record_at(self, topic: str, partition: int, offset: int) -> Any | None:
        """One record, or None where it is retained no more."""
        if not self.begins(topic).get(partition, offset + 1) <= offset < self.ends(topic).get(partition, 0):
            return None
        found = next(self.records(topic, {partition: offset}), None)
        return found if found is not None and found.offset == offset else None

    def _partitions(self, topic: str) -> list[Any]:
        return [TopicPartition(topic, number) for number in sorted(self._consumer.partitions_for_topic(topic) or ())]


@contextmanager
def open_topic_reader(bootstrap: str) -> Iterator[TopicReader]:
    """A reader of a broker's topics.

    Raises:
        IsthmusError: the broker cannot be reached, or stopped answering.
    """
    try:
        consumer = Consumer(bootstrap_servers=bootstrap)
        try:
            yield TopicReader(consumer)
        finally:
            consumer.close()
    except KafkaError as error:
        raise IsthmusError(
            f"the broker at {bootstrap} cannot be read ({type(error).__name__}): check kafka.bootstrap or --bootstrap"
        ) from error
