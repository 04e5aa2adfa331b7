"""The lists of the API's chaos run: a producer that keeps what Kafka acknowledged and when, so that each answer can be judged."""

import asyncio
import random
import threading
import time
from typing import Any, Final, NamedTuple

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from stream.kafka.cluster.topic_reader import open_topic_reader
from tests.api import make_list

USERS: Final = tuple(f"user-{number:03}" for number in range(400))
_TICK_S: Final = 0.05
_REQUEST_TIMEOUT_MS: Final = 15_000
_ERASED_SHARE: Final = 0.05


class Written(NamedTuple):
    """One record of a user. `acknowledged_at` is `time.time()`; None: Kafka did not say that it has it."""

    version: int
    is_list: bool
    acknowledged_at: float | None


class Writer:
    """Sends lists, and some tombstones, at a rate, from its own thread."""

    def __init__(self, bootstrap: str, topic: str, rate: float, seed: int) -> None:
        self.sent = 0
        self.failed = 0
        self._bootstrap = bootstrap
        self._topic = topic
        self._rate = rate
        self._rng = random.Random(seed)
        self._versions = dict.fromkeys(USERS, 0)
        self._written: dict[str, list[Written]] = {user: [] for user in USERS}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(120)

    def is_true(self, user: str, served: str | None, before: float) -> bool:
        """Whether an answer, a list's id or None, holds all that was acknowledged before a time."""
        written = list(self._written[user])
        needed = max(
            (one.version for one in written if one.acknowledged_at is not None and one.acknowledged_at < before), default=0
        )
        if served is not None:
            return version_of(served) >= needed
        return needed == 0 or any(one.version >= needed and not one.is_list for one in written)

    async def _run(self) -> None:
        producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",  # not idempotent: aiokafka's sequence numbers have a gap for ever after a batch that it gave up
            linger_ms=5,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
        )
        await producer.start()
        try:
            looked, due = time.monotonic(), 0.0
            while not self._stopping.is_set():
                now = time.monotonic()
                looked, due = now, min(due + (now - looked) * self._rate, self._rate)
                while due >= 1:
                    await self._send(producer)
                    due -= 1
                await asyncio.sleep(_TICK_S)
        finally:
            await producer.stop()

    async def _send(self, producer: Any) -> None:
        user = self._rng.choice(USERS)
        self._versions[user] = version = self._versions[user] + 1
        is_list = self._rng.random() >= _ERASED_SHARE
        value = msgspec.json.encode(make_list(user, recommendation_id=f"{user}-{version}")) if is_list else None
        self.sent += 1
        if not is_list:
            self._written[user].append(Written(version, is_list, None))  # it may be served before it is acknowledged
        try:
            future = await producer.send(self._topic, key=user.encode(), value=value)
        except KafkaError:
            self.failed += 1
            return
        future.add_done_callback(lambda done: self._done(done, user, version, is_list=is_list))

    def _done(self, future: Any, user: str, version: int, *, is_list: bool) -> None:
        if future.cancelled() or future.exception() is not None:
            self.failed += 1
        else:
            self._written[user].append(Written(version, is_list, time.time()))


def version_of(list_id: str) -> int:
    return int(list_id.rpartition("-")[2])


def newest_lists(bootstrap: str, topic: str) -> dict[str, str | None]:
    """Returns what the topic says of each user: the id of the last list, or None."""
    newest: dict[str, str | None] = dict.fromkeys(USERS)
    with open_topic_reader(bootstrap) as reader:
        for record in reader.records(topic):
            newest[record.key.decode()] = None if record.value is None else msgspec.json.decode(record.value)["recommendation_id"]
    return newest
