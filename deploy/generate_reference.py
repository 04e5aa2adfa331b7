"""`make docs`: the reference pages and the AsyncAPI document, written from the code that they describe.

tests/unit/test_reference.py fails while a page differs from what this writes.
"""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import msgspec
from prometheus_client import Counter
from typer.testing import CliRunner

from stream.api.api_keys import ApiKey
from stream.api.app import openapi_document
from stream.cli.main import COMMANDS, app
from stream.connection_settings import Section
from stream.core import outputs
from stream.core.announcements import ModelAnnouncement
from stream.core.encoded_items import EncodedItem
from stream.core.events import INPUTS, JSON, MSGPACK, Item
from stream.formats.flat import FlatRecommendation
from stream.kafka.cluster.owners import Owner
from stream.kafka.cluster.rights import Process, rights_of
from stream.kafka.cluster.topics import TopicSpec, specs
from stream.metrics import DECLARED
from stream.process_settings import ApiSettings, DeliverySettings, PostgresSettings, WebhookSettings, WorkerSettings
from stream.settings import Settings, TopicSettings

ROOT: Final = Path(__file__).parents[1]
REFERENCE: Final = ROOT / "docs" / "reference"
AVRO: Final = "application/avro"
PAYLOADS: Final[dict[str, tuple[type[msgspec.Struct], str]]] = {
    **{row.role: (row.event_type, row.content_type) for row in INPUTS},
    "items": (Item, JSON),
    "encoded_items": (EncodedItem, MSGPACK),
    "models": (ModelAnnouncement, JSON),
    "recommendations": (outputs.Recommendation, JSON),
    "flat_recommendations": (FlatRecommendation, AVRO),
    "training_examples": (outputs.TrainingExample, MSGPACK),
    "dead_letters": (outputs.DeadLetter, JSON),
    "api_keys": (ApiKey, JSON),
    "replayed": (outputs.Replayed, JSON),
    "applications": (Owner, JSON),
}
_ALL_TOPICS: Final = TopicSettings(flat=True)
CLOUD_EVENTS: Final = {"recommendations", "dead_letters"}
_BY_US: Final = PAYLOADS.keys() - {"items"} - {row.role for row in INPUTS if not row.is_derived}
_BOUNDS: Final = {"maxLength": "characters", "maxItems": "of them"}
_KINDS: Final = {"date-time": "RFC 3339 time", "base64": "bytes"}
_WRITTEN: Final = "<!-- Written by `make docs`; do not edit. -->\n\n"


def settings_page() -> str:
    rows = ["| setting | variable | default | what it is |", "| --- | --- | --- | --- |"]
    home = str(Path.home())
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if isinstance(default, Section):
            inner = [(f"{name}.{key}", one, getattr(default, key)) for key, one in type(default).model_fields.items()]
        else:
            inner = [(name, field, default)]
        for dotted, one, value in inner:
            variable = "ISTHMUS_" + dotted.replace(".", "__").upper()
            rows.append(f"| `{dotted}` | `{variable}` | `{str(value).replace(home, '~')}` | {one.description or ''} |")
    return (
        f"# Settings\n\n{_WRITTEN}In `isthmus.toml` (or the file that `ISTHMUS_CONFIG` names), or as variables, which win.\n\n"
        + "\n".join(rows)
        + "\n"
    )


def metrics_page() -> str:
    rows = ["| metric | kind | labels | what it is |", "| --- | --- | --- | --- |"]
    for name, declared in DECLARED.items():
        suffix = "_total" if declared.kind is Counter else ""
        rows.append(
            f"| `isthmus_{name}{suffix}` | {declared.kind.__name__.lower()} | {', '.join(declared.labels)} | {declared.text} |"
        )
    return f"# Metrics\n\n{_WRITTEN}Compute rates in the query, over all workers.\n\n" + "\n".join(rows) + "\n"


def topics_page() -> str:
    rows = ["| topic | key | partitions | settings | message |", "| --- | --- | --- | --- | --- |"]
    for spec in specs(_ALL_TOPICS):
        settings = ", ".join(f"{key}={value}" for key, value in spec.settings.items())
        message, kind = PAYLOADS.get(spec.role, (None, "msgpack"))
        named = f"{message.__name__} ({kind.rpartition('/')[2]})" if message else f"state records ({kind})"
        rows.append(f"| `{spec.name}` | {spec.keyed_by} | {spec.partitions} | {settings} | {named} |")
    text = "Replication 3 with `min.insync.replicas` 2; 1 with `--dev`. Names and the partition count are settings (`[topics]`)."
    text += " `flat-recommendations` is there with `topics.flat` only."
    return f"# Topics\n\n{_WRITTEN}{text}\n\n" + "\n".join(rows) + "\n"


