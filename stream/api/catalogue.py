"""The topics `items` and `models` as the read side needs them: the catalogue, and the champion's popularity for strangers."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from models.artifact import UNREADABLE, ModelRefused
from stream.api.answers import Popularity
from stream.core.announcements import UNSIGNED, AnnouncementTrust, ModelAnnouncement
from stream.core.catalogue_records import ItemFormat, ItemTable
from stream.core.events import Item, Reason
from stream.core.feedback import hash_item
from stream.core.outputs import ModelName
from stream.core.poison import INFRASTRUCTURE_ERRORS, failure_location
from stream.core.ranking import Catalogue, Ranker, Rows
from stream.core.records import Record
from stream.core.unreadable import readable
from stream.errors import IsthmusError
from stream.formats.topic_decoder import wait_for_schemas
from stream.kafka.cluster.announced_models import AnnouncedModels, champions_in
from stream.metrics import Metrics

AGAIN_S: Final = 30.0
logger = logging.getLogger("isthmus")
ModelReader = Callable[[str, str], tuple[tuple[str, ...], Rows, Ranker | None]]
"""Reads items, popularity prior and, where guests are answered, the ranker of a model folder, by URI and hash."""


class CurrentCatalogue:
    """Catalogue and popularity as of the last record of each topic."""

    def __init__(
        self,
        read_model: ModelReader,
        metrics: Metrics,
        items: ItemFormat | None = None,
        trust: AnnouncementTrust = UNSIGNED,
    ) -> None:
        self._read_model = read_model
        self._models = AnnouncedModels(trust, metrics, "popularity is not taken over")
        self._champion: ModelAnnouncement | None = None
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
        await wait_for_schemas(self._table.form.to_json, records)
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
        announced = self._models.newest_first(champions_in(readable(records)))
        if announced:
            self._unread = announced
            await self.try_again()

    async def try_again(self) -> None:
        """Reads the newest champion, unless that is done; of those announced together, the newest that can be read.

        Until then those that could not be read are tried again, and no others.
        """
        unread, self._unread = self._unread, []
        for announced in unread:
            try:
                self._models.check_newer(announced, self._champion)
                items, prior, ranker = await asyncio.to_thread(self._read_model, announced.uri, announced.sha256)
            except IsthmusError as error:
                reason = error.reason if isinstance(error, ModelRefused) else UNREADABLE
                self._models.refuse(reason, str(error))
                if reason == UNREADABLE:
                    self._unread = [*self._unread, announced]
                continue
            except INFRASTRUCTURE_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001  (a bug costs this model, not the API)
                self._models.refuse(Reason.POISON, f"{announced.uri!r}: {failure_location(error)}")
                continue
            self._champion = announced
            self.popularity = Popularity(ModelName(announced.name, announced.version), items, prior, ranker, announced.published_at)
            return

    async def keep_trying(self) -> None:
        """Tries again for ever: a registry that is away may come back."""
        while True:
            await asyncio.sleep(AGAIN_S)
            await self.try_again()
