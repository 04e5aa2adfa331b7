"""A million users in the topics, as compaction leaves them: lists, states, and lists that replace the first ones."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from stream.core.events import Item, Source
from stream.core.outputs import Cause, Modalities, ModelName, RankedItem, Recommendation
from stream.core.partitioner import partition_of
from stream.core.state import FACTS_PREFIX, HEAD_PREFIX, Facts, Head, encode_state
from stream.kafka.cluster.clients import async_producer
from stream.kafka.cluster.producer import InputRecord, produce
from stream.kafka.cluster.topics import changelog_name
from stream.kafka.faust.changelog import term_headers
from tests.benchmarks.deployment import TOPICS

ITEMS: Final = tuple(str(number) for number in range(1, 25))
LISTED, RESERVED = 5, 10
SAY_EVERY: Final = 100_000
States = Sequence[Mapping[bytes, bytes]]
"""State records by key prefix (`h`, `f`), which users have in turn."""
_encode: Final = msgspec.json.Encoder().encode


class Filler:
    """Sends records in large batches of one partition each, which costs a fraction of sending them one by one."""

    def __init__(self, producer: Any, topic: str, headers: Sequence[tuple[str, bytes]] = ()) -> None:
        self._producer = producer
        self._topic = topic
        self._headers = list(headers)
        self._filling: dict[int, Any] = {}
        self._sent: list[Any] = []

    async def add(self, number: int, key: bytes, value: bytes) -> None:
        batch = self._filling.setdefault(number, self._producer.create_batch())
        if batch.append(key=key, value=value, timestamp=None, headers=self._headers) is None:
            await self._close(number)
            await self.add(number, key, value)

    async def _close(self, number: int) -> None:
        batch = self._filling.pop(number)
        batch.close()
        self._sent.append(await self._producer.send_batch(batch, self._topic, partition=number))
        if len(self._sent) > 64:
            await self._acknowledged()

    async def finish(self) -> None:
        for number in list(self._filling):
            await self._close(number)
        await self._acknowledged()

    async def _acknowledged(self) -> None:
        await asyncio.gather(*self._sent)
        self._sent.clear()


def name_of(user: int) -> str:
    return f"user-{user:07}"


def list_id(user: int, version: int = 0) -> str:
    return f"{version:04x}{user:020x}"


def list_of(user: int, version: int = 0) -> bytes:
    """A user's list, as a worker sends it: five items and a reserve of ten. Each version is another one."""
    chosen = [ITEMS[(user + version + rank) % len(ITEMS)] for rank in range(LISTED + RESERVED)]
    ranked = [RankedItem(item, rank, round(0.9 - rank / 100, 4)) for rank, item in enumerate(chosen, start=1)]
    return _encode(
        Recommendation(
            recommendation_id=list_id(user, version),
            user_id=name_of(user),
            occurred_at=1_790_000_000_000,
            caused_by=Cause(f"e-{user}", Source.CLICK, 1_790_000_000_000),
            model=ModelName("isthmus", "7"),
            items=tuple(ranked[:LISTED]),
            reserve=tuple(ranked[LISTED:]),
            modalities=Modalities(2, 1),
        )
    )


async def fill(bootstrap: str, users: int, progress: Callable[[int], None], *, lists: bool = True, states: States = ()) -> None:
    """Writes the catalogue and, of each user, his list and his state, as far as these are wanted."""
    records = [InputRecord("items", item, msgspec.json.encode(Item(item, f"Item {item}"))) for item in ITEMS]
    await produce(bootstrap, records, TOPICS.model_dump(), lambda _: None)
    producer = async_producer(bootstrap, max_batch_size=1 << 18)
    await producer.start()
    listed = Filler(producer, TOPICS.recommendations)
    changelog = Filler(producer, changelog_name("isthmus-profiles"), term_headers(1))
    try:
        for user in range(users):
            key = name_of(user).encode()
            number = partition_of(key, TOPICS.partitions)
            if lists:
                await listed.add(number, key, list_of(user))
            if states:
                for prefix, value in states[user % len(states)].items():
                    await changelog.add(number, prefix + key, value)
            if user % SAY_EVERY == 0:
                progress(user)
        await listed.finish()
        await changelog.finish()
    finally:
        await producer.stop()


async def replace_lists(bootstrap: str, users: Iterable[int], version: int) -> None:
    """Writes another list of each of these users."""
    producer = async_producer(bootstrap, max_batch_size=1 << 18)
    await producer.start()
    filler = Filler(producer, TOPICS.recommendations)
    try:
        for user in users:
            key = name_of(user).encode()
            await filler.add(partition_of(key, TOPICS.partitions), key, list_of(user, version))
        await filler.finish()
    finally:
        await producer.stop()


def small_states() -> States:
    """States of users of whom nothing is known but that they are there."""
    return [{HEAD_PREFIX: encode_state(Head(owned=("item-3",))), FACTS_PREFIX: encode_state(Facts())}]


def real_states(folder: Path) -> States:
    """States of the size that the paper's users have, as `make bench-recovery` restores them. Writes their model to the folder."""
    from tests.benchmarks.network import write_network
    from tests.benchmarks.recovery import templates

    write_network(folder)
    return templates(str(folder))
