"""Producing events as a well-behaved producer does: murmur2, acks=all, idempotent."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream.core.records import Headers
from stream.errors import IsthmusError

_PENDING: Final = 5_000


class Keyed(Protocol):
    """An event for the topic of a role."""

    @property
    def role(self) -> str: ...
    @property
    def key(self) -> str | None: ...
    @property
    def value(self) -> bytes | None: ...


class KeyedEvent(NamedTuple):
    """The plainest `Keyed`."""

    role: str
    key: str | None
    value: bytes | None


async def produce(
    bootstrap: str, events: Iterable[Keyed], topics: Mapping[str, str], say: Callable[[int], None], headers: Headers = ()
) -> int:
    """Sends the events, each with the headers, to the topics of their roles as fast as the broker takes them; gives how many."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5, max_request_size=4 << 20
    )
    try:
        await producer.start()
        pending: list[Any] = []
        sent = 0
        for event in events:
            key = None if event.key is None else event.key.encode()
            pending.append(await producer.send(topics[event.role], key=key, value=event.value, headers=list(headers)))
            sent += 1
            if len(pending) >= _PENDING:
                await asyncio.gather(*pending)
                pending.clear()
                say(sent)
        await asyncio.gather(*pending)
    except KafkaError as error:
        raise IsthmusError(f"the broker at {bootstrap} does not take events ({type(error).__name__})") from error
    else:
        return sent
    finally:
        await producer.stop()
