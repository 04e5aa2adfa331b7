"""Every worker follows `items` and `models` whole: the catalogue, and the champion, loaded, verified and swapped between batches.

A model that does not fit is refused with its reason; the worker then keeps what it has. Loading runs in a thread; the swap is one
assignment that the next batch sees.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer
from mode import get_logger

from models.artifact import UNREADABLE, ModelRefused, load_ranker
from stream.core.announcements import ModelAnnouncement, decode_announcement
from stream.core.events import Item
from stream.core.ranking import Catalogue, Ranker
from stream.core.records import Record
from stream.kafka.agents.profile_agent import ServedModel
from stream.kafka.cluster.clients import READ_COMMITTED
from stream.metrics import Metrics

logger = get_logger(__name__)
AGAIN_S: Final = 30.0
_decode_item = msgspec.json.Decoder(Item).decode


class ServedModelFollower:
    """Turns records of both topics into what `ServedModel` holds. `load` is `models.artifact.load_ranker`, or a test's."""

    def __init__(self, serving: ServedModel, metrics: Metrics, load: Callable[[str, str], Ranker] = load_ranker) -> None:
        self._serving = serving
        self._metrics = metrics
        self._load = load
        self._items: dict[bytes, Item] = {}
        self._served: ModelAnnouncement | None = None
        self._unreadable: ModelAnnouncement | None = None
        self._turn = asyncio.Lock()

    async def on_items(self, records: Sequence[Record]) -> None:
        """Takes over items and tombstones; an item that is none is logged and left out."""
        for record in records:
            if record.key is None:
                continue
            if not record.value:
                self._items.pop(record.key, None)
                continue
            try:
                self._items[record.key] = _decode_item(record.value)
            except msgspec.MsgspecError as error:
                logger.warning("items, offset %d is no item: %s", record.offset, error)
        self._serving.catalogue = Catalogue(self._items.values())
        self._metrics.gauge("catalogue_items").set(len(self._items))

    async def on_models(self, records: Sequence[Record]) -> None:
        """Loads the newest champion among the records; where it is refused, the one before it: a worker that starts has none."""
        values = [record.value for record in records if record.key == b"champion" and record.value][::-1]
        async with self._turn:
            if values:
                self._unreadable = None
            for value in values:
                try:
                    announced = decode_announcement(value)
                except msgspec.MsgspecError as error:
                    self._refuse("announcement", str(error))
                    continue
                if await self._is_served(announced, newest=value is values[0]):
                    return

    async def keep_trying(self) -> None:
        """Tries the newest champion again and again where it could not be read: its registry may be back."""
        while True:
            await asyncio.sleep(AGAIN_S)
            await self.try_again()

    async def try_again(self) -> None:
        async with self._turn:
            if self._unreadable is not None:
                announced, self._unreadable = self._unreadable, None
                await self._is_served(announced, newest=True)

    def missing(self) -> str | None:
        """Why a worker that was told of a champion serves no model at all."""
        if self._unreadable is None or self._serving.ranker is not None:
            return None
        return f"{self._unreadable.name} version {self._unreadable.version} cannot be read from {self._unreadable.uri}"

    async def _is_served(self, announced: ModelAnnouncement, *, newest: bool) -> bool:
        try:
            await self._swap(announced)
        except ModelRefused as refused:
            self._refuse(refused.reason, str(refused))
            if newest and refused.reason == UNREADABLE:
                self._unreadable = announced
            return False
        return True

    async def _swap(self, announced: ModelAnnouncement) -> None:
        if self._served is not None and announced.sha256 == self._served.sha256:
            return
        ranker = await asyncio.to_thread(self._load, announced.uri, announced.sha256)
        self._check_items(ranker, announced.uri)
        self._serving.ranker = ranker
        self._served = announced
        self._metrics.clear("model_info")
        self._metrics.gauge("model_info", announced.name, announced.version).set(1)
        self._metrics.gauge("model_published_timestamp_seconds").set(announced.published_at / 1_000)
        self._metrics.counter("model_swaps").inc()
        logger.info("serving %s version %s", announced.name, announced.version)

    def _check_items(self, ranker: Ranker, uri: str) -> None:
        """A model made for another catalogue would leave lists short or empty: most of its items must be in ours, where we have
        one.
        """
        known = self._serving.catalogue.items
        foreign = sum(item not in known for item in ranker.items)
        if known and 2 * foreign > len(ranker.items):
            raise ModelRefused("items", f"{uri}: {foreign} of its {len(ranker.items)} items are not in the catalogue")

    def _refuse(self, reason: str, text: str) -> None:
        self._metrics.counter("model_refusals", reason).inc()
        logger.error("model refused (%s): %s; keeping what is served", reason, text)


async def follow_kafka(bootstrap: str, topic: str, apply: Callable[[Sequence[Any]], Any], ready: asyncio.Event) -> None:
    """Reads a topic whole and for ever, without a group; sets `ready` once all that was there at the start is applied."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=READ_COMMITTED,
    )
    await consumer.start()
    try:
        partitions = sorted(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        records: list[Any] = []
        while any([await consumer.position(partition) < ends[partition] for partition in partitions]):
            fetched = await consumer.getmany(timeout_ms=200)
            records += [record for batch in fetched.values() for record in batch]
        await apply(records)
        ready.set()
        while True:
            fetched = await consumer.getmany(timeout_ms=1_000)
            for batch in fetched.values():
                await apply(batch)
    finally:
        await consumer.stop()
