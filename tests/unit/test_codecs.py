"""Every compression codec of Kafka, from any client. The batches of Java's client and librdkafka were recorded on a broker."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from stream.kafka.cluster.record_batches import read_batch
from tests.batches import read_as_aiokafka, read_as_kafka_python, seal

RECORDED = json.loads((Path(__file__).parent / "recorded" / "compressed_batches.json").read_text())
READERS = pytest.mark.parametrize("read", [read_as_aiokafka, read_as_kafka_python], ids=["aiokafka", "kafka-python"])
Reader = Callable[[bytes], tuple[list[Any], int]]


@READERS
@pytest.mark.parametrize("name", RECORDED)
def test_batches_of_other_clients_are_read(read: Reader, name: str) -> None:
    """Java's client and librdkafka frame the same codecs differently; three records each."""
    data = base64.b64decode(RECORDED[name])
    records, position = read(data)
    assert [(record.key, json.loads(record.value)["number"]) for record in records] == [
        (b"user-0", 0),
        (b"user-1", 1),
        (b"user-2", 2),
    ]
    assert position == 3
    assert [(record.key, record.value) for record in read_batch(data)] == [(record.key, record.value) for record in records]


@READERS
@pytest.mark.parametrize("codec", [1, 2, 3, 4], ids=["gzip", "snappy", "lz4", "zstd"])
def test_batches_of_a_megabyte_are_read(read: Reader, codec: int) -> None:
    """Many blocks or frames of a codec: aiokafka's own batches, larger than any block size."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 8 << 20)
    values = [b"%d" % number * 20_000 for number in range(100)]
    for number, value in enumerate(values):
        builder.append(number, 1_000, b"k", value, [])
    records, _ = read(bytes(builder.build()))
    assert [record.value for record in records] == values


@READERS
def test_snappy_blocks_with_a_little_endian_version_are_read(read: Reader) -> None:
    """Some brokers and clients write the framing's version in the other byte order."""
    batch = bytearray(base64.b64decode(RECORDED["java-snappy"]))
    assert batch[61:77] == b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"
    batch[69:77] = b"\x01\x00\x00\x00\x01\x00\x00\x00"
    records, _ = read(seal(batch))
    assert [record.key for record in records] == [b"user-0", b"user-1", b"user-2"]