def acls_page() -> str:
    text = """What each process and command needs where brokers have an authorizer: these ACLs, all of them literal names, and no
others. Give each process a user of its own. A process that lacks one says at its start which, and the command that gives it. Names
follow the settings; `NAME` is the process's own (`worker.name`, `encoder.name`), and of `backfill` the new application's. The rows
with a transactional id are for `delivery.guarantee = "exactly_once"`, one for each partition number; those with
`flat-recommendations` are for `topics.flat`; the group of the API is for replicas that share a store (`api.redis_url`). Nothing
needs a right on the cluster: since Kafka 3.0, whoever may write to a topic may write idempotently. [Connect to a secured
Kafka](../guides/secured_kafka.md) says how to connect.

`isthmus demo --kafka` starts all parts and needs what all of them need."""
    exactly_once = Settings.model_construct(
        topics=_ALL_TOPICS,
        worker=WorkerSettings(),
        api=ApiSettings(redis_url="redis://shared"),
        postgres=PostgresSettings(),
        webhook=WebhookSettings(),
        delivery=DeliverySettings(guarantee="exactly_once"),
    )
    parts = [f"# ACLs\n\n{_WRITTEN}{text}\n"]
    for process in Process:
        rows = ["| operation | resource | name |", "| --- | --- | --- |"]
        rows += [f"| {right.operation} | {right.kind} | `{right.name}` |" for right in rights_of(process, exactly_once)]
        parts.append(f"## isthmus {process}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def commands_page() -> str:
    codes = "Exit codes: 0 done, 2 wrong use or environment (the message says what to do); `train` 3: refused by the gate; "
    codes += "`dead-letters replay` 3: some were refused; `doctor` 1: a check failed."
    parts = [f"# Commands\n\n{_WRITTEN}{codes}\n"]
    for path in _command_paths():
        shown = CliRunner().invoke(app, [*path, "--help"], prog_name="isthmus", env={"COLUMNS": "100"})
        parts.append(f"## isthmus {' '.join(path)}\n\n```\n{_plain(shown.output)}\n```\n")
    return "\n".join(parts)


def _command_paths() -> Iterator[list[str]]:
    from typer.main import get_command  # noqa: PLC0415

    root: Any = get_command(app)
    for name in COMMANDS:
        yield [name]
        for inner in getattr(root.get_command(None, name), "commands", {}):
            yield [name, inner]


def _plain(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def messages_page() -> str:
    """Every message with its fields, from the same types as the AsyncAPI document."""
    roles = {spec.role: spec for spec in specs(_ALL_TOPICS)}
    text = (
        "Every message that crosses a topic, with its fields. Readers must ignore fields that they do not know. "
        "Inputs may come [in another format](../guides/formats.md) and with other names. "
        "The same for machines: the [AsyncAPI document](../../deploy/asyncapi.json)."
    )
    parts = [f"# Messages\n\n{_WRITTEN}{text}\n"]
    for role, (message, content_type) in PAYLOADS.items():
        _, components = msgspec.json.schema_components([message], ref_template="{name}")
        schema = components[message.__name__]
        _document_properties(schema)
        rows = ["| field | type | required | what it is |", "| --- | --- | --- | --- |"]
        for name, field in schema["properties"].items():
            required = "yes" if name in schema.get("required", ()) else ""
            rows.append(f"| `{name}` | {_type_in_words(field, components)} | {required} | {field.get('description', '')} |")
        where = f"Topic `{roles[role].name}`, key = {roles[role].keyed_by}, {content_type.rpartition('/')[2]}."
        described = " ".join(schema.get("description", "").split())
        parts.append(f"## {message.__name__}\n\n{where} {described}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _type_in_words(field: Mapping[str, Any], components: Mapping[str, Any]) -> str:
    """A JSON schema in a few words, without "or null": the column `required` says that."""
    if "$ref" in field:
        named = components[field["$ref"]]
        if "enum" in named:
            return _type_in_words(named, components)
        return f"object ({', '.join(named['properties'])})" if "properties" in named else f"{field['$ref']} (array)"
    if "anyOf" in field:
        return " or ".join(_type_in_words(one, components) for one in field["anyOf"] if one.get("type") != "null")
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"] if value is not None)
    kind = _KINDS.get(field.get("format", field.get("contentEncoding", "")), field.get("type", "array"))
    if "milliseconds" in field.get("description", ""):
        kind = "ms since 1970"
    if field.get("items"):
        kind = f"array of {_type_in_words(field['items'], components)}"
    bounds = [f"{field[key]:,} {unit}" for key, unit in _BOUNDS.items() if key in field and kind != _KINDS["base64"]]
    return f"{kind} (at most {', '.join(bounds)})" if bounds else str(kind)


def asyncapi() -> str:
    """AsyncAPI 3.0: every topic, its key and its payload, the latter as JSON Schema from the msgspec types."""
    types = [message for message, _ in PAYLOADS.values()]
    _, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    for schema in components.values():
        _document_properties(schema)
    headers = {name: {"type": "string"} for name in ("ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time")}
    documented = [spec for spec in specs(_ALL_TOPICS) if spec.role in PAYLOADS]
    document = {
        "asyncapi": "3.0.0",
        "info": {"title": "Isthmus", "version": version("isthmus"), "description": "Clicks and calls in, recommendations out."},
        "defaultContentType": "application/json",
        "channels": {spec.role: _channel(spec) for spec in documented},
        "operations": {spec.role: _operation(spec) for spec in documented},
        "components": {
            "messages": {PAYLOADS[spec.role][0].__name__: _message(spec) for spec in documented},
            "schemas": {**components, "CloudEventHeaders": {"type": "object", "properties": headers, "required": sorted(headers)}},
        },
    }
    return json.dumps(document, indent=2) + "\n"


def _message(spec: TopicSpec) -> dict[str, Any]:
    message, content_type = PAYLOADS[spec.role]
    documented = {
        "name": message.__name__,
        "title": (message.__doc__ or message.__name__).strip().splitlines()[0],
        "contentType": content_type,
        "payload": {"$ref": f"#/components/schemas/{message.__name__}"},
        "bindings": {"kafka": {"key": {"type": "string", "description": spec.keyed_by}}},
    }
    return documented | ({"headers": {"$ref": "#/components/schemas/CloudEventHeaders"}} if spec.role in CLOUD_EVENTS else {})


def _channel(spec: TopicSpec) -> dict[str, Any]:
    name = PAYLOADS[spec.role][0].__name__
    return {
        "address": spec.name,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        "bindings": {"kafka": {"topic": spec.name, "partitions": spec.partitions}},
    }


def _operation(spec: TopicSpec) -> dict[str, Any]:
    return {"action": "send" if spec.role in _BY_US else "receive", "channel": {"$ref": f"#/channels/{spec.role}"}}


def _document_properties(schema: dict[str, Any]) -> None:
    """Moves the `Attributes:` of a type's docstring to its properties; a type that is an array has none."""
    if "description" not in schema:
        return
    schema["description"] = inspect.cleandoc(schema["description"])
    if "properties" not in schema:
        return
    schema["description"], _, attributes = schema["description"].partition("\n\nAttributes:\n")
    for name, described in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", attributes, re.MULTILINE):
        schema["properties"][name].setdefault("description", re.sub(r"\s+", " ", described))


def openapi() -> str:
    """OpenAPI 3.1 of the API, with each type's attributes described."""
    document = openapi_document()
    for schema in document["components"]["schemas"].values():
        _document_properties(schema)
    for path in document["paths"].values():
        for operation in path.values():
            if isinstance(operation, dict) and "description" in operation:
                operation["description"] = inspect.cleandoc(operation["description"])
    return json.dumps(document, indent=2) + "\n"


def pages() -> dict[Path, str]:
    """All that is generated, by path."""
    return {
        REFERENCE / "settings.md": settings_page(),
        REFERENCE / "metrics.md": metrics_page(),
        REFERENCE / "topics.md": topics_page(),
        REFERENCE / "acls.md": acls_page(),
        REFERENCE / "commands.md": commands_page(),
        REFERENCE / "messages.md": messages_page(),
        ROOT / "deploy" / "asyncapi.json": asyncapi(),
        ROOT / "deploy" / "openapi.json": openapi(),
    }


def main() -> None:
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    main()
