"""Turns a schema into the function that decodes what was written with it. Each format's library is imported when it is needed."""

from importlib import import_module
from typing import Final

from stream.core.events import ToJson, UndecodableError, ValueFormat
from stream.core.poison import INFRASTRUCTURE_ERRORS
from stream.errors import IsthmusError
from stream.formats.registry import RegisteredSchema

FORMAT_OF_TYPE: Final = {"AVRO": ValueFormat.AVRO, "JSON": ValueFormat.JSON_SCHEMA, "PROTOBUF": ValueFormat.PROTOBUF}
_LIBRARIES: Final = {ValueFormat.AVRO: ("fastavro",), ValueFormat.PROTOBUF: ("google.protobuf", "grpc_tools.protoc")}


def require_library(form: ValueFormat, setting: str) -> None:
    """Raises IsthmusError if a library is missing that a format needs."""
    for library in _LIBRARIES.get(form, ()):
        try:
            import_module(library)
        except ImportError:
            raise IsthmusError(f"setting {setting}: {form} needs {library}: pip install 'isthmus[formats]'") from None


def decoder_of(schema: RegisteredSchema) -> ToJson:
    """Returns the function from a body, what follows the schema's id, to JSON. It raises UndecodableError, also where the schema
    cannot be used at all: that costs the records that were written with it, and no other.
    """
    form = FORMAT_OF_TYPE.get(schema.type)
    if form is None:
        return refusing(f"its schema is of the type {schema.type[:20]!r}, which is not known")
    try:
        return _guarded(_compile(form, schema))
    except INFRASTRUCTURE_ERRORS:
        raise
    except Exception as error:  # noqa: BLE001  (libraries raise what they like for a schema that they do not take)
        return refusing(f"its schema cannot be used ({_what(error)})")


def _compile(form: ValueFormat, schema: RegisteredSchema) -> ToJson:
    if form is ValueFormat.AVRO:
        from stream.formats.avro import compile_avro  # noqa: PLC0415  (optional)

        return compile_avro(schema)
    if form is ValueFormat.PROTOBUF:
        from stream.formats.protobuf import compile_protobuf  # noqa: PLC0415  (optional)

        return compile_protobuf(schema)
    return _as_it_is


def _as_it_is(body: bytes) -> bytes:
    """A value of a JSON schema is JSON. What it must hold is checked as in any other topic."""
    return body


def _guarded(decode: ToJson) -> ToJson:
    def guarded(body: bytes) -> bytes:
        try:
            return decode(body)
        except (UndecodableError, *INFRASTRUCTURE_ERRORS):
            raise
        except Exception as error:  # noqa: BLE001  (libraries raise what they like for bytes that they do not take)
            raise UndecodableError(f"the value does not decode with its schema ({type(error).__name__})") from None

    return guarded


def refusing(error: str) -> ToJson:
    """The decoder of what was written with a schema that cannot be used."""

    def refuse(_: bytes) -> bytes:
        raise UndecodableError(error)

    return refuse


def _what(error: Exception) -> str:
    """An error over a schema, which holds no personal data."""
    return f"{type(error).__name__}: {error}"[:300]
