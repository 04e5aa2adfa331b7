"""Cuts a partition of a stopped local broker, as a disk does that lost its last writes."""

import struct
from pathlib import Path

from stream.kafka.cluster.local_broker import LocalKafka

_BATCH_START = struct.Struct(">qi")
_LAST_OFFSET_DELTA = struct.Struct(">i")


def cut_partition(broker: LocalKafka, topic: str, number: int, first: int) -> int:
    """Removes the batches that hold offsets from `first` on, and what the broker derives from them; returns the new end offset."""
    data = broker.folder / "data"
    folder = data / f"{topic}-{number}"
    end = 0
    for segment in sorted(folder.glob("*.log")):
        kept, end = _kept_bytes(segment, first, end)
        with segment.open("r+b") as file:
            file.truncate(kept)
    derived_files = [file for pattern in ("*.index", "*.timeindex", "*.snapshot") for file in folder.glob(pattern)]
    for derived in (*derived_files, folder / "leader-epoch-checkpoint"):
        derived.unlink(missing_ok=True)
    for checkpoint in (".kafka_cleanshutdown", "recovery-point-offset-checkpoint", "replication-offset-checkpoint"):
        (data / checkpoint).unlink(missing_ok=True)
    return end


def _kept_bytes(segment: Path, first: int, end: int) -> tuple[int, int]:
    """How much of a segment lies before `first`, and the offset after its last kept batch."""
    content, position = segment.read_bytes(), 0
    while position < len(content):
        base, length = _BATCH_START.unpack_from(content, position)
        (delta,) = _LAST_OFFSET_DELTA.unpack_from(content, position + 23)
        if base + delta >= first:
            break
        position, end = position + 12 + length, base + delta + 1
    return position, end
