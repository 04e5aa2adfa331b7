"""`stream.kafka.cluster.event_sink.EventSink` on the embedded log."""

import asyncio
from collections.abc import Mapping, Sequence

from stream.core.outputs import Output
from stream.core.partitioner import partition_of
from stream.kafka.cluster.event_sink import HEADERS, OutgoingEvent
from stream.kafka.embedded.log import Log


class EmbeddedEventSink:
    """Appends each event to its user's partition of the topic of its role."""

    def __init__(self, log: Log, topics: Mapping[str, str]) -> None:
        self._log = log
        self._topics = topics

    async def send(self, events: Sequence[OutgoingEvent]) -> list[int | None]:
        return await asyncio.gather(*(self._append(event) for event in events))

    async def _append(self, event: OutgoingEvent) -> int | None:
        topic, key = self._topics[event.role], event.user_id.encode()
        number = partition_of(key, len(self._log.topics[topic].partitions))
        offset = await self._log.append_to(topic, number, Output(key, event.value, HEADERS), None)
        return self._log.read(topic, number, offset, 1)[0].timestamp
