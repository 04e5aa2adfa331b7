"""Kafka's default partitioner: which partition a keyed record belongs to.

The step uses it to detect a producer that partitions differently, as librdkafka does by default: no worker would see such a user's
clicks and calls together.
"""

from struct import unpack_from

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """The 32-bit hash of Kafka's Java client (`Utils.murmur2`), seed 0x9747b28c.

    >>> murmur2(b"abc") & 0x7FFFFFFF
    479470107
    """
    length = len(data)
    h = 0x9747B28C ^ length
    end = length & ~3
    for word in unpack_from(f"<{length >> 2}I", data):
        k = word * _M & _MASK
        k = (k ^ k >> 24) * _M & _MASK
        h = (h * _M & _MASK) ^ k
    if length > end:
        h = (h ^ int.from_bytes(data[end:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def partition_of(key: bytes, partitions: int) -> int:
    return (murmur2(key) & 0x7FFFFFFF) % partitions
