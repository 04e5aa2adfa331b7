"""Decodes the values of one topic, and says which of its records must wait for a schema."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from stream.core.events import Reason, ToJson, UndecodableError, ValueFormat
from stream.core.framing import FRAME_BYTES, schema_id_of, why_not_framed
from stream.core.records import Record, is_native
from stream.formats.decoders import FORMAT_OF_TYPE
from stream.formats.registry import RegistryError
from stream.formats.schemas import Schemas

logger = logging.getLogger("isthmus")
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0
_COMMAND_WAITS_S: Final = 30.0


class TopicDecoder:
    """A `ToJson` for the topic of a role, whose schemas must have been settled before. `setting` is that of its format."""

    def __init__(self, setting: str, form: ValueFormat, schemas: Schemas) -> None:
        self.schemas = schemas
        self._setting = setting
        self._form = form

    def __call__(self, value: bytes) -> bytes:
        schema_id = schema_id_of(value)
        if schema_id is None:
            raise UndecodableError(
                f"the value is not framed for a schema registry: {why_not_framed(value)}, and {self._setting} is {self._form}"
            )
        found = self.schemas.decoder(schema_id)
        if found is None:
            raise UndecodableError(f"the schema registry has no schema {schema_id}", Reason.UNKNOWN_SCHEMA)
        kind, decode = found
        written = FORMAT_OF_TYPE.get(kind, self._form)
        if written is not self._form:
            raise UndecodableError(f"schema {schema_id} is of the type {kind}, and {self._setting} is {self._form}: set {written}")
        try:
            return decode(value[FRAME_BYTES:])
        except UndecodableError as error:
            raise UndecodableError(f"schema {schema_id}: {error.error}") from None

    def first_waiting(self, records: Sequence[Record]) -> tuple[int, int] | None:
        """The index of the first record whose schema is not settled, and the schema's id; None if there is none."""
        settled: set[int] = set()
        for index, record in enumerate(records):
            schema_id = _schema_of(record)
            if schema_id is None or schema_id in settled:
                continue
            if not self.schemas.is_settled(schema_id):
                return index, schema_id
            settled.add(schema_id)
        return None

    def unsettled(self, records: Sequence[Record]) -> list[int]:
        """The ids of the schemas of records that are not settled."""
        found = {schema_id for record in records if (schema_id := _schema_of(record)) is not None}
        return sorted(schema_id for schema_id in found if not self.schemas.is_settled(schema_id))


def _schema_of(record: Record) -> int | None:
    return schema_id_of(record.value) if record.value and not is_native(record.headers) else None


async def wait_for_schemas(to_json: ToJson | None, records: Sequence[Record]) -> None:
    """Waits until all schemas of records are settled, however long the registry is away."""
    pause_s, is_told = FIRST_PAUSE_S, False
    while isinstance(to_json, TopicDecoder) and (waiting := to_json.unsettled(records)):
        try:
            await asyncio.to_thread(to_json.schemas.settle, waiting)
        except RegistryError as error:
            if not is_told:
                logger.error("records with the schemas %s wait: %s", waiting, error)  # noqa: TRY400  (the text says all)
            is_told = True
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def fetch_schemas(to_json: ToJson | None, records: Sequence[Record]) -> None:
    """For commands: settles all schemas of records.

    Raises:
        RegistryError: the registry does not say what they are, for half a minute.
    """
    deadline, pause_s = time.monotonic() + _COMMAND_WAITS_S, FIRST_PAUSE_S
    while isinstance(to_json, TopicDecoder) and (waiting := to_json.unsettled(records)):
        try:
            to_json.schemas.settle(waiting)
        except RegistryError:
            if time.monotonic() + pause_s > deadline:
                raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
