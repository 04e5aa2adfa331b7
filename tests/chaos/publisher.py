"""Publishes lists and tombstones of random users for the sinks' cases, in transactions, some of which are aborted."""

import asyncio
import random
import threading
import time
from typing import Any, Final

from aiokafka.errors import KafkaError

from stream.core.partitioner import partition_of
from stream.kafka.cluster.clients import async_producer
from stream.settings import TopicSettings
from tests.published_lists import made

USERS: Final = 1_500
_PAUSE_S: Final = 0.1
_TOMBSTONES: Final = 0.1
_ABORTED: Final = 0.1
_LAST_S: Final = 120.0


class Publisher:
    """Publishes from its own thread until stopped. `rate` is in records/s. Skips the users in `spared`.

    Lists have the numbers from `first` on. One of an aborted transaction has a negative number, which no list of the topic has.
    """

    def __init__(self, bootstrap: str, topics: TopicSettings, seed: int, rate: float, first: int = 0) -> None:
        self.rate = rate
        self.spared: frozenset[str] = frozenset()
        self._bootstrap = bootstrap
        self._topics = topics
        self._rng = random.Random(seed)
        self._number = first
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns once the last transaction has ended."""
        self._stopping.set()
        self._thread.join(_LAST_S)

    async def _run(self) -> None:
        producer = None
        looked_s = time.monotonic()
        while not self._stopping.is_set():
            now_s = time.monotonic()
            count, looked_s = round((now_s - looked_s) * self.rate), now_s
            try:
                producer = producer or await self._new_producer()
                await self._transaction(producer, count)
            except KafkaError:
                if producer is not None:
                    await producer.stop()
                producer = None  # a new one initialises the transactional id, which ends the transaction
            await asyncio.sleep(_PAUSE_S)
        if producer is not None:
            await producer.stop()

    async def _new_producer(self) -> Any:
        producer = async_producer(self._bootstrap, transactional_id="chaos-lists", transaction_timeout_ms=10_000)
        await producer.start()
        return producer

    async def _transaction(self, producer: Any, count: int) -> None:
        is_aborted = self._rng.random() < _ABORTED
        await producer.begin_transaction()
        for _ in range(count):
            await self._send(producer, is_aborted=is_aborted)
        if is_aborted:
            await producer.abort_transaction()
        else:
            await producer.commit_transaction()

    async def _send(self, producer: Any, *, is_aborted: bool) -> None:
        user = f"u{self._rng.randrange(USERS)}"
        if user in self.spared:
            return
        self._number += 1
        is_deleted = self._rng.random() < _TOMBSTONES
        value = None if is_deleted else made(user, -self._number if is_aborted else self._number)
        key = user.encode()
        number = partition_of(key, self._topics.partitions)
        await producer.send(self._topics.recommendations, key=key, value=value, partition=number)
