"""Topics of other formats than JSON: every input reads them, its own JSON stays JSON, and what cannot be read says why."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from stream.core.catalogue_records import ItemFormat, ItemTable
from stream.core.events import NATIVE_FORMAT_HEADER, Item, Reason, Rejection, Source, Transcript, ValueFormat
from stream.core.framing import framed
from stream.core.outputs import DeadLetter, Outcome
from stream.core.records import Batch, PlainRecord
from stream.formats.registry import RegistryError
from stream.formats.topic_decoder import TopicDecoder
from stream.services.process import field_mapper
from stream.text.encode_stage import TranscriptFormat, _read
from tests import world
from tests.avro import avro_value
from tests.schema_registry import FakeRegistry
from tests.world import NOW, Store, run

MOMENT: dict[str, Any] = {"type": "long", "logicalType": "timestamp-millis"}
TEXTS: dict[str, Any] = {"type": "array", "items": "string"}
NATIVE = ((NATIVE_FORMAT_HEADER, b"1"),)
FIELDS: dict[str, dict[str, Any]] = {
    "clicks": {"tags": TEXTS, "event_id": ["null", "string"]},
    "purchases": {"items": TEXTS, "action": {"type": "enum", "name": "Action", "symbols": ["bought", "cancelled"]}},
    "eligibility": {"excluded": TEXTS},
    "erasures": {},
    "feedback": {"channel": "string", "action": "string", "items": TEXTS},
}
CONTENTS: dict[str, dict[str, Any]] = {
    "clicks": {"tags": ["pets", "dog"], "event_id": None},
    "purchases": {"items": ["item-1"], "action": "bought"},
    "eligibility": {"excluded": ["item-2"]},
    "erasures": {},
    "feedback": {"channel": "web", "action": "shown", "items": ["item-3"]},
}
SOURCES = {
    "clicks": Source.CLICK,
    "purchases": Source.PURCHASE,
    "eligibility": Source.ELIGIBILITY,
    "erasures": Source.ERASURE,
    "feedback": Source.FEEDBACK,
}


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        yield server


def schema_of(fields: dict[str, Any]) -> dict[str, Any]:
    named = [{"name": name, "type": kind} for name, kind in fields.items()]
    return {"type": "record", "name": "Event", "namespace": "shop", "fields": named}


def decoder(registry: FakeRegistry, form: ValueFormat = ValueFormat.AVRO, role: str = "clicks") -> TopicDecoder:
    """A decoder that knows all that the registry holds, and has heard of no other."""
    schemas = registry.known()
    schemas.settle(registry.schemas)
    return TopicDecoder(f"formats.{role}", form, schemas)


def apply(source: Source, value: bytes, key: bytes = b"u", headers: Any = (), store: Store | None = None, **config: Any) -> Outcome:
    batch = Batch(source, world.TOPICS[source], 1, 0, [PlainRecord(0, NOW, key, value, headers)])
    return run(store or Store(), batch, config=world.settings(**config))


def letter_of(outcome: Outcome) -> DeadLetter:
    (letter,) = outcome.dead_letters
    return msgspec.json.decode(letter.value or b"", type=DeadLetter)


@pytest.mark.parametrize("role", FIELDS)
def test_every_input_of_the_step_reads_avro(registry: FakeRegistry, role: str) -> None:
    """With our field names, and by a mapping with a producer's own."""
    source = SOURCES[role]
    fields, content = (
        {"user_id": "string", "occurred_at": MOMENT, **FIELDS[role]},
        {"user_id": "u", "occurred_at": NOW, **CONTENTS[role]},
    )
    number = registry.add(schema_of(fields))
    theirs = {f"their_{name}": kind for name, kind in fields.items()}
    mapped = registry.add(schema_of(theirs))
    decoders = {source: decoder(registry, role=role)}
    plain = apply(source, avro_value(number, schema_of(fields), content), decoders=decoders)
    assert plain.counts["events", source, "applied"] + plain.counts["events", source, "erased"] == 1
    json_outcome = apply(source, json.dumps(content).encode())
    assert plain.writes == json_outcome.writes  # as if it had been JSON
    value = avro_value(mapped, schema_of(theirs), {f"their_{name}": one for name, one in content.items()})
    mappers = {source: field_mapper(f"mapping.{role}", {name: f"their_{name}" for name in fields})}
    assert apply(source, value, decoders=decoders, mappers=mappers).writes == plain.writes


