"""Produces events with the settings that every producer of the input topics should have: murmur2, acks=all, idempotent."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from aiokafka.errors import KafkaError

from stream.core.records import Headers
from stream.errors import IsthmusError
from stream.kafka.cluster.clients import async_producer

_MAX_PENDING: Final = 5_000


class InputEvent(Protocol):
    """An encoded event and where it goes; satisfied by `InputRecord` and by the events of data sets."""

    @property
    def role(self) -> str:
        """The input topic's role."""
        ...

    @property
    def key(self) -> str | None:
        """The user id; None only to test what becomes of such a record."""
        ...

    @property
    def value(self) -> bytes | None: ...


class InputRecord(NamedTuple):
    """An `InputEvent` without anything more."""

    role: str
    key: str | None
    value: bytes | None


async def produce(
    bootstrap: str, events: Iterable[InputEvent], topics: Mapping[str, str], progress: Callable[[int], None], headers: Headers = ()
) -> int:
    """Sends events as fast as the broker accepts them; returns their number.

    Args:
        bootstrap: Host:port of one or more brokers.
        events: What to send.
        topics: Names of the topics, by role.
        progress: Called now and then with the number of events sent so far.
        headers: Of every record.

    Raises:
        IsthmusError: the broker cannot be reached, or does not accept the events.
    """
    producer = async_producer(bootstrap, linger_ms=5, max_request_size=4 << 20)
    try:
        await producer.start()
        pending: list[Any] = []
        sent = 0
        for event in events:
            key = None if event.key is None else event.key.encode()
            pending.append(await producer.send(topics[event.role], key=key, value=event.value, headers=list(headers)))
            sent += 1
            if len(pending) >= _MAX_PENDING:
                await asyncio.gather(*pending)
                pending.clear()
                progress(sent)
        await asyncio.gather(*pending)
    except KafkaError as error:
        raise IsthmusError(f"the broker at {bootstrap} does not accept events ({type(error).__name__})") from error
    else:
        return sent
    finally:
        await producer.stop()
