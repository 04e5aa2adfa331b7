"""Record batches for tests: built, damaged, and read as either client reads them."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aiokafka.structs import TopicPartition
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords
from kafka.record.util import calc_crc32c

from stream.kafka.cluster.batch_reading import FetchedBatches, TolerantKafkaPythonRecords, TolerantPartitionRecords
from stream.kafka.cluster.corrupt_batches import CorruptBatchPolicy, RaiseAtCorruptBatch

RECORDS_BEGIN = 61
ATTRIBUTES = 22
COUNT = 57


def build(values: Sequence[bytes] = (b"0", b"1", b"2"), base_offset: int = 0, codec: int = 0) -> bytes:
    """A batch with the keys k0, k1 ... and one header h: v each."""
    builder = DefaultRecordBatchBuilder(2, codec, False, -1, -1, -1, 1 << 20)
    for number, value in enumerate(values):
        builder.append(number, 1_000 + number, b"k%d" % number, value, [("h", b"v")])
    return struct.pack(">q", base_offset) + bytes(builder.build())[8:]


def seal(batch: bytes | bytearray) -> bytes:
    """The batch with the checksum of its bytes, as a broker stores what a wrong producer sends."""
    sealed = bytearray(batch)
    struct.pack_into(">I", sealed, 17, calc_crc32c(bytes(sealed[21:])))
    return bytes(sealed)


def with_byte(batch: bytes, index: int, value: int) -> bytes:
    changed = bytearray(batch)
    changed[index] = value
    return bytes(changed)


def with_count(batch: bytes, count: int) -> bytes:
    changed = bytearray(batch)
    struct.pack_into(">i", changed, COUNT, count)
    return seal(changed)


def with_length(batch: bytes, length: int) -> bytes:
    """The batch with another length in its header, which no checksum covers."""
    return batch[:8] + struct.pack(">i", length) + batch[12:]


def damage(batch: bytes) -> bytes:
    """The batch with a last byte that its checksum does not fit."""
    return with_byte(batch, len(batch) - 1, batch[-1] ^ 0xFF)


def read_as_aiokafka(data: bytes, policy: CorruptBatchPolicy | None = None, position: int = 0) -> tuple[list[Any], int]:
    """The records of a fetch, and the next position."""
    tp = TopicPartition("clicks", 0)
    records = TolerantPartitionRecords(
        tp, FetchedBatches(data), [], position, None, None, policy or RaiseAtCorruptBatch(), isolation_level=1
    )
    return list(records), records.next_fetch_offset


def read_as_kafka_python(data: bytes, policy: CorruptBatchPolicy | None = None, position: int = 0) -> tuple[list[Any], int]:
    """The records of a fetch, and the next position."""
    records = TolerantKafkaPythonRecords(
        position, TopicPartition("clicks", 0), MemoryRecords(data), check_crcs=policy or RaiseAtCorruptBatch(), isolation_level=1
    )
    taken = records.take()
    return taken + (records.take() if records else []), records.next_fetch_offset  # a raised error comes with the second call


class NotUtf8(str):
    """A header's name whose bytes are no text; producers in other languages send such."""

    __slots__ = ()

    def encode(self, *_: str, **__: str) -> bytes:
        return b"\xff\xfe"


def edit_segment(folder: Path, marker: bytes, change: Callable[[bytes], bytes]) -> None:
    """Changes the first batch that holds some bytes in the first segment of a partition, whose broker is stopped."""
    segment = folder / f"{0:020d}.log"
    data, position = segment.read_bytes(), 0
    while position < len(data):
        end = position + 12 + int.from_bytes(data[position + 8 : position + 12], "big")
        if marker in data[position:end]:
            segment.write_bytes(data[:position] + change(data[position:end]) + data[end:])
            return
        position = end
    raise AssertionError(f"no batch holds {marker!r}")
