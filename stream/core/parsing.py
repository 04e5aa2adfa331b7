"""From bytes to events.

Nothing here raises: what a producer sends must not stop a partition. An event or a `Rejection` with a reason is returned. Error
texts name the field and what was expected but quote no value, because values are personal data.

Strict decoders read what is well formed. What they refuse is read a second time, and what is not needed never costs an event: an
empty optional field is absent, empty tags and sentences are left out.
"""

import json
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from stream.core import limits
from stream.core.event_times import TIME_FIELDS, TimeUnit, in_milliseconds, offer_rejection, scaled
from stream.core.events import (
    INPUTS,
    JSON,
    MSGPACK,
    STEP_INPUTS,
    FieldMapper,
    Item,
    MappingError,
    Reason,
    Rejection,
    Source,
    ToJson,
    Transcript,
    UndecodableError,
    UserEvent,
)
from stream.core.framing import looks_framed, schema_id_of
from stream.core.unreadable import UnreadableValue

_DECODER_TYPES: Final = {JSON: msgspec.json.Decoder, MSGPACK: msgspec.msgpack.Decoder}
_TYPES: Final[dict[Source, Any]] = {row.source: row.event_type for row in STEP_INPUTS}
_DECODE: Final[dict[Source, Callable[[bytes], UserEvent]]] = {
    row.source: _DECODER_TYPES[row.content_type](row.event_type).decode for row in STEP_INPUTS
}
_IS_JSON: Final = {row.source: row.content_type == JSON for row in STEP_INPUTS}
_decode_transcript: Final = msgspec.json.Decoder(Transcript).decode
_decode_item: Final = msgspec.json.Decoder(Item).decode

_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_UTF_16_BEGINS: Final = (b"\xff\xfe", b"\xfe\xff")
_UTF_32_BEGINS: Final = (b"\xff\xfe\0\0", b"\0\0\xfe\xff")
_ASCII: Final = bytes(range(128))
_MOST_ACCENTED: Final = 0.3
"""Share of letters with accents in JSON of a European language; more is a binary format, or compressed."""
_QUOTED: Final = re.compile(r"""['"].*['"]""", re.DOTALL)  # from the first quote to the last: a value may contain quotes
UNUSABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)
"""What a decoder raises for bytes that it cannot use."""
_OPTIONAL: Final = {
    event_type: frozenset(field.name for field in msgspec.structs.fields(event_type) if not field.required)
    for event_type in (*_TYPES.values(), Transcript, Item)
}
_ROLES: Final[dict[type[msgspec.Struct], str]] = {**{row.event_type: row.role for row in INPUTS}, Item: "items"}
_LABELS: Final = frozenset({"session_id", "recommendation_id", "placement", "model_version"})
"""Optional texts that decide nothing about an event's identity: one that is broken Unicode is left out."""
_LARGEST_TIME: Final = 1e19  # of any unit: 64 bits
_encode: Final = msgspec.json.Encoder().encode

AnyStruct = TypeVar("AnyStruct", bound=msgspec.Struct)
Decode = Callable[[bytes], AnyStruct]


def parse(
    source: Source,
    value: bytes | None,
    mapper: FieldMapper | None = None,
    unit: TimeUnit = TimeUnit.MILLISECONDS,
    to_json: ToJson | None = None,
) -> UserEvent | Rejection:
    """The event in a record's value, with integer times in ms, or the reason why it cannot be used. Unknown fields are ignored.

    `unit` is the producer's, `to_json` turns a value in the producer's format into JSON.
    """
    if not value:
        return Rejection(Reason.EMPTY, "the record has no value: a tombstone is not an event of this topic")
    if mapper is None and unit is TimeUnit.MILLISECONDS and to_json is None:
        try:
            return _DECODE[source](value)
        except UNUSABLE as error:
            if not _IS_JSON[source]:
                return rejection_of(error, value)
    event: UserEvent | Rejection = _read(value, _TYPES[source], _DECODE[source], mapper, unit, to_json)
    return event


def parse_transcript(
    value: bytes | None,
    mapper: FieldMapper | None = None,
    unit: TimeUnit = TimeUnit.MILLISECONDS,
    to_json: ToJson | None = None,
) -> Transcript | Rejection:
    """Like `parse`, for the encoder's input."""
    if not value:
        return Rejection(Reason.EMPTY, "the record has no value: a tombstone is not a transcript")
    return _read(value, Transcript, _decode_transcript, mapper, unit, to_json)


