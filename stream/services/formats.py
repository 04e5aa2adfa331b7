"""The formats of the input topics, from settings: what decodes the values of each, and what holds back unknown schemas."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from stream.core.events import ValueFormat
from stream.errors import IsthmusError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from stream.connection_settings import SchemaRegistrySettings
    from stream.formats.flat import FlatLists
    from stream.formats.gate import SchemaGate
    from stream.formats.schemas import Schemas
    from stream.formats.topic_decoder import TopicDecoder
    from stream.metrics import Metrics
    from stream.settings import Settings


def topic_decoder(settings: Settings, role: str) -> TopicDecoder | None:
    """Returns what decodes the values of an input topic; None where they are JSON.

    Raises:
        IsthmusError: the format needs a library, or a registry, that is missing.
    """
    form = settings.formats.of(role)
    if form is ValueFormat.JSON:
        return None
    from stream.formats.decoders import require_library
    from stream.formats.topic_decoder import TopicDecoder

    setting = f"formats.{role}"
    if settings.schema_registry.url is None:
        raise IsthmusError(f"setting {setting}: {form} needs schema_registry.url (ISTHMUS_SCHEMA_REGISTRY__URL)")
    require_library(form, setting)
    return TopicDecoder(setting, form, schemas_of(settings))


def schemas_of(settings: Settings) -> Schemas:
    """Returns the schemas of the settings' registry: one object in a process, so that each is fetched once.

    Raises:
        IsthmusError: they name none, or a file of TLS cannot be used.
    """
    if settings.schema_registry.url is None:
        raise IsthmusError("schema_registry.url names no schema registry (ISTHMUS_SCHEMA_REGISTRY__URL)")
    return _schemas(settings.schema_registry, settings.cache_dir / "schemas")


@lru_cache(maxsize=8)
def _schemas(registry: SchemaRegistrySettings, folder: Path) -> Schemas:
    from stream.formats.registry import SchemaRegistry
    from stream.formats.schemas import Schemas

    client = SchemaRegistry(registry)
    client.open()
    return Schemas(client, folder)


def count_schema_requests(settings: Settings, metrics: Metrics) -> None:
    """Counts from now on what this process asks the registry, if any topic needs it."""
    if settings.schema_registry.url is not None:
        schemas_of(settings).observe = lambda outcome: metrics.counter("schema_requests", outcome).inc()


def schema_gate(settings: Settings, roles: Iterable[str]) -> SchemaGate | None:
    """Returns what holds back records of the inputs of some roles; None where all are JSON."""
    decoders = {settings.topics.name_of(role): decoder for role in roles if (decoder := topic_decoder(settings, role)) is not None}
    if not decoders:
        return None
    from stream.formats.gate import SchemaGate

    return SchemaGate(decoders)


def flat_lists(settings: Settings) -> FlatLists | None:
    """Returns what turns lists into flat ones, with their schemas registered; None where none are sent.

    Raises:
        IsthmusError: the registry does not take the schemas, or the topic is not noted for lists as long as these.
    """
    topic = settings.topics.flat_recommendations
    if not settings.topics.flat:
        return None
    from stream.formats.decoders import require_library
    from stream.kafka.cluster.owners import longest_flat_list

    require_library(ValueFormat.AVRO, "topics.flat")
    from stream.formats.flat import KEY_SCHEMA, VALUE_SCHEMA, FlatLists

    schemas = schemas_of(settings)
    key_id, value_id = schemas.registered(f"{topic}-key", KEY_SCHEMA), schemas.registered(f"{topic}-value", VALUE_SCHEMA)
    return FlatLists(key_id, value_id, longest_flat_list(settings))
