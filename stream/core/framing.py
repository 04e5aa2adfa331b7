"""Recognises values that a serializer of a schema registry wrote: a zero byte, the schema's id in four bytes, then the body.

Source: https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

import struct
from typing import Final

FRAME_BYTES: Final = 5
_MAGIC: Final = 0
_FRAME: Final = struct.Struct(">bi")
_WIDE_TEXT: Final = ("utf-32-be", "utf-16-be")
_JSON_BEGINS: Final = frozenset('{[" \t\r\n')
_CONTAINER_FILE: Final = b"Obj\x01"
_SINGLE_OBJECT: Final = b"\xc3\x01"
_ID_IN_HEADER: Final = b"\x01"


def schema_id_of(value: bytes) -> int | None:
    """The id of the schema that a framed value names; None of one that is not framed."""
    if len(value) < FRAME_BYTES:
        return None
    magic, schema_id = _FRAME.unpack_from(value)
    return schema_id if magic == _MAGIC and schema_id >= 0 else None


def framed(schema_id: int, body: bytes) -> bytes:
    r"""A body under the id of its schema.

    >>> framed(7, b"body"), schema_id_of(framed(7, b"body")), schema_id_of(b"{}")
    (b'\x00\x00\x00\x00\x07body', 7, None)
    """
    return _FRAME.pack(_MAGIC, schema_id) + body


def looks_framed(value: bytes) -> bool:
    """Whether a value is framed, and no JSON in UTF-16 or UTF-32, which may begin with a zero byte too."""
    return schema_id_of(value) is not None and not any(_is_wide_json(value, encoding) for encoding in _WIDE_TEXT)


def _is_wide_json(value: bytes, encoding: str) -> bool:
    try:
        return value.decode(encoding)[:1] in _JSON_BEGINS
    except UnicodeDecodeError:
        return False


def why_not_framed(value: bytes) -> str:
    """What a value looks like that ought to be framed and is not."""
    if value.lstrip()[:1] in {b"{", b"["}:
        return "it looks like JSON"
    if value.startswith(_CONTAINER_FILE):
        return "it looks like a whole Avro file"
    if value.startswith(_SINGLE_OBJECT):
        return "it looks like Avro's single-object encoding, which names no schema registry"
    if value.startswith(_ID_IN_HEADER):
        return "it looks as if its schema were named by a GUID, which is not read"
    return f"it begins with the byte {value[0]:#04x} and has {len(value)} bytes"
