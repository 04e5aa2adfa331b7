"""The schemas that a process knows, by id. A registry never changes a schema, so what is known is kept: here, and in a folder, for
starts while the registry is away.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Lock
from typing import Final
from uuid import uuid4

import msgspec

from stream.core.events import ToJson
from stream.formats.decoders import decoder_of, refusing
from stream.formats.registry import RegisteredSchema, RegistryError, SchemaRegistry, UnknownSchemaError, UnusableSchemaError

logger = logging.getLogger("isthmus")
DENIED_S: Final = 60.0
"""How long a denial holds: a registry's replica may not have heard of a new schema yet."""


class Schemas:
    """May be used from several threads. `observe` is told of each question to the registry: fetched, denied or failed."""

    def __init__(
        self,
        registry: SchemaRegistry,
        folder: Path | None,
        observe: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.observe = observe
        self.registry = registry
        self._folder = None if folder is None else folder / hashlib.sha256(registry.url.encode()).hexdigest()[:16]
        self._clock = clock
        self._lock = Lock()
        self._types: dict[int, str] = {}
        self._decoders: dict[int, ToJson] = {}
        self._denied: dict[int, float] = {}

    def decoder(self, schema_id: int) -> tuple[str, ToJson] | None:
        """The type of a schema and the decoder of bodies; None if the schema is not known."""
        decode = self._decoders.get(schema_id)
        return None if decode is None else (self._types[schema_id], decode)

    def is_settled(self, schema_id: int) -> bool:
        """Whether a schema is known, or known not to exist."""
        return schema_id in self._decoders or self._denied.get(schema_id, float("-inf")) > self._clock()

    def settle(self, schema_ids: Iterable[int]) -> None:
        """Asks for what is not settled.

        Raises:
            RegistryError: the registry does not say.
        """
        for schema_id in schema_ids:
            with self._lock:
                if not self.is_settled(schema_id):
                    self._settle(schema_id)

    def _settle(self, schema_id: int) -> None:
        kept = self._kept(schema_id)
        if kept is not None:
            self._add(schema_id, kept)
            return
        try:
            found = self.registry.schema(schema_id)
        except UnknownSchemaError:
            now = self._clock()
            self._denied = {one: until for one, until in self._denied.items() if until > now} | {schema_id: now + DENIED_S}
            self.observe("denied")
            text = "the schema registry at %s has no schema %d: records with it become dead letters"
            logger.error(text, self.registry.url, schema_id)  # noqa: TRY400  (the text says all)
            return
        except UnusableSchemaError as error:
            self.observe("fetched")
            text = "schema %d of the schema registry at %s cannot be used (%s): records with it become dead letters"
            logger.error(text, schema_id, self.registry.url, error)  # noqa: TRY400  (the text says all)
            self._types[schema_id], self._decoders[schema_id] = error.type, refusing(f"its schema cannot be used ({error})")
            return
        except RegistryError:
            self.observe("failed")
            raise
        self.observe("fetched")
        self._keep(schema_id, found)
        self._add(schema_id, found)

    def registered(self, subject: str, schema: str) -> int:
        """The id of an Avro schema of ours, which is registered where the registry does not know it.

        Raises:
            RegistryError: the registry does not say, and nothing is kept of an earlier answer.
        """
        name = hashlib.sha256(f"{subject}\n{schema}".encode()).hexdigest()[:16]
        file = None if self._folder is None else self._folder / f"{name}.id"
        try:
            number = self.registry.register(subject, schema)
        except RegistryError:
            if file is None or not file.is_file():
                raise
            return int(file.read_text())
        if file is not None:
            self._write(file, str(number).encode())
        return number

    def _add(self, schema_id: int, schema: RegisteredSchema) -> None:
        self._types[schema_id] = schema.type
        self._decoders[schema_id] = decoder_of(schema)

    def _kept(self, schema_id: int) -> RegisteredSchema | None:
        """What the folder holds of a schema."""
        if self._folder is None:
            return None
        try:
            return msgspec.json.decode((self._folder / f"{schema_id}.json").read_bytes(), type=RegisteredSchema)
        except (OSError, msgspec.MsgspecError):
            return None

    def _keep(self, schema_id: int, schema: RegisteredSchema) -> None:
        """Writes a schema to the folder, whole or not at all. What cannot be written is fetched again by the next process."""
        if self._folder is not None:
            self._write(self._folder / f"{schema_id}.json", msgspec.json.encode(schema))

    def _write(self, file: Path, content: bytes) -> None:
        part = file.with_name(f"{uuid4().hex}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            part.replace(file)
        except OSError as error:
            logger.warning("%s is not kept (%s): a start needs the registry", file, error.strerror)
