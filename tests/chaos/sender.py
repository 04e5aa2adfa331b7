"""The producer of a case: sends synthetic events at a rate until stopped and records what the brokers acknowledged."""

import asyncio
import itertools
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from training.datasets.synthetic.live import LiveEvent, Rates, start_for, stream_events
from training.datasets.synthetic.world import make_world

_TICK_S: Final = 0.05
_REQUEST_TIMEOUT_MS: Final = 15_000
_LAST_S: Final = 120.0
_MOST_AT_ONCE: Final = 1_000
_PERIOD_S: Final = 20_000.0
"""How far before now event time starts: at the synthetic world's own rate it would catch up after this many seconds."""

Place = tuple[str, int, int]
Sent = tuple[bytes | None, bytes | None]


def live_events(seed: int) -> Iterator[LiveEvent]:
    """Yields synthetic events of every kind without end, including deliberately broken ones."""
    rates = Rates(broken_every=500)
    start_ms = start_for(time.time_ns() // 1_000_000, _PERIOD_S, rates.speed)
    return stream_events(make_world(np.random.default_rng(1)), np.random.default_rng(seed), start_ms, rates=rates)


class Sender:
    """Sends from its own thread with an idempotent producer and acks=all; a failed event is sent again with the same event id.

    `repeat` is the share of events that are sent twice (producer duplicates).
    """

    def __init__(self, bootstrap: str, topics: Mapping[str, str], seed: int, rate: float, *, repeat: float = 0.0) -> None:
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self.acknowledged: dict[Place, Sent] = {}
        self.sent = 0
        self.failed = 0
        self._bootstrap = bootstrap
        self._topics = topics
        self._events = live_events(seed)
        self._rng = np.random.default_rng(seed)
        self.rate = rate
        self._repeat = repeat
        self._again: deque[LiveEvent] = deque()
        self._pending: set[Any] = set()
        self._stopping = threading.Event()
        self._renewed = threading.Event()
        self._abandoned = threading.Event()

    def stop(self) -> None:
        """Stops sending and returns once everything sent is acknowledged.

        Raises RuntimeError if that takes longer than two minutes.
        """
        self._stopping.set()
        self._thread.join(_LAST_S)
        if self._thread.is_alive():
            raise RuntimeError(f"the producer is still waiting for {len(self._pending)} acknowledgements")

    def start(self) -> None:
        self._thread.start()

    def abandon(self) -> None:
        """Stops without waiting for acknowledgements."""
        self._abandoned.set()
        self._stopping.set()

    def is_quiet(self) -> bool:
        """Returns whether everything sent is acknowledged. With `rate` 0 nothing more is sent."""
        return not self._pending and not self._again

    def renew_producer(self) -> None:
        """Goes on with a new producer: a partition that was cut has forgotten the sequence numbers of the old one."""
        self._renewed.set()

    def _new_producer(self) -> Any:
        return AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            max_request_size=4 << 20,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
        )

    async def _run(self) -> None:
        producer = self._new_producer()
        await producer.start()
        try:
            looked, due = time.monotonic(), 0.0
            while not self._stopping.is_set():
                if self._renewed.is_set():
                    self._renewed.clear()
                    await producer.stop()
                    producer = self._new_producer()
                    await producer.start()
                now = time.monotonic()
                looked, due = now, due + (now - looked) * self.rate
                for event in itertools.islice(self._due(), min(int(due), _MOST_AT_ONCE)):
                    await self._send(producer, event)
                    due -= 1
                await asyncio.sleep(_TICK_S)
            while not (self.is_quiet() or self._abandoned.is_set()):
                while self._again:
                    await self._send(producer, self._again.popleft())
                await asyncio.sleep(_TICK_S)
        finally:
            await producer.stop()

    def _due(self) -> Iterator[LiveEvent]:
        while True:
            event = self._again.popleft() if self._again else next(self._events)
            if self._rng.random() < self._repeat and not event.planted:
                yield event
            yield event

    async def _send(self, producer: Any, event: LiveEvent) -> None:
        key = None if event.key is None else event.key.encode()
        try:
            future = await producer.send(self._topics[event.role], key=key, value=event.value)
        except KafkaError:
            self._fail(event)
            return
        self.sent += 1
        self._pending.add(future)
        future.add_done_callback(lambda done: self._done(done, event, (key, event.value)))

    def _done(self, future: Any, event: LiveEvent, sent: Sent) -> None:
        self._pending.discard(future)
        if future.cancelled() or future.exception() is not None:
            self._fail(event)
            return
        where = future.result()
        self.acknowledged[where.topic, where.partition, where.offset] = sent

    def _fail(self, event: LiveEvent) -> None:
        self.failed += 1
        self._again.append(event)
