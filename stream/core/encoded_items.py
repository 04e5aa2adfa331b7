"""The records of `encoded-items`: the vector of each item's text, which the encoder writes and every worker reads whole."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Annotated, Any, Final

import msgspec
import numpy as np
from msgspec import Meta

from stream.core import limits
from stream.core.events import Id
from stream.core.ranking import Rows

_Short = Annotated[str, Meta(max_length=64)]
UNUSABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)


class EncodedItem(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The vector of an item's text (msgpack; key = item id; a tombstone follows a withdrawn item).

    Attributes:
        item_id: The item; also the record's key.
        text_model: Hash of the text model that encoded it.
        text_hash: Hash of the text that was encoded, see `hash_text`.
        vector: Little-endian float16 of the text model's width.
    """

    item_id: Id
    text_model: _Short
    text_hash: _Short
    vector: Annotated[bytes, Meta(min_length=2, max_length=limits.ITEM_VECTOR_BYTES)]

    def numbers(self) -> Rows:
        return np.frombuffer(self.vector, dtype="<f2").astype(np.float32)


encode_encoded_item: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(EncodedItem).decode


def hash_text(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()


class EncodedItemTable:
    """The newest vector of each item, as a topic's records make them. One that cannot be used changes nothing."""

    def __init__(self) -> None:
        self.items: dict[str, EncodedItem] = {}

    def apply(self, records: Iterable[Any]) -> int:
        """Applies records in order; returns how many cannot be used. Beyond `limits.ENCODED_ITEMS` items, none is added."""
        unusable = 0
        for record in records:
            try:
                key = (record.key or b"").decode()
                if not record.value and key:
                    self.items.pop(key, None)
                    continue
                item = _usable(_decode(record.value or b""), key)
            except UNUSABLE:
                unusable += 1
                continue
            if key in self.items or len(self.items) < limits.ENCODED_ITEMS:
                self.items[key] = item
            else:
                unusable += 1
        return unusable

    def of_model(self, text_model: str | None) -> Mapping[str, EncodedItem]:
        """The items that this text model encoded."""
        return {key: item for key, item in self.items.items() if item.text_model == text_model}


def _usable(item: EncodedItem, key: str) -> EncodedItem:
    if item.item_id != key:
        raise ValueError("the key is another item")
    if len(item.vector) % 2 or not np.isfinite(item.numbers()).all():
        raise ValueError("the vector is no row of finite numbers")
    return item
