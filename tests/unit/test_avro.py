"""What Avro's types become as JSON, and that no bytes end the process."""

import datetime as dt
import json
import math
from contextlib import suppress
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.events import UndecodableError
from stream.core.framing import FRAME_BYTES
from stream.formats.decoders import decoder_of
from stream.formats.registry import Reference, RegisteredSchema
from tests.avro import avro_value

MOMENT = dt.datetime(2026, 11, 29, 13, 0, 0, 123_456, tzinfo=dt.UTC)
PLACE = {"type": "record", "name": "Place", "namespace": "shop", "fields": [{"name": "city", "type": "string"}]}


def record(*types: Any) -> dict[str, Any]:
    """A record with the fields a, b, c ..."""
    return {"type": "record", "name": "R", "fields": [{"name": "abcdefgh"[index], "type": one} for index, one in enumerate(types)]}


def through_avro(schema: Any, content: Any) -> Any:
    body = avro_value(1, schema, content)[FRAME_BYTES:]
    return json.loads(decoder_of(RegisteredSchema("AVRO", json.dumps(schema)))(body))


def error_of(schema: Any, body: bytes) -> str:
    with pytest.raises(UndecodableError) as raised:
        decoder_of(RegisteredSchema("AVRO", json.dumps(schema)))(body)
    return raised.value.error


@pytest.mark.parametrize(
    ("schema", "content", "expected"),
    [
        ({"type": "long", "logicalType": "timestamp-millis"}, MOMENT, "2026-11-29T13:00:00.123000Z"),
        ({"type": "long", "logicalType": "timestamp-micros"}, MOMENT, "2026-11-29T13:00:00.123456Z"),
        ({"type": "long", "logicalType": "timestamp-millis"}, dt.datetime(1912, 1, 2, tzinfo=dt.UTC), "1912-01-02T00:00:00Z"),
        ({"type": "long", "logicalType": "local-timestamp-millis"}, MOMENT.replace(tzinfo=None), "2026-11-29T13:00:00.123000"),
        ({"type": "long", "logicalType": "timestamp-nanos"}, 17, 17),
        ({"type": "int", "logicalType": "date"}, dt.date(2026, 11, 29), "2026-11-29"),
        ({"type": "int", "logicalType": "time-millis"}, dt.time(13, 0, 1), "13:00:01"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}, Decimal("12.50"), "12.50"),
        ({"type": "string", "logicalType": "uuid"}, UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (["null", "string"], None, None),
        (["null", "string"], "s", "s"),
        (["null", PLACE], {"city": "Trier"}, {"city": "Trier"}),
        ({"type": "enum", "name": "E", "symbols": ["BOUGHT", "CANCELLED"]}, "CANCELLED", "CANCELLED"),
        ("bytes", b"\x00\xff", "AP8="),
        ({"type": "fixed", "name": "F", "size": 2}, b"ab", "YWI="),
        ({"type": "map", "values": "long"}, {"one": 1}, {"one": 1}),
        ({"type": "array", "items": PLACE}, [{"city": "a"}, {"city": "b"}], [{"city": "a"}, {"city": "b"}]),
        ("double", math.nan, None),
        ("long", 2**62, 2**62),
        ("boolean", True, True),
    ],
)
def test_each_type_becomes_what_the_guide_says(schema: Any, content: Any, expected: Any) -> None:
    """As a value of its own, and within a record."""
    assert through_avro(schema, content) == expected
    assert through_avro(record(schema, "string"), {"a": content, "b": "after"}) == {"a": expected, "b": "after"}


def test_a_schema_may_refer_to_others() -> None:
    """Also where the value itself is no record."""
    schema = {"type": "array", "items": ["null", "shop.Place"]}
    body = avro_value(1, {"type": "array", "items": ["null", PLACE]}, [None, {"city": "Trier"}])[FRAME_BYTES:]
    decode = decoder_of(RegisteredSchema("AVRO", json.dumps(schema), (Reference("shop.Place", json.dumps(PLACE)),)))
    assert json.loads(decode(body)) == [None, {"city": "Trier"}]


def test_broken_text_comes_through_as_json_may_write_it() -> None:
    """Half a surrogate in the place of a byte: what it costs depends on the field, as in JSON."""
    decode = decoder_of(RegisteredSchema("AVRO", json.dumps(record("string", {"type": "bytes"}))))
    assert json.loads(decode(b"\x06a\xffb\x02x")) == {"a": "a\udcffb", "b": "eA=="}


@pytest.mark.parametrize(
    ("schema", "body", "error"),
    [
        ("string", b"", "EOFError"),
        ("string", b"\xff" * 9 + b"\x01", "EOFError"),
        ("string", b"\x06ab", "EOFError"),
        ("string", b"\x02ab", "1 bytes are left"),
        (["null", "string"], b"\x0a", "IndexError"),
        ({"type": "enum", "name": "E", "symbols": ["A"]}, b"\x0e", "IndexError"),
        ({"type": "long", "logicalType": "timestamp-millis"}, b"\xfe" + b"\xff" * 8 + b"\x01", "OverflowError"),
    ],
)
def test_a_body_of_another_schema_is_refused(schema: Any, body: bytes, error: str) -> None:
    assert error in error_of(schema, body)


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        (record({"type": "array", "items": "null"}), "an array of what takes no bytes"),
        (record({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}), "an array of what takes no bytes"),
        (record({"type": "array", "items": {"type": "record", "name": "S", "fields": []}}), "an array of what takes no bytes"),
        (record(["null", "R"]), "R contains itself"),
        (record({"type": "map", "values": {"type": "array", "items": "R"}}), "R contains itself"),
        ("not a schema", "its schema cannot be used"),
        ("no.such.Type", "its schema cannot be used"),
    ],
)
def test_a_schema_that_a_few_bytes_could_use_to_end_the_process_is_not_read(schema: Any, error: str) -> None:
    """fastavro recurses in C, and makes a list as long as the bytes say."""
    assert error in error_of(schema, b"\x02" * 100_000)


@given(body=st.binary(max_size=60))
@settings(max_examples=300)
def test_any_bytes_decode_or_are_refused(body: bytes) -> None:
    types = [
        {"type": "long", "logicalType": "timestamp-millis"},
        ["null", {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}],
        {"type": "map", "values": {"type": "array", "items": PLACE}},
        {"type": "string", "logicalType": "uuid"},
        {"type": "int", "logicalType": "date"},
    ]
    decode = decoder_of(RegisteredSchema("AVRO", json.dumps(record(*types))))
    with suppress(UndecodableError):
        json.loads(decode(body))
