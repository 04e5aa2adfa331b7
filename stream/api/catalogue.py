"""The topics `items` and `models` as the read side needs them: the catalogue, and the champion's popularity for strangers."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from stream.api.answers import Popularity
from stream.core.announcements import ModelAnnouncement, decode_announcement
from stream.core.catalogue_records import ItemFormat, ItemTable
from stream.core.events import Item, Reason
from stream.core.feedback import hash_item
from stream.core.outputs import ModelName
from stream.core.parsing import UNUSABLE
from stream.core.poison import INFRASTRUCTURE_ERRORS, failure_location
from stream.core.ranking import Catalogue, Ranker, Rows
from stream.core.records import Record
from stream.core.unreadable import readable
from stream.errors import IsthmusError
from stream.metrics import Metrics

AGAIN_S: Final = 30.0
logger = logging.getLogger("isthmus")
ModelReader = Callable[[str, str], tuple[tuple[str, ...], Rows, Ranker | None]]
"""Reads items, popularity prior and, where guests are answered, the ranker of a model folder, by URI and hash."""


class CurrentCatalogue:
    """Catalogue and popularity as of the last record of each topic."""

    def __init__(self, read_model: ModelReader, metrics: Metrics, items: ItemFormat | None = None) -> None:
        self._read_model = read_model
        self._metrics = metrics
        self._form = items
        self._table = ItemTable(items)
        self.catalogue = Catalogue()
        self.popularity: Popularity | None = None
        self._unread: list[ModelAnnouncement] = []
        self._by_hash: dict[bytes, Item] | None = None

    @property
    def by_hash(self) -> Mapping[bytes, Item]:
        """The items by the hash under which feedback keeps them; made when it is first asked for."""
        if self._by_hash is None:
            self._by_hash = {hash_item(item): entry for item, entry in self.catalogue.items.items()}
        return self._by_hash

    async def on_items(self, records: Sequence[Record], *, replace: bool = False) -> None:
        """Applies items and tombstones; a worker sends the dead letter of a record that is no item. With `replace` they are all."""
        if replace:
            self._table = ItemTable(self._form)
        for record, rejection in self._table.apply(records):
            logger.warning("items, offset %d cannot be used (%s: %s)", record.offset, rejection.reason, rejection.error)
        self.catalogue, self._by_hash = self._table.catalogue(), None
        self._metrics.gauge("catalogue_items").set(len(self._table.items))
        self._metrics.gauge("unusable_items").set(len(self._table.unusable))

    async def on_models(self, records: Sequence[Record], *, replace: bool = False) -> None:
        """Takes over the newest champion whose folder can be read. With `replace`, without a champion, the former one stays."""
        if replace:
            self._unread = []
        champions = [record for record in readable(records) if record.key == b"champion" and record.value]
        announced = [found for record in champions if (found := self._announced(record)) is not None]
        if announced:
            self._unread = announced
            await self.try_again()

    def _announced(self, record: Record) -> ModelAnnouncement | None:
        """The announcement in a record; None, counted, where it is none: it will not become one by trying again."""
        try:
            return decode_announcement(record.value or b"")
        except UNUSABLE as error:
            self._metrics.counter("model_refusals", "announcement").inc()
            logger.error("models, offset %d is no announcement: %s", record.offset, error)  # noqa: TRY400  (the text says all)
            return None

    async def try_again(self) -> None:
        """Reads the newest champion, unless that is done; of those announced together, the newest that can be read."""
        unread, self._unread = self._unread, []
        for announced in reversed(unread):
            try:
                items, prior, ranker = await asyncio.to_thread(self._read_model, announced.uri, announced.sha256)
            except IsthmusError as error:
                logger.error("popularity is not taken over, and will be tried again: %s", error)  # noqa: TRY400  (the text says all)
                self._unread = self._unread or unread
                continue
            except INFRASTRUCTURE_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001  (a bug costs this model, not the API)
                self._metrics.counter("model_refusals", Reason.POISON).inc()
                logger.error("popularity of %s is not taken over (%s)", announced.uri, failure_location(error))  # noqa: TRY400
                continue
            self.popularity = Popularity(ModelName(announced.name, announced.version), items, prior, ranker, announced.published_at)
            return

    async def keep_trying(self) -> None:
        """Tries again for ever: a registry that is away may come back."""
        while True:
            await asyncio.sleep(AGAIN_S)
            await self.try_again()
