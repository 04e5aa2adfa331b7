"""The topics `items` and `models` as the read side needs them: the catalogue, and the champion's popularity for strangers."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from stream.api.answers import Popularity
from stream.core.announcements import decode_announcement
from stream.core.event_times import TimeUnit
from stream.core.events import Item
from stream.core.outputs import ModelName
from stream.core.parsing import parse_item
from stream.core.ranking import Catalogue, Rows
from stream.core.records import Record
from stream.errors import IsthmusError

AGAIN_S: Final = 30.0
logger = logging.getLogger("isthmus")
PriorReader = Callable[[str, str], tuple[tuple[str, ...], Rows]]
"""Reads the items and the popularity prior of a model folder, by URI and hash; `models.artifact.read_prior`."""


class CurrentCatalogue:
    """Catalogue and popularity as of the last record of each topic."""

    def __init__(self, read_prior: PriorReader, items_unit: TimeUnit = TimeUnit.MILLISECONDS) -> None:
        self._read_prior = read_prior
        self._items_unit = items_unit
        self._items: dict[bytes, Item] = {}
        self.catalogue = Catalogue()
        self.popularity: Popularity | None = None
        self._unread: list[bytes] = []

    async def on_items(self, records: Sequence[Record]) -> None:
        for record in records:
            if record.key is None:
                continue
            if not record.value:
                self._items.pop(record.key, None)
                continue
            item = parse_item(record.value, self._items_unit)
            if isinstance(item, Item):
                self._items[record.key] = item
            else:  # the former version stays, as in the workers
                logger.warning("items, offset %d cannot be used (%s): %s", record.offset, item.reason, item.error)
        self.catalogue = Catalogue(self._items.values())

    async def on_models(self, records: Sequence[Record]) -> None:
        """Takes over the newest champion whose folder can be read."""
        values = [record.value for record in records if record.key == b"champion" and record.value]
        if values:
            self._unread = values
            await self.try_again()

    async def try_again(self) -> None:
        """Reads the newest champion, unless that is done; of those announced together, the newest that can be read."""
        values, self._unread = self._unread, []
        for value in reversed(values):
            try:
                announced = decode_announcement(value)
                items, prior = await asyncio.to_thread(self._read_prior, announced.uri, announced.sha256)
            except (msgspec.MsgspecError, IsthmusError) as error:
                logger.error("popularity is not taken over, and will be tried again: %s", error)  # noqa: TRY400  (the text says all)
                self._unread = self._unread or values
                continue
            self.popularity = Popularity(ModelName(announced.name, announced.version), items, prior)
            return

    async def keep_trying(self) -> None:
        """Tries again for ever: a registry that is away may come back."""
        while True:
            await asyncio.sleep(AGAIN_S)
            await self.try_again()
