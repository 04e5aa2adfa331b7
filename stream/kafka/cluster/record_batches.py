"""Reads a record batch (format v2) that the client library refuses, record by record: what parses is kept, the rest is named.

Slow and only for broken batches: the client libraries read the others. Nothing here knows a consumer or a topic.
Source: https://kafka.apache.org/documentation/#recordbatch
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from stream.core.records import Headers
from stream.core.unreadable import UnreadableValue
from stream.kafka.cluster.decompression import decompress, may_be_too_large

_HEADER: Final = struct.Struct(">qiibIhiqqqhii")
_LENGTH_ENDS: Final = 12  # base offset and length, which the length does not count
_CONTROL: Final = 0x20
_LOG_APPEND_TIME: Final = 0x08
_CODEC: Final = 0x07
_MOST_NAMED: Final = 100_000
"""More missing records than this are named by one: a broken count must not make a million dead letters."""
_LEGACY_FIELDS_END: Final = (18, 26)
"""Of a message in format v0 and v1; key and value follow, each after its length."""


class BatchRecord(NamedTuple):
    """A record of a batch; its value is an `UnreadableValue` where it does not parse."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_type: int = 0
    checksum: None = None


class BatchHeader(NamedTuple):
    """The fixed part of a batch, in the order of its bytes."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    record_count: int

    @property
    def next_offset(self) -> int:
        return self.base_offset + max(0, self.last_offset_delta) + 1

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & _CONTROL)


class _Fields(NamedTuple):
    """The fields of one record as far as they parse; `end` is where the last one ends, `error` why there are no more."""

    offset_delta: int | None = None
    timestamp_delta: int = 0
    key: bytes | None = None
    value: bytes | None = None
    value_parses: bool = False
    headers: Headers = ()
    end: int | None = None
    error: str | None = None


class _FieldError(Exception):
    """A field that cannot be right."""


def header_of(batch: bytes) -> BatchHeader | None:
    """The header of a batch; None where the batch is too short, or of a format before v2."""
    if len(batch) < _HEADER.size:
        return None
    header = BatchHeader(*_HEADER.unpack_from(batch))
    return header if header.magic == 2 else None


def bounded(batch: bytes) -> bytes:
    """Returns a batch that a client library can decompress without harm: the same, or one that is decompressed already.

    Raises:
        ValueError: It would be too large, or may be and does not decompress.
    """
    header = header_of(batch)
    if header is None:
        _check_legacy(batch)
        return batch
    codec = header.attributes & _CODEC
    if not codec or not may_be_too_large(codec, batch[_HEADER.size :]):
        return batch
    payload = _payload(batch, header)
    length = _HEADER.size - _LENGTH_ENDS + len(payload)
    return _HEADER.pack(*header._replace(length=length, attributes=header.attributes & ~_CODEC)) + payload


def _check_legacy(batch: bytes) -> None:
    magic, attributes = batch[16], batch[17]
    if codec := attributes & _CODEC:
        position = _LEGACY_FIELDS_END[min(magic, 1)]
        (key_bytes,) = struct.unpack_from(">i", batch, position)
        payload = batch[position + max(0, key_bytes) + 8 :]
        if may_be_too_large(codec, payload):
            decompress(codec, payload)


def read_batch(batch: bytes) -> list[BatchRecord]:
    """All records of a batch that holds something unreadable, in order of their offsets.

    A record that does not parse becomes one whose value is an `UnreadableValue`. Where the batch does not decompress, or the rest
    of it cannot be divided into records, there is one such record for each that its header counts.
    """
    header = header_of(batch)
    if header is None:
        base_offset = struct.unpack_from(">q", batch)[0] if len(batch) >= 8 else 0
        return [BatchRecord(base_offset, 0, None, UnreadableValue.of("the batch is too short, or of an old format"), ())]
    try:
        payload = _payload(batch, header)
    except Exception as error:  # noqa: BLE001  (whatever a decompressor raises)
        return _missing(header, -1, header.record_count, f"the batch does not decompress ({error or type(error).__name__})")
    return _records(payload, header)


def _payload(batch: bytes, header: BatchHeader) -> bytes:
    data = bytes(batch[_HEADER.size : _LENGTH_ENDS + header.length])
    codec = header.attributes & _CODEC
    return decompress(codec, data) if codec else data


def _records(payload: bytes, header: BatchHeader) -> list[BatchRecord]:
    """Goes from record to record by their lengths; where a length is wrong, by the end of the record's fields."""
    records: list[BatchRecord] = []
    position, last_delta, error = 0, -1, None
    while position < len(payload):
        fields, following = _one(payload, position, last_delta, header)
        if following is None:
            error = fields.error
            break
        if last_delta == header.last_offset_delta:
            break
        record = _record(fields, header, last_delta)
        last_delta = record.offset - header.base_offset
        records.append(record)
        position = following
    missing = header.record_count - len(records)
    if missing > 0 or error is not None:
        text = error or f"the batch counts {header.record_count} records and holds {len(records)}"
        records += _missing(header, last_delta, missing, f"the rest of the batch does not parse: {text}")
    return records


