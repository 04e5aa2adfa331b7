"""Keeps a worker's catalogue and model up to date: every worker reads the topics `items`, `encoded-items` and `models` whole.

A champion is loaded and verified in a thread; the swap is one assignment that the next batch sees. A model that does not fit is
refused with a reason, and the worker keeps serving the one it has.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Final, cast

from models.artifact import UNREADABLE, ModelRefused, load_ranker
from stream.core import limits
from stream.core.announcements import UNSIGNED, AnnouncementTrust, ModelAnnouncement
from stream.core.catalogue_records import ItemFormat, ItemTable
from stream.core.encoded_items import EncodedItem, EncodedItemTable
from stream.core.events import Reason
from stream.core.poison import INFRASTRUCTURE_ERRORS, failure_location
from stream.core.ranking import Catalogue, Ranker, TextRanker, new_items_of
from stream.core.records import Record
from stream.core.unreadable import readable
from stream.formats.topic_decoder import wait_for_schemas
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.cluster.announced_models import AnnouncedModels, champions_in
from stream.metrics import Metrics

logger = logging.getLogger(__name__)
RETRY_S: Final = 30.0


class ServedModelFollower:
    """Applies records of `items`, `encoded-items` and `models` to a `ServedModel`.

    `load` reads a model folder, given its URI and SHA-256, and refuses one that is not trusted; `trust` says whose announcements
    count.
    """

    def __init__(
        self,
        served: ServedModel,
        metrics: Metrics,
        load: Callable[[str, str], Ranker] = load_ranker,
        items: ItemFormat | None = None,
        trust: AnnouncementTrust = UNSIGNED,
    ) -> None:
        self._served = served
        self._metrics = metrics
        self._announced = AnnouncedModels(trust, metrics, "keeping the model that is served")
        self._load = load
        self._form = items
        self._table = ItemTable(items)
        self._encoded = EncodedItemTable()
        self._loaded: Ranker | None = None
        self._new: tuple[Ranker | None, Mapping[str, EncodedItem]] = (None, {})
        self._champion: ModelAnnouncement | None = None
        self._unreadable: ModelAnnouncement | None = None
        self._lock = asyncio.Lock()

    async def on_items(self, records: Sequence[Record], *, replace: bool = False) -> None:
        """Applies items and tombstones; a record that is no item leaves its item as it was, and is logged and counted.

        With `replace` the records are the whole catalogue.
        """
        await wait_for_schemas(self._table.form.to_json, records)
        if replace:
            self._table = ItemTable(self._form)
        for record, rejection in self._table.apply(records):
            text = "the item at offset %d of the catalogue cannot be used (%s: %s): publish it again; its former version stays"
            logger.warning(text, record.offset, rejection.reason, rejection.error)
        self._count_unreadable("items", len(records) - len(readable(records)))
        self._served.catalogue = self._table.catalogue()
        self._metrics.gauge("catalogue_items").set(len(self._table.items))
        self._metrics.gauge("unusable_items").set(len(self._table.unusable))
        self._serve_new_items()

    async def on_encoded_items(self, records: Sequence[Record], *, replace: bool = False) -> None:
        """Applies vectors of items' texts. With `replace` the records are all that there are."""
        if replace:
            self._encoded = EncodedItemTable()
        unusable = self._encoded.apply(records)
        if unusable:
            text = "%d of %d records of encoded-items cannot be used, or are more than are kept: their items are not ranked"
            logger.warning(text, unusable, len(records))
        self._count_unreadable("encoded-items", unusable)
        self._serve_new_items()

    def _serve_new_items(self) -> None:
        """Lets the served model rank what is in the catalogue and was encoded for it. Its own items' texts are part of it."""
        ranker = self._loaded
        if ranker is None or not getattr(ranker, "reads_item_texts", False):
            self._metrics.gauge("new_items").set(0)
            return
        base, known = cast("TextRanker", ranker), set(ranker.items)
        missing = [item for item in self._served.catalogue.items if item not in known]
        encoded = [self._encoded.items[item] for item in missing if item in self._encoded.items]
        new = {item.item_id: item for item in encoded if item.text_model == ranker.text_model}
        self._metrics.gauge("foreign_items").set(len(encoded) - len(new))
        if len(new) > limits.NEW_ITEMS:
            logger.warning("%d items are new to the model; %d of them are ranked: train it again", len(new), limits.NEW_ITEMS)
            new = dict(islice(new.items(), limits.NEW_ITEMS))
        if self._new[0] is ranker and self._new[1] == new:
            return
        self._new = ranker, new
        self._served.ranker = base.with_new_items({item: one.numbers() for item, one in new.items()})
        self._metrics.gauge("new_items").set(len(new_items_of(self._served.ranker)))

    async def on_models(self, records: Sequence[Record], *, replace: bool = False) -> None:
        """Loads the newest champion among the records.

        If it is refused, tries the ones before it: a worker that starts has no other model to keep. With `replace` the records are
        the whole topic; where it announces no champion, the model that is served stays.
        """
        kept = readable(records)
        self._count_unreadable("models", len(records) - len(kept))
        champions = self._announced.newest_first(champions_in(kept))
        async with self._lock:
            if champions or replace:
                self._unreadable = None
            for place, announced in enumerate(champions):
                if await self._try_swap(announced, newest=place == 0):
                    return

    def _count_unreadable(self, topic: str, count: int) -> None:
        """Counts records that do not parse; the topic's reader has logged them."""
        if count:
            self._metrics.counter("unreadable_records", topic).inc(count)

    async def keep_retrying(self) -> None:
        """Retries for ever to load a champion that could not be read: its registry may come back."""
        while True:
            await asyncio.sleep(RETRY_S)
            await self.retry()

    async def retry(self) -> None:
        """Tries once more to load the newest champion if it could not be read."""
        async with self._lock:
            if self._unreadable is not None:
                announced, self._unreadable = self._unreadable, None
                await self._try_swap(announced, newest=True)

    def missing(self) -> str | None:
        """Why the worker serves no model although a champion was announced; otherwise None."""
        if self._unreadable is None or self._served.ranker is not None:
            return None
        return f"{self._unreadable.name} version {self._unreadable.version} cannot be read from {self._unreadable.uri}"

    async def _try_swap(self, announced: ModelAnnouncement, *, newest: bool) -> bool:
        try:
            await self._swap(announced)
        except ModelRefused as refused:
            self._announced.refuse(refused.reason, str(refused))
            if newest and refused.reason == UNREADABLE:
                self._unreadable = announced
            return False
        except INFRASTRUCTURE_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001  (a bug costs this model, not the worker)
            self._announced.refuse(Reason.POISON, f"{announced.uri!r}: {failure_location(error)}")
            return False
        return True

    async def _swap(self, announced: ModelAnnouncement) -> None:
        if self._champion is not None and announced.sha256 == self._champion.sha256:
            return
        self._announced.check_newer(announced, self._champion)
        ranker = await asyncio.to_thread(self._load, announced.uri, announced.sha256)
        check_items(ranker.items, self._served.catalogue, announced.uri)
        self._served.ranker = self._loaded = ranker
        self._serve_new_items()
        self._champion = announced
        self._metrics.clear("model_info")
        self._metrics.gauge("model_info", announced.name, announced.version).set(1)
        self._metrics.gauge("model_published_timestamp_seconds").set(announced.published_at / 1_000)
        self._metrics.counter("model_swaps").inc()
        logger.info("serving %s version %s", announced.name, announced.version)


def check_items(items: Sequence[str], catalogue: Catalogue, uri: str) -> None:
    """Raises ModelRefused if most of a model's items are not in a published catalogue: its lists would be short or empty."""
    missing = sum(item not in catalogue.items for item in items)
    if catalogue.is_published and 2 * missing > len(items):
        raise ModelRefused("items", f"{uri}: {missing} of its {len(items)} items are not in the catalogue")