def parse_item(
    value: bytes,
    mapper: FieldMapper | None = None,
    unit: TimeUnit = TimeUnit.MILLISECONDS,
    to_json: ToJson | None = None,
) -> Item | Rejection:
    """Like `parse`, for an item of the catalogue."""
    item = _read(value, Item, _decode_item, mapper, unit, to_json)
    return item if isinstance(item, Rejection) else offer_rejection(item, unit) or item


def key_rejection(key: bytes | None, user_id: str) -> Rejection | None:
    """Why a record's key does not fit its event, or None where it does: the key decides where a user's events meet."""
    if key is None:
        return Rejection(Reason.MISSING_KEY, "the record has no key: it must be the user id")
    if len(key) > limits.USER_ID_BYTES:
        return Rejection(Reason.INVALID, f"the user id is longer than {limits.USER_ID_BYTES} bytes")
    if key != user_id.encode():
        return Rejection(Reason.KEY_MISMATCH, mismatch_of(key, "user_id"))
    return None


def mismatch_of(key: bytes, field: str) -> str:
    """Says that a key is not the field that it must be. A key decides the partition, so that no format of keys is read."""
    if looks_framed(key):
        return f"the record's key is framed for a schema registry: it must be the {field} as plain text (a string serializer)"
    return f"the record's key is not its {field}"


def rejection_of(error: Exception, value: bytes | None = None) -> Rejection:
    """A decoder's error as a rejection, without the values that it quotes."""
    if isinstance(value, UnreadableValue):
        return Rejection(Reason.UNREADABLE, value.error)
    if isinstance(error, msgspec.ValidationError):
        return Rejection(Reason.INVALID, _QUOTED.sub("'...'", str(error)))
    if isinstance(error, RecursionError):
        return Rejection(Reason.NOT_JSON, "nested too deeply")
    if isinstance(error, msgspec.DecodeError):
        return Rejection(Reason.NOT_JSON, _QUOTED.sub("'...'", str(error)))
    return Rejection(Reason.INVALID, f"could not be read ({type(error).__name__})")


def _read(
    value: bytes,
    event_type: type[AnyStruct],
    decode: Decode[AnyStruct],
    mapper: FieldMapper | None,
    unit: TimeUnit,
    to_json: ToJson | None,
) -> AnyStruct | Rejection:
    if isinstance(value, UnreadableValue):
        return Rejection(Reason.UNREADABLE, value.error)
    if to_json is not None:
        try:
            value = to_json(value)
        except UndecodableError as error:
            return Rejection(error.reason, error.error)
    plain = value.removeprefix(_BYTE_ORDER_MARK)
    if mapper is not None:
        event = _read_mapped(plain, event_type, mapper, unit)
    else:
        try:
            return in_milliseconds(decode(plain), unit)
        except UNUSABLE as error:
            event = _read_again(plain, event_type, unit, rejection_of(error))
    if isinstance(event, Rejection) and event.reason is Reason.NOT_JSON:
        return Rejection(event.reason, _looking_like(plain, event.error, event_type))
    return event


def _looking_like(plain: bytes, error: str, event_type: type[msgspec.Struct]) -> str:
    """The error of what is not JSON, with what the bytes look like."""
    if looks_framed(plain):
        return (
            f"{error}; the bytes look like a value framed for a schema registry, with schema {schema_id_of(plain)}: "
            f"set formats.{_ROLES[event_type]} to avro, json-schema or protobuf"
        )
    encoding = _other_encoding(plain)
    return error if encoding is None else f"{error}; the bytes look like {encoding}: JSON is written in UTF-8"


def _other_encoding(plain: bytes) -> str | None:
    """The encoding that bytes look like; None where nothing speaks against UTF-8."""
    if plain.startswith(_UTF_32_BEGINS) or plain[:3] == bytes(3) or plain[1:4] == bytes(3):
        return "UTF-32"
    if plain.startswith(_UTF_16_BEGINS) or (len(plain) > 1 and 0 in plain[:2]):
        return "UTF-16"
    try:
        plain.decode()
    except UnicodeDecodeError:
        letters = len(plain.translate(None, _ASCII))
        return "Latin-1 or Windows-1252" if letters <= len(plain) * _MOST_ACCENTED else None
    return None


