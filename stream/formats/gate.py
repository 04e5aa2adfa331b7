"""Holds back records whose schema is not known as long as the registry does not say what it is: their partitions wait."""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from stream.core.records import Record
from stream.formats.registry import RegistryError
from stream.formats.topic_decoder import FIRST_PAUSE_S, LONGEST_PAUSE_S, TopicDecoder

logger = logging.getLogger("isthmus")
GRACE_S: Final = 0.5
"""A registry that answers within this time costs no seek. All partitions wait for it, once for each new schema."""
_Partition = tuple[str, int]


class _Held(NamedTuple):
    """Where a partition waits, and for which schema; None if the registry answered while it was being stopped."""

    offset: int
    schema_id: int | None
    decoder: TopicDecoder


class SchemaGate:
    """Of one app; `decoders` by topic. Used in the app's event loop only."""

    def __init__(self, decoders: Mapping[str, TopicDecoder]) -> None:
        self._decoders = decoders
        self._held: dict[_Partition, _Held] = {}
        self._asking: dict[int, asyncio.Task[None]] = {}
        self._errors: dict[int, str] = {}

    async def first_waiting(self, partition: _Partition, records: Sequence[Record]) -> int | None:
        """The index of the first record that must wait; None if none must. Asks the registry for its schema, and goes on asking."""
        decoder = self._decoders.get(partition[0])
        if decoder is None:
            return None
        while (found := decoder.first_waiting(records)) is not None:
            index, schema_id = found
            asking = self._ask(schema_id, decoder)
            if schema_id not in self._errors:
                await asyncio.wait({asking}, timeout=GRACE_S)
            if not decoder.schemas.is_settled(schema_id):
                return index
        return None

    def hold(self, partition: _Partition, record: Record) -> None:
        """Notes that a partition was stopped at a record of which `first_waiting` said so, so that it is read on in any case."""
        decoder = self._decoders[partition[0]]
        schema_id = next(iter(decoder.unsettled([record])), None)
        before = self._held.get(partition)
        self._held[partition] = _Held(record.offset, schema_id, decoder)
        if schema_id is not None and (before is None or before.offset != record.offset):
            logger.error("%s. This partition waits; the others go on", self._text(partition))

    def released(self) -> list[_Partition]:
        """Partitions that wait no longer; each is named once."""
        found = [partition for partition in self._held if not self._waits(partition)]
        for partition in found:
            logger.info("%s-%d is read on at offset %d", *partition, self._held.pop(partition).offset)
        return found

    def partitions(self) -> set[_Partition]:
        """The partitions that wait."""
        return set(self._held)

    def keep(self, partitions: Iterable[_Partition]) -> None:
        """Forgets partitions that went to another process, and what only they wait for."""
        kept = set(partitions)
        self._held = {partition: held for partition, held in self._held.items() if partition in kept}
        wanted = {held.schema_id for held in self._held.values()}
        for schema_id in self._asking.keys() - wanted:
            self._asking.pop(schema_id).cancel()
            self._errors.pop(schema_id, None)

    def check(self) -> str | None:
        """What health says: which partitions wait."""
        return "; ".join(map(self._text, filter(self._waits, self._held))) or None

    def _waits(self, partition: _Partition) -> bool:
        _, schema_id, decoder = self._held[partition]
        return schema_id is not None and not decoder.schemas.is_settled(schema_id)

    def _text(self, partition: _Partition) -> str:
        (topic, number), (offset, schema_id, _) = partition, self._held[partition]
        assert schema_id is not None
        why = self._errors.get(schema_id, "the schema registry has not answered yet")
        return f"{topic}-{number}: the record at offset {offset} has schema {schema_id}, which is not known ({why})"

    def _ask(self, schema_id: int, decoder: TopicDecoder) -> asyncio.Task[None]:
        if schema_id not in self._asking:
            self._asking[schema_id] = asyncio.create_task(self._until_settled(schema_id, decoder))
        return self._asking[schema_id]

    async def _until_settled(self, schema_id: int, decoder: TopicDecoder) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                await asyncio.to_thread(decoder.schemas.settle, [schema_id])
                break
            except RegistryError as error:
                self._errors[schema_id] = str(error)
            except Exception as error:  # a bug: the records wait, and it is told
                logger.exception("schema %d cannot be asked for", schema_id)
                self._errors[schema_id] = type(error).__name__
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        self._asking.pop(schema_id, None)
        self._errors.pop(schema_id, None)
