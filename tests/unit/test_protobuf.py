"""What Protobuf's types become as JSON, and that any bytes decode or are refused."""

import json
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.events import Source, ToJson, UndecodableError, ValueFormat
from stream.core.framing import FRAME_BYTES, framed
from stream.formats.decoders import decoder_of
from stream.formats.protobuf import _compiled
from stream.formats.registry import Reference, RegisteredSchema
from stream.formats.topic_decoder import TopicDecoder
from tests.schema_registry import FakeRegistry
from tests.unit.test_topic_formats import apply
from tests.world import NOW

COMMON = 'syntax = "proto3"; package shop; message Tag { string name = 1; }'
TEXT = """
syntax = "proto3";
package shop;
import "shop/common.proto";
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
message Other { message Inner { string deep = 1; } }
message Event {
  enum Action { BOUGHT = 0; CANCELLED = 1; }
  string user_id = 1;
  google.protobuf.Timestamp occurred_at = 2;
  repeated Tag tags = 3;
  Action action = 4;
  optional string session_id = 5;
  google.protobuf.StringValue event_id = 6;
  int64 large = 7;
  bytes raw = 8;
  map<string, int32> counts = 9;
  oneof which { string left = 10; int32 right = 11; }
  double share = 12;
  google.protobuf.Struct free = 13;
  Event parent = 14;
  map<bool, Tag> flags = 15;
}
"""
SCHEMA = RegisteredSchema("PROTOBUF", TEXT, (Reference("shop/common.proto", COMMON),))


@pytest.fixture(scope="module")
def decode() -> ToJson:
    return decoder_of(SCHEMA)


@pytest.fixture(scope="module")
def event() -> Any:
    """The class of the producer's messages."""
    return GetMessageClass(_compiled(SCHEMA).message_types_by_name["Event"])


def body(message: Any, *path: int) -> bytes:
    """A message as Confluent's serializer writes it after the schema's id; the path of the second message is 1."""
    indexes = [len(path), *path]
    serialized: bytes = message.SerializeToString()
    return b"".join(bytes([index << 1]) for index in indexes) + serialized


def test_each_type_becomes_what_the_guide_says(decode: ToJson, event: Any) -> None:
    message = event(user_id="u", tags=[{"name": "dog"}], action=1, session_id="", large=2**62, raw=b"\x00\xff", counts={"a": 1})
    message.occurred_at.FromJsonString("2026-11-29T13:00:00.123456Z")
    message.event_id.value = "e"
    message.right = 0
    message.share = float("nan")
    message.free.update({"x": [1, None]})
    message.parent.user_id = "v"
    message.flags[True].name = "t"
    found = json.loads(decode(body(message, 1)))
    parent = found.pop("parent")
    assert found == {
        "user_id": "u",
        "occurred_at": "2026-11-29T13:00:00.123456Z",
        "tags": [{"name": "dog"}],
        "action": "CANCELLED",
        "session_id": "",
        "event_id": "e",
        "large": 2**62,
        "raw": "AP8=",
        "counts": {"a": 1},
        "right": 0,
        "share": None,
        "free": {"x": [1, None]},
        "flags": {"true": {"name": "t"}},
    }
    unset = {"tags": [], "action": "BOUGHT", "large": 0, "raw": "", "counts": {}, "share": 0.0, "flags": {}}
    assert parent == {"user_id": "v", **unset}


def test_the_indexes_lead_to_the_message(decode: ToJson) -> None:
    """A single zero stands for the first message; a nested one has the indexes of all levels."""
    assert decode(b"\0") == decode(b"\x02\0") == b"{}"
    assert decode(b"\x04\x00\x00\x0a\x01x") == b'{"deep":"x"}'


@pytest.mark.parametrize(
    "bad", [b"", b"\x02", b"\x02\x20", b"\x01", b"\xff" * 9, b"\x02\x02\x0a\x05ab", b"\x04\x02\x08", b"\xc8\x01\x00"]
)
def test_a_body_that_is_no_message_is_refused(decode: ToJson, bad: bytes) -> None:
    with pytest.raises(UndecodableError):
        decode(bad)


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        (RegisteredSchema("PROTOBUF", "message {"), "its schema cannot be used"),
        (RegisteredSchema("PROTOBUF", 'syntax = "proto3"; import "none.proto";'), "none.proto"),
        (RegisteredSchema("PROTOBUF", TEXT, (Reference("../../escape.proto", COMMON),)), "cannot be imported"),
        (RegisteredSchema("PROTOBUF", TEXT, (Reference("/etc/escape.proto", COMMON),)), "cannot be imported"),
        (RegisteredSchema("THRIFT", ""), "its schema is of the type 'THRIFT', which is not known"),
    ],
)
def test_a_schema_that_cannot_be_compiled_costs_its_records_only(schema: RegisteredSchema, error: str) -> None:
    with pytest.raises(UndecodableError) as raised:
        decoder_of(schema)(b"\0")
    assert error in raised.value.error


def test_deeply_nested_messages_are_refused(decode: ToJson) -> None:
    """The library bounds the depth; nothing recurses further."""
    nested = b""
    for _ in range(10_000):
        size, length = len(nested), b""
        while size > 127:
            length += bytes([size & 127 | 128])
            size >>= 7
        nested = b"\x72" + length + bytes([size]) + nested
    with pytest.raises(UndecodableError):
        decode(b"\x02\x02" + nested)


@given(bad=st.binary(max_size=60))
@settings(max_examples=200)
def test_any_bytes_decode_or_are_refused(decode: ToJson, bad: bytes) -> None:
    with suppress(UndecodableError):
        json.loads(decode(b"\x02\x02" + bad))


def test_a_click_in_protobuf_is_applied(event: Any) -> None:
    from stream.services.process import field_mapper

    message = event(user_id="u", tags=[{"name": "dog"}])
    message.occurred_at.FromMilliseconds(NOW)
    with FakeRegistry() as registry:
        registry.add(COMMON, "common", "PROTOBUF")
        number = registry.add(TEXT, kind="PROTOBUF", references=[("shop/common.proto", "common")])
        to_json = TopicDecoder("formats.clicks", ValueFormat.PROTOBUF, registry.known())
        to_json.schemas.settle([number])
    mappers = {Source.CLICK: field_mapper("m", {"user_id": "user_id", "occurred_at": "occurred_at", "tags": "tags[].name"})}
    value = framed(number, body(message, 1))
    assert len(value) > FRAME_BYTES
    outcome = apply(Source.CLICK, value, decoders={Source.CLICK: to_json}, mappers=mappers)
    assert outcome.counts["events", Source.CLICK, "applied"] == 1