def _read_again(plain: bytes, event_type: type[AnyStruct], unit: TimeUnit, first: Rejection) -> AnyStruct | Rejection:
    """What the strict decoder refused, if only what is not needed was wrong with it; else why it was refused."""
    try:
        fields = _lenient_json(plain)
    except UNUSABLE:
        return first
    event = _convert(_needed(fields, event_type, unit), event_type)
    return first if isinstance(event, Rejection) and first.reason is not Reason.INVALID else event


def _read_mapped(plain: bytes, event_type: type[AnyStruct], mapper: FieldMapper, unit: TimeUnit) -> AnyStruct | Rejection:
    try:
        theirs = _lenient_json(plain)
    except UNUSABLE as error:
        return rejection_of(error)
    try:
        fields = mapper(theirs)
    except MappingError as error:
        return Rejection(Reason.MAPPING, str(error))
    except UNUSABLE as error:
        return Rejection(Reason.MAPPING, rejection_of(error).error)
    return _convert(_needed(fields, event_type, unit), event_type)


def _convert(fields: Any, event_type: type[AnyStruct]) -> AnyStruct | Rejection:
    try:
        event = msgspec.convert(fields, event_type)
        _encode(event)  # raises where an id holds half a surrogate pair: no key or changelog record could be written for it
    except UnicodeEncodeError:
        return Rejection(Reason.NOT_JSON, "an id is not valid Unicode")
    except UNUSABLE as error:
        return rejection_of(error)
    return event


def _lenient_json(plain: bytes) -> Any:
    """JSON as careless writers produce it, with NaN, control characters and broken text.

    NaN and infinities become None; half surrogates and bytes that are not UTF-8 become lone surrogates in the text. The last of
    repeated keys counts.
    """
    try:
        return msgspec.json.decode(plain)
    except UNUSABLE as strict:
        try:
            return json.loads(plain.decode(errors="surrogateescape"), parse_constant=lambda _: None, strict=False)
        except (ValueError, RecursionError):
            raise strict from None


def _needed(fields: Any, event_type: type[msgspec.Struct], unit: TimeUnit) -> Any:
    """The fields of an event without what is empty and may be absent, with integer times in ms."""
    if not isinstance(fields, dict):
        return fields
    optional = _OPTIONAL[event_type]
    needed = {
        name: _time(fields[name], unit) if name in TIME_FIELDS else fields[name]
        for name in event_type.__struct_fields__
        if name in fields and not (name in optional and _is_absent(name, fields[name]))
    }
    if event_type is Item:
        needed |= {name: _whole(needed[name]) for name in ("name", "text") if name in needed}
    if isinstance(tags := needed.get("tags"), list):
        needed["tags"] = [_whole(tag) for tag in tags if not _is_empty(tag)]
    if isinstance(sentences := needed.get("sentences"), list):
        found = [_sentence(raw, unit, is_timed="ended_at" not in needed) for raw in sentences]
        needed["sentences"] = [sentence for sentence in found if sentence is not None]
    return needed


def _sentence(raw: Any, unit: TimeUnit, *, is_timed: bool) -> Any:
    """A sentence without what is not needed; None if it has no text. `is_timed`: whether its time is needed."""
    if not isinstance(raw, dict):
        return None if _is_empty(raw) else raw
    if _is_empty(raw.get("text")):
        return None
    speaker, at = raw.get("speaker"), raw.get("at")
    sentence = {"text": _whole(raw["text"]), "speaker": _whole(speaker) if isinstance(speaker, str) else None}
    return sentence if _is_empty(at) or not is_timed else sentence | {"at": _time(at, unit)}


def _is_absent(name: str, value: Any) -> bool:
    return _is_empty(value) or (name in _LABELS and _whole(value) != value)


def _is_empty(value: Any) -> bool:
    return value is None or value == ""


def _time(value: Any, unit: TimeUnit) -> Any:
    """A number as ms; anything else, and a fraction of a ms in a topic of ms, as it is."""
    if type(value) is float:
        is_exact = abs(value) < _LARGEST_TIME and (unit is not TimeUnit.MILLISECONDS or value.is_integer())
        return scaled(value, unit) if is_exact else value
    return scaled(value, unit) if type(value) is int else value


def _whole(text: Any) -> Any:
    """A text with U+FFFD in the place of what is not Unicode."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if isinstance(text, str) else text