def _one(payload: bytes, position: int, last_delta: int, header: BatchHeader) -> tuple[_Fields, int | None]:
    """The record at a position and where the next one begins; None where no place makes sense."""
    try:
        length, body = _varint(payload, position)
    except _FieldError as error:
        return _Fields(error=str(error)), None
    framed = body + length
    fields = _fields(payload, body, framed if 0 < length <= len(payload) - body else len(payload))
    if fields.error is None and not _is_next(fields.offset_delta, last_delta, header):
        fields = fields._replace(error=f"offset delta {fields.offset_delta} is out of order")
    if fields.error is None and fields.end == framed:
        return fields, framed
    delta = fields.offset_delta if _is_next(fields.offset_delta, last_delta, header) else last_delta + 1
    for end in (framed, _fields(payload, body, len(payload)).end):
        if end is not None and body < end <= len(payload) and _begins(payload, end, delta or 0, header):
            return fields._replace(
                error=fields.error or f"its length says {length} bytes, its fields {(fields.end or 0) - body}"
            ), end
    return fields._replace(error=fields.error or f"a record's length of {length} bytes is wrong"), None


def _begins(payload: bytes, position: int, last_delta: int, header: BatchHeader) -> bool:
    """Whether a position is the end of the batch or the beginning of a record."""
    if position == len(payload):
        return True
    try:
        length, body = _varint(payload, position)
    except _FieldError:
        return False
    if not 0 < length <= len(payload) - body:
        return False
    fields = _fields(payload, body, body + length)
    return payload[body] == 0 and _is_next(fields.offset_delta, last_delta, header)


def _is_next(delta: int | None, last_delta: int, header: BatchHeader) -> bool:
    """Whether an offset can follow; only compaction leaves gaps."""
    if delta is None or not last_delta < delta <= header.last_offset_delta:
        return False
    return delta == last_delta + 1 or header.record_count != header.last_offset_delta + 1


def _record(fields: _Fields, header: BatchHeader, last_delta: int) -> BatchRecord:
    delta = fields.offset_delta if _is_next(fields.offset_delta, last_delta, header) else last_delta + 1
    assert delta is not None
    is_append_time = bool(header.attributes & _LOG_APPEND_TIME) or not fields.value_parses
    at_ms = header.max_timestamp if is_append_time else header.first_timestamp + fields.timestamp_delta
    value = fields.value
    if fields.error is not None:
        value = UnreadableValue.of(fields.error, original=fields.value if fields.value_parses else None)
    return BatchRecord(header.base_offset + delta, at_ms, fields.key, value, fields.headers)


def _missing(header: BatchHeader, last_delta: int, count: int, error: str) -> list[BatchRecord]:
    """Unreadable records after the last one that was found, within the batch's offsets: at least one where any is left."""
    left = header.last_offset_delta - last_delta
    if left <= 0:
        return []
    number = count if 0 < count <= left and count <= _MOST_NAMED else 1
    if number == 1:
        first, last = header.base_offset + last_delta + 1, header.base_offset + header.last_offset_delta
        error += f" (offsets {first} to {last})"
    value = UnreadableValue.of(error)
    at_ms = max(0, header.max_timestamp)
    return [BatchRecord(header.base_offset + last_delta + 1 + index, at_ms, None, value, ()) for index in range(number)]


def _fields(payload: bytes, position: int, end: int) -> _Fields:
    """The fields of a record between two positions, up to the first that is wrong."""
    fields = _Fields()
    try:
        _, position = _take(payload, position, 1, end, "attributes")  # no bit has a meaning yet
        delta, position = _varint(payload, position)
        fields = fields._replace(timestamp_delta=delta)
        delta, position = _varint(payload, position)
        fields = fields._replace(offset_delta=delta)
        key, position = _bytes(payload, position, end, "key")
        fields = fields._replace(key=key)
        value, position = _bytes(payload, position, end, "value")
        fields = fields._replace(value=value, value_parses=True)
        raw, position = _headers(payload, position, end)
    except _FieldError as error:
        return fields._replace(error=str(error))
    headers = tuple((name.decode(errors="backslashreplace"), value) for name, value in raw)
    is_utf8 = all(decoded.encode() == name for (decoded, _), (name, _) in zip(headers, raw, strict=True))
    return fields._replace(headers=headers, end=position, error=None if is_utf8 else "the name of a header is not UTF-8")


def _headers(payload: bytes, position: int, end: int) -> tuple[Sequence[tuple[bytes, bytes]], int]:
    count, position = _varint(payload, position)
    if not 0 <= count <= end - position:
        raise _FieldError(f"{count} headers cannot be")
    headers = []
    for _ in range(count):
        name, position = _bytes(payload, position, end, "name of a header")
        if name is None:
            raise _FieldError("the name of a header is null")
        value, position = _bytes(payload, position, end, "value of a header")
        headers.append((name, value or b""))
    return headers, position


def _bytes(payload: bytes, position: int, end: int, what: str) -> tuple[bytes | None, int]:
    length, position = _varint(payload, position)
    if length == -1:
        return None, position
    return _take(payload, position, length, end, what)


def _take(payload: bytes, position: int, length: int, end: int, what: str) -> tuple[bytes, int]:
    if not 0 <= length <= end - position:
        raise _FieldError(f"{what}: a length of {length} bytes where {max(0, end - position)} are left")
    return payload[position : position + length], position + length


def _varint(payload: bytes, position: int) -> tuple[int, int]:
    """A zigzag variable-length integer of at most 64 bits, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if position >= len(payload):
            raise _FieldError("the batch ends within a number")
        byte = payload[position]
        position += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), position
    raise _FieldError("a number is longer than 64 bits")
