"""Encodes the catalogue: which items have no vector of this text model yet, and the records that give them one.

Every encoder reads `items` and `encoded-items` whole and encodes what it does not find there. Two that do so at once write the same
record. Nothing here reads a topic or a clock.
"""

import logging
from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from stream.core import limits
from stream.core.catalogue_records import ItemFormat, ItemTable
from stream.core.encoded_items import EncodedItem, EncodedItemTable, encode_encoded_item, hash_text
from stream.core.outputs import Output
from stream.core.poison import INFRASTRUCTURE_ERRORS
from stream.core.ranking import Rows
from stream.core.records import Record
from stream.text.item_texts import item_text
from stream.text.model import TextModel

logger = logging.getLogger(__name__)
CHUNK: Final = 32  # items: a tenth of a second


class Chunk(NamedTuple):
    """What to do: texts to encode, by item, and items whose vectors go."""

    texts: dict[str, str]
    gone: list[str]


class EncodedChunk(NamedTuple):
    """Records to send: vectors, and tombstones of withdrawn items. `failed` items could not be encoded."""

    outputs: list[Output]
    encoded: int
    failed: int


class CatalogueEncoder:
    """What is left to encode.

    Attributes:
        due: Items to look at, in order of their change.
    """

    def __init__(self, model: TextModel, form: ItemFormat) -> None:
        self._model = model
        self._form = form
        self._items = ItemTable(form)
        self._encoded = EncodedItemTable()
        self.due: dict[str, None] = {}

    def on_items(self, records: Sequence[Record], *, replace: bool = False) -> None:
        """Applies records of the catalogue. Other readers report those that cannot be used."""
        if replace:
            self._items = ItemTable(self._form)
        self._items.apply(records)
        if replace:
            self.look_at_all()
        self.due |= {record.key.decode(errors="replace"): None for record in records if record.key is not None}

    def on_encoded(self, records: Sequence[Record], *, replace: bool = False) -> None:
        """Applies records of `encoded-items`: other encoders' and our own."""
        if replace:
            self._encoded = EncodedItemTable()
        self._encoded.apply(records)
        if replace:
            self.look_at_all()

    def look_at_all(self) -> None:
        """Makes every item due: some encoder with another text model may have had the last word on it."""
        self.due |= dict.fromkeys([*(item.item_id for item in self._items.items.values()), *self._encoded.items])

    def take(self) -> Chunk | None:
        """Takes some of the items that are due; None when there is nothing left to look at."""
        if not self.due:
            return None
        texts: dict[str, str] = {}
        gone: list[str] = []
        for item_id in list(islice(self.due, CHUNK)):
            del self.due[item_id]
            item, known = self._items.items.get(item_id.encode()), self._encoded.items.get(item_id)
            text = "" if item is None else item_text(item.name, item.text)
            if not text and known is not None:
                gone.append(item_id)
            elif text and (known is None or (known.text_model, known.text_hash) != (self._model.hash, hash_text(text))):
                texts[item_id] = text
        return Chunk(texts, gone)

    def encode(self, chunk: Chunk) -> EncodedChunk:
        """Encodes what was taken. It touches nothing else, so that it may run in another thread."""
        vectors = self._vectors(chunk.texts)
        outputs = [Output(item_id.encode(), None) for item_id in chunk.gone]
        outputs += [self._record(item_id, chunk.texts[item_id], vector) for item_id, vector in vectors.items()]
        return EncodedChunk(outputs, len(vectors), len(chunk.texts) - len(vectors))

    def _record(self, item_id: str, text: str, vector: Rows) -> Output:
        content = vector.astype("<f2").tobytes()
        item = EncodedItem(item_id=item_id, text_model=self._model.hash, text_hash=hash_text(text), vector=content)
        return Output(item_id.encode(), encode_encoded_item(item))

    def _vectors(self, texts: dict[str, str]) -> dict[str, Rows]:
        """The vectors of texts; without those on which the text model fails, each of which is logged."""
        try:
            found = dict(zip(texts, self._model.encode(list(texts.values())), strict=True))
        except INFRASTRUCTURE_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001  (a bug costs one item)
            if len(texts) == 1:
                text = "item %s cannot be encoded (%s): publish it with another text"
                logger.warning(text, next(iter(texts)), type(error).__name__)
                return {}
            found = {}
            for item_id, text in texts.items():
                found |= self._vectors({item_id: text})
        widest = limits.ITEM_VECTOR_BYTES // 2
        return {item_id: vector for item_id, vector in found.items() if len(vector) <= widest and np.isfinite(vector).all()}