def test_transcripts_and_items_read_avro(registry: FakeRegistry) -> None:
    sentence = {"type": "record", "name": "Sentence", "fields": [{"name": "text", "type": "string"}]}
    call = schema_of(
        {"user_id": "string", "conversation_id": "string", "started_at": MOMENT, "sentences": {"type": "array", "items": sentence}}
    )
    item = schema_of({"item_id": "string", "name": "string", "repeatable": "boolean"})
    numbers = registry.add(call), registry.add(item)
    to_json = decoder(registry)
    content = {"user_id": "u", "conversation_id": "c", "started_at": NOW, "sentences": [{"text": "We have a dog."}]}
    read = _read(PlainRecord(0, NOW, b"u", avro_value(numbers[0], call, content)), TranscriptFormat(to_json=to_json))
    assert isinstance(read, Transcript)
    assert read.sentences[0].text == "We have a dog."
    table = ItemTable(ItemFormat(to_json=to_json))
    value = avro_value(numbers[1], item, {"item_id": "18", "name": "Dog insurance", "repeatable": True})
    assert table.apply([PlainRecord(0, NOW, b"18", value)]) == []
    assert table.items == {b"18": Item("18", "Dog insurance", repeatable=True)}


@pytest.mark.parametrize("form", [form for form in ValueFormat if form is not ValueFormat.JSON])
def test_a_record_with_our_header_is_our_json_whatever_its_topic(registry: FakeRegistry, form: ValueFormat) -> None:
    """The API and `isthmus erase` send such, and a replay keeps the header; neither mapping nor format touches it."""
    to_json, broken = decoder(registry, form), field_mapper("m", {"user_id": "nothing"})
    for role, source in SOURCES.items():
        value = json.dumps({"user_id": "u", "occurred_at": NOW, **CONTENTS[role]}).encode()
        outcome = apply(source, value, headers=NATIVE, decoders={source: to_json}, mappers={source: broken})
        assert not outcome.dead_letters
        assert letter_of(apply(source, value, decoders={source: to_json})).reason == Reason.UNDECODABLE
    call = json.dumps({"user_id": "u", "conversation_id": "c", "started_at": NOW, "sentences": [{"text": "Hello."}]}).encode()
    assert isinstance(_read(PlainRecord(0, NOW, b"u", call, NATIVE), TranscriptFormat(broken, to_json=to_json)), Transcript)
    table = ItemTable(ItemFormat(broken, to_json=to_json))
    table.apply([PlainRecord(0, NOW, b"18", b'{"item_id":"18","name":"n"}', NATIVE)])
    assert list(table.items) == [b"18"]


def test_json_schema_values_are_json_behind_the_frame(registry: FakeRegistry) -> None:
    number = registry.add({"type": "object"}, kind="JSON")
    value = framed(number, json.dumps({"user_id": "u", "occurred_at": NOW, "tags": ["pets"]}).encode())
    outcome = apply(Source.CLICK, value, decoders={Source.CLICK: decoder(registry, ValueFormat.JSON_SCHEMA)})
    assert outcome.counts["events", Source.CLICK, "applied"] == 1
    broken = apply(Source.CLICK, framed(number, b"{"), decoders={Source.CLICK: decoder(registry, ValueFormat.JSON_SCHEMA)})
    assert letter_of(broken).reason == Reason.NOT_JSON


@pytest.mark.parametrize(
    ("value", "reason", "error"),
    [
        (
            lambda number: framed(number, b"\x06ab"),
            Reason.UNDECODABLE,
            "schema 1: the value does not decode with its schema",
        ),
        (lambda _: framed(77, b"\x02a"), Reason.UNKNOWN_SCHEMA, "the schema registry has no schema 77"),
        (lambda _: b'{"user_id":"u"}', Reason.UNDECODABLE, "it looks like JSON, and formats.clicks is avro"),
        (lambda _: b"Obj\x01abc", Reason.UNDECODABLE, "it looks like a whole Avro file"),
        (lambda _: b"\xc3\x01abc", Reason.UNDECODABLE, "single-object encoding"),
        (lambda _: b"\x01abcdef", Reason.UNDECODABLE, "named by a GUID"),
        (lambda _: b"\0", Reason.UNDECODABLE, "it begins with the byte 0x00 and has 1 bytes"),
        (
            lambda _: framed(2, b"{}"),
            Reason.UNDECODABLE,
            "schema 2 is of the type JSON, and formats.clicks is avro: set json-schema",
        ),
    ],
)
def test_a_value_that_is_not_of_its_topics_format_says_so_and_is_kept(
    registry: FakeRegistry, value: Callable[[int], bytes], reason: Reason, error: str
) -> None:
    """A replay sends the bytes as they were, so the dead letter holds them."""
    number = registry.add(schema_of({"user_id": "string"}))
    registry.add({}, kind="JSON")
    bytes_ = value(number)
    letter = letter_of(apply(Source.CLICK, bytes_, decoders={Source.CLICK: decoder(registry)}))
    assert letter.reason == reason
    assert error in letter.error
    assert letter.original == bytes_


