"""Where events go that came by another way than Kafka: the protocol, and one idempotent producer."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from aiokafka.errors import KafkaError

from stream.core import limits
from stream.core.events import NATIVE_FORMAT_HEADER
from stream.core.partitioner import partition_of
from stream.errors import IsthmusError
from stream.kafka.cluster.clients import async_producer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


HEADERS: Final = ((NATIVE_FORMAT_HEADER, b"1"),)
"""Marks our own field names: neither a field mapping nor a format that is declared for the topic touches the record."""


class OutgoingEvent(NamedTuple):
    """A record for the topic of a role; the key is the user id."""

    role: str
    user_id: str
    event_id: str
    value: bytes


class EventSink(Protocol):
    """Where events go."""

    async def send(self, events: Sequence[OutgoingEvent]) -> list[int | None]:
        """Returns each event's timestamp in the log, ms, once the log has it for good; None: it was not taken."""
        ...


class KafkaEventSink:
    """Sends each event to its user's partition of the topic of its role."""

    def __init__(self, producer: Any, topics: Mapping[str, str], partitions: int, timeout_s: float) -> None:
        self._producer = producer
        self._topics = topics
        self._partitions = partitions
        self._timeout_s = timeout_s

    async def send(self, events: Sequence[OutgoingEvent]) -> list[int | None]:
        sent = await asyncio.gather(*(self._send(event) for event in events), return_exceptions=True)
        for result in sent:
            if isinstance(result, BaseException) and not isinstance(result, KafkaError | TimeoutError):
                raise result
        return [None if isinstance(result, BaseException) else result for result in sent]

    async def _send(self, event: OutgoingEvent) -> int:
        key = event.user_id.encode()
        async with asyncio.timeout(self._timeout_s):
            metadata = await self._producer.send_and_wait(
                self._topics[event.role],
                key=key,
                value=event.value,
                partition=partition_of(key, self._partitions),
                headers=list(HEADERS),
            )
        timestamp: int = metadata.timestamp
        return timestamp


@asynccontextmanager
async def open_event_sink(
    bootstrap: str, topics: Mapping[str, str], partitions: int, timeout_s: float
) -> "AsyncIterator[KafkaEventSink]":
    """A sink inside the context. A timed-out event may still arrive: sent again with its id, it is dropped by the step.

    Raises:
        IsthmusError: the broker cannot be reached.
    """
    producer = async_producer(bootstrap, max_request_size=limits.TRANSCRIPT_BYTES)
    try:
        await producer.start()
        yield KafkaEventSink(producer, topics, partitions, timeout_s)
    except KafkaError as error:
        raise IsthmusError(f"the broker at {bootstrap} does not take events ({type(error).__name__})") from error
    finally:
        await producer.stop()
