"""The records of the catalogue's topic: the items that they make, and dead letters of those that cannot be used.

Every worker, every API replica and every trainer reads the whole topic by these rules. One of the workers sends the dead letters.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from stream.core.cloud_events import DEFAULT_APPLICATION
from stream.core.dead_letters import dead_letter
from stream.core.event_times import TimeUnit
from stream.core.events import FieldMapper, Item, Reason, Rejection, ToJson, to_milliseconds
from stream.core.outputs import Output
from stream.core.parsing import mismatch_of, parse_item
from stream.core.poison import INFRASTRUCTURE_ERRORS, failure_location
from stream.core.ranking import Catalogue
from stream.core.records import Coordinates, Record, is_native


@dataclass(frozen=True)
class ItemFormat:
    """How a producer writes items.

    Attributes:
        mapper: Field mapping; None where the producer uses our field names.
        unit: Unit of integer times.
        to_json: How a value becomes JSON; None where it is JSON.
    """

    mapper: FieldMapper | None = None
    unit: TimeUnit = TimeUnit.MILLISECONDS
    to_json: ToJson | None = None


class RejectedItem(NamedTuple):
    """A record that cannot be used, and why."""

    record: Record
    rejection: Rejection


class ItemTable:
    """The items that a topic's records make. A record that cannot be used leaves its item as it was.

    Attributes:
        form: How the records are read.
        items: The items by key.
        is_published: Whether the topic ever held an item or a tombstone.
        unusable: Keys whose newest record cannot be used.
    """

    def __init__(self, form: ItemFormat | None = None) -> None:
        self.form = form or ItemFormat()
        self.items: dict[bytes, Item] = {}
        self.is_published = False
        self.unusable: set[bytes] = set()

    def catalogue(self) -> Catalogue:
        return Catalogue(self.items.values(), is_published=self.is_published)

    def clear(self) -> None:
        """Forgets everything: the topic was recreated, and its records follow."""
        self.items.clear()
        self.unusable.clear()
        self.is_published = False

    def apply(self, records: Iterable[Record]) -> list[RejectedItem]:
        """Applies records in order; returns those that cannot be used."""
        rejected: list[RejectedItem] = []
        for record in records:
            read = read_item(record, self.form)
            if isinstance(read, Rejection):
                rejected.append(RejectedItem(record, read))
                self.unusable |= set() if record.key is None else {record.key}
                continue
            assert record.key is not None
            self.is_published = True
            self.unusable.discard(record.key)
            if read is None:
                self.items.pop(record.key, None)
            else:
                self.items[record.key] = read
        return rejected


def read_item(record: Record, form: ItemFormat) -> Item | Rejection | None:
    """The item of a record; None where it is a tombstone; else why it cannot be used.

    A bug costs one record: every process reads this topic, and would end at the record at each start.
    """
    try:
        return _read(record, form)
    except INFRASTRUCTURE_ERRORS:
        raise
    except Exception as error:  # noqa: BLE001  (isolation is for bugs)
        return Rejection(Reason.POISON, failure_location(error))


def _read(record: Record, form: ItemFormat) -> Item | Rejection | None:
    if record.key is None:
        return Rejection(Reason.MISSING_KEY, "the record has no key: it must be the item id")
    if not record.value:
        return None
    form = ItemFormat() if is_native(record.headers) else form
    item = parse_item(record.value, form.mapper, form.unit, form.to_json)
    return item if isinstance(item, Rejection) else _rejection(item, record.key) or item


def item_dead_letters(
    topic: str, epoch: int, partition: int, rejected: Sequence[RejectedItem], application: bytes = DEFAULT_APPLICATION
) -> list[Output]:
    """The dead letters of a partition's rejected records, with their originals: a catalogue holds no personal data."""
    return [
        dead_letter(None, Coordinates(topic, epoch, partition, record.offset), record, rejection, application)
        for record, rejection in rejected
    ]


def _rejection(item: Item, key: bytes) -> Rejection | None:
    if key != item.item_id.encode():
        return Rejection(Reason.KEY_MISMATCH, mismatch_of(key, "item_id"))
    begins, ends = item.offered_from, item.offered_until
    if begins is not None and ends is not None and to_milliseconds(ends) < to_milliseconds(begins):
        return Rejection(Reason.INVALID, "`$.offered_until` is before `$.offered_from`")
    return None
