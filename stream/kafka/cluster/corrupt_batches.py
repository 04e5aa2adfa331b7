"""Batches whose checksum fails: which partitions stopped at one, and which of them an operator allowed to skip.

Such a batch is not read: any of its bytes may be wrong. An operator's permission is kept on the broker as the committed offset of a
group without members, whose metadata says which offsets may be skipped; nothing else reads that group.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, Protocol

import msgspec

from stream.errors import IsthmusError
from stream.kafka.cluster.partition import Partition

logger = logging.getLogger("isthmus")
SKIPS_GROUP: Final = "isthmus-skips"


class Skip(msgspec.Struct, frozen=True):
    """What may be skipped of one partition.

    Attributes:
        epoch: Epoch of the topic.
        first: First offset.
        last: Last offset.
    """

    epoch: int
    first: int
    last: int

    def to_text(self) -> str:
        return msgspec.json.encode(self).decode()

    @classmethod
    def of(cls, text: str | None) -> "Skip | None":
        """The skip in the metadata of a committed offset; None without one."""
        try:
            return msgspec.json.decode(text or "", type=cls)
        except msgspec.MsgspecError:
            return None


class CorruptBatch(NamedTuple):
    """A batch whose checksum fails.

    Attributes:
        topic: Name of the topic.
        partition: Partition number.
        offset: First offset of the batch.
        next_offset: Where the next batch begins, as far as this one can be trusted.
    """

    topic: str
    partition: int
    offset: int
    next_offset: int

    def to_text(self) -> str:
        return (
            f"{self.topic}-{self.partition}: the checksum of the batch at offset {self.offset} fails (offsets {self.offset} to "
            f"{self.next_offset - 1}), so its records on the broker's disk are damaged. If another replica holds them whole, move "
            f"the leadership to it; otherwise `isthmus topics skip {self.topic} {self.partition} {self.offset}` gives the batch up"
        )


class CorruptBatchPolicy(Protocol):
    """What a reader does about a batch whose checksum fails."""

    def may_skip(self, batch: CorruptBatch) -> bool:
        """True: the batch is passed over. False: the partition's reading ends before it, without an error. May raise."""


class CorruptBatchError(IsthmusError):
    """A batch whose checksum fails, and that may not be skipped."""

    def __init__(self, batch: CorruptBatch) -> None:
        super().__init__(batch.to_text())
        self.batch = batch


def _none(_: Partition) -> Mapping[Partition, Skip]:
    return {}


class RaiseAtCorruptBatch:
    """For commands and recovery: ends with a message, unless the batch may be skipped. `read_skips` is asked at each such batch."""

    def __init__(self, read_skips: Callable[[Partition], Mapping[Partition, Skip]] = _none) -> None:
        self._read_skips = read_skips

    def may_skip(self, batch: CorruptBatch) -> bool:
        place = (batch.topic, batch.partition)
        if _covers(self._read_skips(place).get(place), batch):
            logger.warning("%s-%d: skips the batch at offset %d on purpose", *place, batch.offset)
            return True
        raise CorruptBatchError(batch)


class SkipCorruptBatches:
    """For followers of compacted topics, which go on with what is readable: publishing the records again mends it."""

    def may_skip(self, batch: CorruptBatch) -> bool:
        logger.error("%s. Skipped here: publish the records again", batch.to_text())
        return True


class PassCorruptBatches:
    """For readers that only compare positions: the process that reads the partition says what it makes of the batch."""

    def may_skip(self, batch: CorruptBatch) -> bool:
        del batch
        return True


class StoppedPartitions:
    """For worker and encoder: the partition stops, the others go on. Called from the consumer's thread and the event loop's."""

    def __init__(self) -> None:
        self._stopped: dict[Partition, CorruptBatch] = {}
        self._skips: dict[Partition, Skip] = {}
        self._lock = threading.Lock()

    def may_skip(self, batch: CorruptBatch) -> bool:
        place = (batch.topic, batch.partition)
        with self._lock:
            if _covers(self._skips.get(place), batch):
                self._stopped.pop(place, None)
                logger.warning("%s-%d: skips the batch at offset %d on purpose", *place, batch.offset)
                return True
            known = self._stopped.get(place)
            self._stopped[place] = batch
        if known is None or known.offset != batch.offset:
            logger.error("%s. This partition stops; the others go on", batch.to_text())
        return False

    def allow(self, skips: Mapping[Partition, Skip]) -> None:
        """Takes over what operators allow now."""
        with self._lock:
            self._skips = dict(skips)

    def batches(self) -> list[CorruptBatch]:
        with self._lock:
            return list(self._stopped.values())

    def resumed(self, partition: Partition) -> None:
        """The partition is read on: the batch was whole this time, or was skipped."""
        with self._lock:
            self._stopped.pop(partition, None)

    def keep(self, partitions: Iterable[Partition]) -> None:
        """Forgets partitions that went to another process."""
        held = set(partitions)
        with self._lock:
            self._stopped = {place: batch for place, batch in self._stopped.items() if place in held}

    def check(self) -> str | None:
        """What health says: which partitions stopped."""
        return "; ".join(batch.to_text() for batch in self.batches()) or None


def _covers(skip: Skip | None, batch: CorruptBatch) -> bool:
    return skip is not None and skip.first <= batch.offset <= skip.last
