"""Batches that are damaged on a broker's disk: which partitions stopped at one, and which of them an operator allowed to skip.

Such a batch is not read: any of its bytes may be wrong. An operator's permission is kept on the broker as the committed offset of a
group without members, whose metadata says which offsets may be skipped; nothing else reads that group.
"""

import enum
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.application import DEFAULT, skips_group
from stream.errors import IsthmusError
from stream.kafka.cluster.partition import Partition

logger = logging.getLogger("isthmus")
_application = DEFAULT


def use_skips_of(application: str) -> None:
    """Passes over what the operators of an application gave up, from now on: a process belongs to one."""
    global _application  # noqa: PLW0603  (as in `stream.kafka.cluster.security`)
    _application = application


def current_skips_group() -> str:
    """The group in which this process's operators note what may be skipped."""
    return skips_group(_application)


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


class Fault(enum.Enum):
    """What shows that a batch is damaged."""

    CHECKSUM = "the checksum of the batch at offset {offset} fails"
    HEADER = "the header of the batch at offset {offset} is damaged"
    SILENCE = "the broker has more and returns nothing from offset {offset} on, as where the header of a batch is damaged"


class CorruptBatch(NamedTuple):
    """A damaged batch.

    Attributes:
        topic: Name of the topic.
        partition: Partition number.
        offset: First offset of the batch; where its header is damaged, the first that cannot be read.
        next_offset: Where the next batch begins, as far as this one can be trusted; behind a damaged header one after `offset`.
        fault: What shows the damage.
    """

    topic: str
    partition: int
    offset: int
    next_offset: int
    fault: Fault = Fault.CHECKSUM

    def to_text(self) -> str:
        last = f"to {self.next_offset - 1}" if self.fault is Fault.CHECKSUM else "and perhaps more"
        return (
            f"{self.topic}-{self.partition}: {self.what()} (offsets {self.offset} {last}), so its records on the broker's disk are "
            f"damaged. If another replica holds them whole, move the leadership to it; otherwise `isthmus topics skip {self.topic} "
            f"{self.partition} {self.offset}` gives them up"
        )

    def what(self) -> str:
        return self.fault.value.format(offset=self.offset)


class CorruptBatchPolicy(Protocol):
    """What a reader does about a damaged batch."""

    def skip_to(self, batch: CorruptBatch) -> int | None:
        """The offset from which on the partition is read. None: its reading ends before the batch, without an error. May raise."""


class CorruptBatchError(IsthmusError):
    """A damaged batch that may not be skipped."""

    def __init__(self, batch: CorruptBatch) -> None:
        super().__init__(batch.to_text())
        self.batch = batch


def _none(_: Partition) -> Mapping[Partition, Skip]:
    return {}


class RaiseAtCorruptBatch:
    """For commands and recovery: ends with a message, unless the batch may be skipped. `read_skips` is asked at each such batch."""

    def __init__(self, read_skips: Callable[[Partition], Mapping[Partition, Skip]] = _none) -> None:
        self._read_skips = read_skips

    def skip_to(self, batch: CorruptBatch) -> int | None:
        place = (batch.topic, batch.partition)
        after = _end_of_skip(self._read_skips(place).get(place), batch)
        if after is None:
            raise CorruptBatchError(batch)
        logger.warning("%s-%d: skips the damage at offset %d on purpose", *place, batch.offset)
        return after


class PassCorruptBatches:
    """For readers that only compare positions: the process that reads the partition says what it makes of the batch."""

    def skip_to(self, batch: CorruptBatch) -> int | None:
        return batch.next_offset


class StoppedPartitions:
    """For processes: the partition stops, the others go on. Called from the consumer's thread and the event loop's.

    What operators allow counts once, so that it cannot be applied to another topic of the same name.
    """

    def __init__(self) -> None:
        self._stopped: dict[Partition, CorruptBatch] = {}
        self._skips: dict[Partition, Skip] = {}
        self._lock = threading.Lock()

    def skip_to(self, batch: CorruptBatch) -> int | None:
        place = (batch.topic, batch.partition)
        with self._lock:
            after = _end_of_skip(self._skips.get(place), batch)
            if after is not None:
                self._stopped.pop(place, None)
                self._skips.pop(place)
                logger.warning("%s-%d: skips the damage at offset %d on purpose", *place, batch.offset)
                return after
            known = self._stopped.get(place)
            self._stopped[place] = batch
        if known is None or known.offset != batch.offset:
            logger.error("%s. This partition stops; the others go on", batch.to_text())
        return None

    def allow(self, skips: Mapping[Partition, Skip]) -> None:
        """Takes over what operators allow now of some partitions."""
        with self._lock:
            self._skips |= skips

    def batches(self) -> list[CorruptBatch]:
        with self._lock:
            return list(self._stopped.values())

    def resumed(self, partition: Partition) -> None:
        """The partition is read on: the batch was whole this time, or was skipped."""
        with self._lock:
            self._stopped.pop(partition, None)

    def read_to(self, partition: Partition, position: int) -> None:
        """A partition was read up to before a position: on, if that is behind the batch."""
        with self._lock:
            batch = self._stopped.get(partition)
            if batch is not None and position > batch.offset:
                del self._stopped[partition]

    def forget(self, topics: Iterable[str]) -> None:
        """Topics are read anew, or by another process."""
        read = set(topics)
        with self._lock:
            self._stopped = {place: batch for place, batch in self._stopped.items() if place[0] not in read}

    def keep(self, partitions: Iterable[Partition]) -> None:
        """Forgets partitions that went to another process."""
        held = set(partitions)
        with self._lock:
            self._stopped = {place: batch for place, batch in self._stopped.items() if place in held}

    def check(self) -> str | None:
        """What health says: which partitions stopped."""
        return "; ".join(batch.to_text() for batch in self.batches()) or None


class PausesPartition:
    """A `CorruptBatchPolicy`: a corrupt batch pauses its partition, so that it is not fetched again at once."""

    def __init__(self, consumer: AIOKafkaConsumer, stopped: StoppedPartitions) -> None:
        self._consumer = consumer
        self._stopped = stopped

    def skip_to(self, batch: CorruptBatch) -> int | None:
        after = self._stopped.skip_to(batch)
        if after is None:
            self._consumer.pause(TopicPartition(batch.topic, batch.partition))
        return after


def _end_of_skip(skip: Skip | None, batch: CorruptBatch) -> int | None:
    """Where a batch that may be skipped is given up to; None if it may not."""
    if skip is None or not skip.first <= batch.offset <= skip.last:
        return None
    return max(batch.next_offset, skip.last + 1)
