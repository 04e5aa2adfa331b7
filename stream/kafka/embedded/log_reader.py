"""`stream.kafka.cluster.log_reader.LogReader` on the embedded log."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from stream.kafka.cluster.log_reader import Bounds, Fetched
from stream.kafka.embedded.log import Log

_WAIT_S: Final = 0.5
_RECORDS: Final = 2_000


class EmbeddedLogReader:
    """Reads all partitions of topics from given positions."""

    def __init__(self, log: Log, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._log = log
        self._clock_ms = clock_ms
        self._positions: dict[tuple[str, int], int] = {}

    async def open(self, topics: Iterable[str]) -> Mapping[tuple[str, int], Bounds]:
        bounds = {
            (topic, number): Bounds(partition.start, partition.end)
            for topic in topics
            for number, partition in enumerate(self._log.topics[topic].partitions)
        }
        self._positions = {one: begin for one, (begin, _) in bounds.items()}
        return bounds

    async def epochs(self, topics: Iterable[str]) -> Mapping[str, int]:
        return self._log.epochs(topics)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._positions[topic, partition] = offset

    async def fetch(self) -> list[Fetched]:
        fetched = self._available()
        if not fetched:
            await self._log.wait(_WAIT_S)
            fetched = self._available()
        return fetched

    def _available(self) -> list[Fetched]:
        fetched = []
        for (topic, number), offset in self._positions.items():
            records = self._log.read(topic, number, offset, _RECORDS)
            if records:
                fetched.append(Fetched(topic, number, records, records[-1].offset + 1))
        for topic, number, _, next_offset in fetched:
            self._positions[topic, number] = next_offset
        return fetched

    def read_to_end_at(self, topic: str, partition: int) -> int | None:
        at_end = self._positions[topic, partition] >= self._log.topics[topic].partitions[partition].end
        return self._clock_ms() if at_end else None

    async def close(self) -> None:
        """Nothing is held."""
