"""Decompresses the payload of a record batch up to a bound: a megabyte may stand for gigabytes, and would end the process.

Both client libraries decompress without a bound. Most batches cannot exceed it, by the best ratio of their codec or by the sizes
they declare; these are left to the libraries, so that no batch is decompressed twice.
Sources: RFC 1952 (gzip), RFC 8878 (zstd), https://github.com/google/snappy/blob/main/format_description.txt and
https://github.com/xerial/snappy-java for snappy, https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md.
"""

import mmap
import struct
import zlib
from typing import Any, Final

import cramjam
from kafka.codec import snappy_decode

from stream.core import limits

BATCH_BYTES: Final = 8 * limits.RECORD_BYTES
"""Largest decompressed batch. Producers fill a batch by its compressed size, of at most 1 MiB by default, or 8 MiB in our topics;
JSON shrinks to a tenth, rarely to a fiftieth. It lies in memory two or three times while it is read.
"""
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
NAMES: Final = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
_BEST_RATIOS: Final = {GZIP: 1_032, SNAPPY: 64, LZ4: 255, ZSTD: 1 << 17}
"""No codec makes more bytes of one: deflate's match in two bits, snappy's copy of 64, lz4's lengths, zstd's repetition."""
_ZSTD_FRAME: Final = 0xFD2FB528
_ZSTD_BLOCK_BYTES: Final = 1 << 17
_ZSTD_SKIPPABLE: Final = 0x184D2A50
_SNAPPY_FRAMING: Final = b"\x82SNAPPY\0"
_SNAPPY_FRAMING_ENDS: Final = 16


class TooLargeError(ValueError):
    """A batch that would be larger than `BATCH_BYTES`."""

    def __init__(self) -> None:
        super().__init__(f"it would take more than {BATCH_BYTES} bytes")


def may_be_too_large(codec: int, data: bytes) -> bool:
    """Whether a payload might exceed `BATCH_BYTES`, without decompressing it. What is broken might."""
    if len(data) * _BEST_RATIOS.get(codec, 0) <= BATCH_BYTES:
        return False
    try:
        if codec == SNAPPY:
            return _snappy_bytes(data) > BATCH_BYTES
        return codec != ZSTD or _zstd_blocks(data) * _ZSTD_BLOCK_BYTES > BATCH_BYTES
    except (struct.error, IndexError, cramjam.DecompressionError):
        return True


def decompress(codec: int, data: bytes) -> bytes:
    """Returns the decompressed payload.

    Raises:
        TooLargeError: it would be larger than `BATCH_BYTES`.
        ValueError: the codec is unknown, or the payload is broken.
    """
    if codec not in NAMES:
        raise ValueError(f"compression codec {codec} is unknown")
    try:
        if codec == GZIP:
            return _gunzip(data)
        if codec == SNAPPY:
            return _unsnappy(data)
        return _into_bound(cramjam.lz4 if codec == LZ4 else cramjam.zstd, data)
    except TooLargeError:
        raise
    except Exception as error:
        raise ValueError(f"{NAMES[codec]}: {type(error).__name__}") from error


def _gunzip(data: bytes) -> bytes:
    """All members of a gzip file, one after the other."""
    found = bytearray()
    while data:
        member = zlib.decompressobj(wbits=31)
        found += member.decompress(data, BATCH_BYTES + 1 - len(found))
        if len(found) > BATCH_BYTES:
            raise TooLargeError
        if not member.eof:
            raise EOFError
        data = member.unused_data.lstrip(b"\0")
    return bytes(found)


def _unsnappy(data: bytes) -> bytes:
    if _snappy_bytes(data) > BATCH_BYTES:
        raise TooLargeError
    decompressed: bytes = snappy_decode(data)
    return decompressed


def _into_bound(library: Any, data: bytes) -> bytes:
    """Decompresses into memory that takes no place before it is written."""
    with mmap.mmap(-1, BATCH_BYTES) as found:
        try:
            size = library.decompress_into(data, found)
        except cramjam.DecompressionError as error:
            if "write whole buffer" in str(error):
                raise TooLargeError from error
            raise
        return found[:size]


def _snappy_bytes(data: bytes) -> int:
    """The sizes that snappy's blocks declare, which a decompressor keeps to: of one block, or of xerial's framing."""
    if not data.startswith(_SNAPPY_FRAMING):
        return int(cramjam.snappy.decompress_raw_len(data))
    total, position = 0, _SNAPPY_FRAMING_ENDS
    while position < len(data):
        (length,) = struct.unpack_from(">i", data, position)
        position += 4
        if not 0 < length <= len(data) - position:
            raise IndexError(position)
        total += cramjam.snappy.decompress_raw_len(data[position : position + length])
        position += length
    return total


def _zstd_blocks(data: bytes) -> int:
    """How many blocks the frames of a payload have: each has at most 128 KiB."""
    blocks, position = 0, 0
    while position < len(data):
        (magic,) = struct.unpack_from("<I", data, position)
        if magic & 0xFFFFFFF0 == _ZSTD_SKIPPABLE:
            position += 8 + struct.unpack_from("<I", data, position + 4)[0]
            continue
        if magic != _ZSTD_FRAME:
            raise IndexError(position)
        descriptor = data[position + 4]
        position += 5 + _zstd_header_bytes(descriptor)
        is_last = False
        while not is_last:
            header = data[position] | data[position + 1] << 8 | data[position + 2] << 16
            is_last, is_repeated = bool(header & 1), header >> 1 & 3 == 1
            position += 3 + (1 if is_repeated else header >> 3)
            blocks += 1
        position += 4 if descriptor & 4 else 0  # the checksum
    return blocks


def _zstd_header_bytes(descriptor: int) -> int:
    """The bytes of window, dictionary id and content size (RFC 8878, 3.1.1.1)."""
    has_one_segment = bool(descriptor & 0x20)
    content_size = (int(has_one_segment), 2, 4, 8)[descriptor >> 6]
    return int(not has_one_segment) + (0, 1, 2, 4)[descriptor & 3] + content_size
