"""Avro: the schema that wrote a value reads it, and what it holds becomes JSON.

| Avro | JSON |
| --- | --- |
| record, map; array | object; array |
| union | the value itself, null for null |
| enum | its symbol |
| bytes, fixed | base64 |
| timestamp-millis, timestamp-micros | RFC 3339 in UTC |
| local-timestamp-millis, local-timestamp-micros | the same without a zone |
| date, time-millis, time-micros | RFC 3339 |
| decimal | text, such as "12.50" |
| uuid | text |
| NaN, infinity | null |
| other logical types | as their underlying type |
"""

import io
import json
from collections.abc import Mapping
from typing import Any, Final

import fastavro
import msgspec

from stream.core.events import ToJson, UndecodableError
from stream.formats.registry import RegisteredSchema

_ROOT: Final = "isthmus_root"
_VALUE: Final = "value"
_encode: Final = msgspec.json.Encoder().encode


class UnsafeSchemaError(ValueError):
    """A schema that a few bytes could use to end the process."""


def compile_avro(schema: RegisteredSchema) -> ToJson:
    """Returns the function from a body to JSON.

    Raises:
        UnsafeSchemaError: the schema contains itself, or has an array of what takes no bytes.
        Exception: of fastavro, for what is no schema.
    """
    named: dict[str, Any] = {}
    for reference in schema.references:
        fastavro.parse_schema(json.loads(reference.text), named_schemas=named)
    # A record around it has the same bytes, and is the only kind of schema that keeps the named types.
    root = {"type": "record", "name": _ROOT, "fields": [{"name": _VALUE, "type": json.loads(schema.text)}]}
    parsed = fastavro.parse_schema(root, named_schemas=named)
    _Checked(named).may_be_empty(parsed)

    def to_json(body: bytes) -> bytes:
        content = _read(body, parsed, "strict")
        try:
            return _encode(content[_VALUE])
        except UnicodeEncodeError:  # half surrogates, as JSON writes them
            return json.dumps(content[_VALUE], default=msgspec.to_builtins).encode()

    return to_json


def _read(body: bytes, parsed: Any, unicode_errors: str) -> Any:
    stream = io.BytesIO(body)
    try:
        content: Any = fastavro.schemaless_reader(stream, parsed, None, handle_unicode_errors=unicode_errors)
    except UnicodeDecodeError:
        if unicode_errors != "strict":
            raise
        return _read(body, parsed, "surrogateescape")
    left = len(body) - stream.tell()
    if left:
        raise UndecodableError(f"the value does not decode with its schema: {left} bytes are left")
    return content


class _Checked:
    """Finds what a few bytes could use to end the process.

    fastavro reads nested values by recursion in C, which a deep one would overflow, and counts items before it reads them: an
    array of a billion nulls takes six bytes.
    """

    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._may_be_empty: dict[str, bool] = {}

    def may_be_empty(self, schema: Any, within: tuple[str, ...] = ()) -> bool:
        """Returns whether a value of a parsed schema may take no bytes at all.

        Raises:
            UnsafeSchemaError: a record contains itself, or an array holds what takes no bytes.
        """
        if isinstance(schema, list):
            for one in schema:
                self.may_be_empty(one, within)
            return False
        if isinstance(schema, str):
            return schema == "null" or (schema in self._named and self._of_named(schema, within))
        kind = schema["type"]
        if isinstance(kind, dict | list) or kind in self._named:
            return self.may_be_empty(kind, within)
        if kind == "array" and self.may_be_empty(schema["items"], within):
            raise UnsafeSchemaError("an array of what takes no bytes is not read")
        if kind == "map":
            self.may_be_empty(schema["values"], within)
        if kind in {"record", "error"}:
            return self._of_named(schema["name"], within, schema)
        return kind == "null" or _is_nothing(schema)

    def _of_named(self, name: str, within: tuple[str, ...], schema: Any = None) -> bool:
        if name in within:
            raise UnsafeSchemaError(f"{name} contains itself, which is not read")
        if name not in self._may_be_empty:
            found = self._named[name] if schema is None else schema
            inner = (*within, name)
            empty = (
                [self.may_be_empty(one["type"], inner) for one in found["fields"]] if "fields" in found else [_is_nothing(found)]
            )
            self._may_be_empty[name] = all(empty)
        return self._may_be_empty[name]


def _is_nothing(schema: Any) -> bool:
    return bool(schema["type"] == "fixed" and schema["size"] == 0)
