"""Every compression codec of Kafka, from any client. The batches of Java's client and librdkafka were recorded on a broker."""

import base64
import gzip
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cramjam
import pytest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from stream.core.unreadable import UnreadableValue
from stream.kafka.cluster import decompression
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


CODECS = pytest.mark.parametrize("codec", [1, 2, 3, 4], ids=["gzip", "snappy", "lz4", "zstd"])
BOUND = 1 << 20


def one_value(codec: int, size: int) -> bytes:
    """A batch with one value of zeros."""
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 2 * size + 1_000)
    builder.append(0, 1_000, b"k", bytes(size), [])
    return bytes(builder.build())


@READERS
@CODECS
def test_a_batch_that_grows_beyond_the_bound_is_unreadable_and_never_decompressed(
    read: Reader, codec: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record becomes a dead letter that says why; the partition goes on; memory stays within the bound."""
    monkeypatch.setattr("stream.kafka.cluster.decompression.BATCH_BYTES", BOUND)
    following = one_value(0, 3)
    batch = one_value(codec, 8 * BOUND)
    tracemalloc.start()
    records, position = read(batch + seal(struct.pack(">q", 1) + following[8:]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(records[0].value, UnreadableValue)
    assert f"more than {BOUND} bytes" in records[0].value.error
    assert (records[1].offset, bytes(records[1].value), position) == (1, bytes(3), 2)
    assert peak < 6 * BOUND


@READERS
@CODECS
@pytest.mark.parametrize("below", [2_000, 200, 0, -200])
def test_the_bound_is_exact(read: Reader, codec: int, below: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of at most that size is read, however well it was compressed."""
    monkeypatch.setattr("stream.kafka.cluster.decompression.BATCH_BYTES", BOUND)
    size = len(one_value(0, BOUND)) - 61 - BOUND  # what else the record has
    records, _ = read(one_value(codec, BOUND - size - below))
    assert isinstance(records[0].value, UnreadableValue) == (below < 0)


@CODECS
@given(
    values=st.lists(st.binary(max_size=200) | st.integers(0, 300_000).map(bytes), min_size=1, max_size=5),
    bound=st.integers(1, 1 << 20),
)
def test_no_batch_beyond_the_bound_is_left_to_a_library(codec: int, values: list[bytes], bound: int) -> None:
    """Whatever it holds: `may_be_too_large` never says no of one that is."""
    payload = b"".join([b"0", *values])
    compress: Callable[[bytes], bytes] = {1: _gzip, 2: _xerial, 3: _lz4, 4: _zstd}[codec]
    compressed = compress(payload)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decompression, "BATCH_BYTES", bound)
        if len(payload) <= bound:
            assert decompression.decompress(codec, compressed) == payload
        else:
            assert decompression.may_be_too_large(codec, compressed)
            with pytest.raises(decompression.TooLargeError):
                decompression.decompress(codec, compressed)


def _gzip(payload: bytes) -> bytes:
    return gzip.compress(payload)


def _xerial(payload: bytes) -> bytes:
    from kafka.codec import snappy_encode

    return bytes(snappy_encode(payload))


def _lz4(payload: bytes) -> bytes:
    return bytes(cramjam.lz4.compress(payload))


def _zstd(payload: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(payload, level=19))


def test_an_ordinary_batch_is_left_to_the_library() -> None:
    """A megabyte of JSON with each codec; a repetition of more than the bound is not."""
    events = b"".join(
        json.dumps({"user_id": f"user-{number * 7919 % 9973}", "at": number * 317}).encode() for number in range(20_000)
    )
    for codec, compress in ((2, _xerial), (4, _zstd)):
        assert not decompression.may_be_too_large(codec, compress(events))
    assert decompression.may_be_too_large(4, _zstd(bytes(decompression.BATCH_BYTES + (1 << 20))))


@READERS
def test_snappy_blocks_with_a_little_endian_version_are_read(read: Reader) -> None:
    """Some brokers and clients write the framing's version in the other byte order."""
    batch = bytearray(base64.b64decode(RECORDED["java-snappy"]))
    assert batch[61:77] == b"\x82SNAPPY\x00\x00\x00\x00\x01\x00\x00\x00\x01"
    batch[69:77] = b"\x01\x00\x00\x00\x01\x00\x00\x00"
    records, _ = read(seal(batch))
    assert [record.key for record in records] == [b"user-0", b"user-1", b"user-2"]
