"""Protobuf: the registry's .proto files are compiled, and what a message holds becomes JSON.

| Protobuf | JSON |
| --- | --- |
| message, map; repeated | object, by the names in the .proto file; array |
| a field without presence that is not set | its default: "", 0, false, the first symbol, [] |
| optional, message or oneof that is not set | absent |
| enum | its symbol; the number where there is none |
| 64-bit integers | numbers |
| bytes | base64 |
| google.protobuf.Timestamp | RFC 3339 in UTC |
| google.protobuf.StringValue and the other wrappers | the value itself |
| Duration, Struct, Value, ListValue, FieldMask | as Protobuf's own JSON has them |
| NaN, infinity | null |
"""

import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from stream.core.events import ToJson, UndecodableError
from stream.formats.registry import RegisteredSchema

_MAIN: Final = "isthmus_main.proto"
_COMPILES_S: Final = 30.0
_WELL_KNOWN: Final = "google.protobuf."
_WRAPPERS: Final = "google/protobuf/wrappers.proto"
_MOST_INDEXES: Final = 100
_encode: Final = msgspec.json.Encoder().encode


def compile_protobuf(schema: RegisteredSchema) -> ToJson:
    """Returns the function from a body, the message's place in the file and the message, to JSON.

    Raises:
        ValueError: the schema does not compile.
    """
    file = _compiled(schema)

    @lru_cache(maxsize=256)
    def message_at(path: tuple[int, ...]) -> type[Message]:
        nested: Sequence[Descriptor] = list(file.message_types_by_name.values())
        found: Descriptor | None = None
        for index in path:
            if not 0 <= index < len(nested):
                raise UndecodableError("the value names a message that its schema does not have")
            found = nested[index]
            nested = found.nested_types
        assert found is not None  # a path has an index at least
        return GetMessageClass(found)

    def to_json(body: bytes) -> bytes:
        path, begins = _message_path(body)
        message = message_at(path)()
        message.ParseFromString(body[begins:])
        return _encode(_content(message))

    return to_json


def _compiled(schema: RegisteredSchema) -> FileDescriptor:
    """The schema's file. The compiler runs in a process of its own: it takes what anyone may register."""
    with TemporaryDirectory(prefix="isthmus-proto-") as name:
        folder = Path(name)
        for file, text in [(_MAIN, schema.text), *schema.references]:
            path = folder / _import_path(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_imports", "--descriptor_set_out=out", _MAIN]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_COMPILES_S, check=False)  # noqa: S603
        if done.returncode:
            raise ValueError(done.stderr.strip() or "it does not compile")
        files = FileDescriptorSet.FromString((folder / "out").read_bytes())
    pool = DescriptorPool()
    for one in files.file:
        pool.AddSerializedFile(one.SerializeToString())
    return pool.FindFileByName(_MAIN)


def _import_path(name: str) -> PurePosixPath:
    """The name of a reference as a path below a folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"{name!r} cannot be imported")
    return path


def _message_path(body: bytes) -> tuple[tuple[int, ...], int]:
    """The indexes that lead to the message from the file's level down, and where the message begins. One zero: the first."""
    count, position = _varint(body, 0)
    if not 0 <= count <= _MOST_INDEXES:
        raise UndecodableError("the value does not begin with the indexes of a message")
    indexes = []
    for _ in range(count):
        index, position = _varint(body, position)
        indexes.append(index)
    return tuple(indexes) or (0,), position


def _varint(body: bytes, position: int) -> tuple[int, int]:
    """A zigzag variable-length integer, and where it ends."""
    number = 0
    for shift in range(0, 35, 7):
        if position >= len(body):
            break
        byte = body[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), position
    raise UndecodableError("the value does not begin with the indexes of a message")


def _content(message: Any) -> Any:
    descriptor = message.DESCRIPTOR
    if descriptor.file.name == _WRAPPERS:
        return message.value
    if descriptor.full_name.startswith(_WELL_KNOWN):
        return json_format.MessageToDict(message)
    return {
        field.name: _field(message, field) for field in descriptor.fields if not field.has_presence or message.HasField(field.name)
    }


def _field(message: Any, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if not field.is_repeated:
        return _value(value, field)
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        kind = inner.fields_by_name["value"]
        return {_key(key): _value(one, kind) for key, one in value.items()}
    return [_value(one, field) for one in value]


def _value(value: Any, field: FieldDescriptor) -> Any:
    if field.message_type is not None:
        return _content(value)
    if field.enum_type is not None:
        symbol = field.enum_type.values_by_number.get(value)
        return value if symbol is None else symbol.name
    return value


def _key(key: Any) -> str:
    """A key of a map as JSON has it."""
    return str(key).lower() if isinstance(key, bool) else str(key)