def test_a_value_that_decodes_and_is_no_event_is_kept_as_it_was(registry: FakeRegistry) -> None:
    schema = schema_of({"user_id": "string", "occurred_at": MOMENT})
    value = avro_value(registry.add(schema), schema, {"user_id": "u", "occurred_at": NOW})
    letter = letter_of(apply(Source.CLICK, value, decoders={Source.CLICK: decoder(registry)}))
    assert (letter.reason, letter.original) == (Reason.INVALID, value)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_framed_value_in_a_json_topic_names_the_setting_that_reads_it(mapped: bool) -> None:
    value = framed(31_488, b"\x02u")  # with this id, UTF-32 would begin with the same bytes
    mappers = {Source.PURCHASE: field_mapper("m", {"user_id": "user_id"})} if mapped else {}
    letter = letter_of(apply(Source.PURCHASE, value, mappers=mappers))
    assert letter.reason == Reason.NOT_JSON
    assert "framed for a schema registry, with schema 31488: set formats.purchases to avro, json-schema or protobuf" in letter.error
    assert letter.original == value
    for encoding in ("utf-32-be", "utf-16-be"):
        wide = letter_of(apply(Source.PURCHASE, '{"user_id": "u"}'.encode(encoding), mappers=mappers))
        assert f"look like {encoding[:6].upper()}" in wide.error


def test_a_framed_key_says_that_keys_are_plain_text(registry: FakeRegistry) -> None:
    """The key decides the partition: in another form, a user's events would meet nowhere."""
    schema = schema_of({"user_id": "string", "occurred_at": MOMENT, **FIELDS["clicks"]})
    content = {"user_id": "u", "occurred_at": NOW, **CONTENTS["clicks"]}
    value = avro_value(registry.add(schema), schema, content)
    letter = letter_of(apply(Source.CLICK, value, key=framed(1, b"\x02u"), decoders={Source.CLICK: decoder(registry)}))
    assert letter.reason == Reason.KEY_MISMATCH
    assert "the record's key is framed for a schema registry: it must be the user_id as plain text" in letter.error


def test_errors_hold_no_personal_data(registry: FakeRegistry) -> None:
    schema = schema_of({"user_id": "string", "occurred_at": MOMENT, "tags": TEXTS, "event_id": "long"})
    value = avro_value(registry.add(schema), schema, {"user_id": "secret", "occurred_at": NOW, "tags": ["secret"], "event_id": 1})
    to_json = decoder(registry)
    for broken in (value, value[:-1], value + b"secret", value[:9] + b"\xff" + value[10:]):
        error = letter_of(apply(Source.CLICK, broken, decoders={Source.CLICK: to_json})).error
        assert "secret" not in error


def test_a_schema_whose_references_are_away_is_not_settled(registry: FakeRegistry) -> None:
    number = registry.add({"type": "array", "items": "shop.Place"}, references=[("shop.Place", "places")])
    schemas = registry.known()
    with pytest.raises(RegistryError):
        schemas.settle([number])
    assert not schemas.is_settled(number)
    registry.add({"type": "record", "name": "Place", "namespace": "shop", "fields": [{"name": "city", "type": "string"}]}, "places")
    schemas.settle([number])
    found = schemas.decoder(number)
    assert found is not None
    assert found[1](b"\x02\x0aTrier\x00") == b'[{"city":"Trier"}]'


def test_a_rejection_needs_no_decoder() -> None:
    """Empty values are refused before anything is decoded."""
    outcome = apply(Source.CLICK, b"", decoders={Source.CLICK: lambda _: pytest.fail("decoded")})
    assert letter_of(outcome).reason == Reason.EMPTY
    assert isinstance(_read(PlainRecord(0, NOW, b"u", b""), TranscriptFormat()), Rejection)
