"""Makes both Kafka clients read past records that they cannot parse: aiokafka in processes, kafka-python in commands.

Either client raises at such a record, and again at the next attempt, so its partition would never be read on. Here the record
is returned with an `UnreadableValue`, and the consumer's `CorruptBatchPolicy` decides about a batch that is damaged. All
other batches are read by the clients' own code, in aiokafka's case compiled. tests/contracts/test_batch_reading.py fails when that
code changes.
"""

import logging
import struct
import time
from collections.abc import Iterator
from typing import Any, Final

from aiokafka.consumer import consumer as aiokafka_consumer
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.record.memory_records import MemoryRecords as AiokafkaRecords
from kafka.consumer.fetcher import ConsumerRecord, Fetcher, IsolationLevel
from kafka.record.memory_records import MemoryRecords as KafkaPythonRecords

from stream.core.unreadable import UnreadableValue
from stream.kafka.cluster.corrupt_batches import CorruptBatch, CorruptBatchPolicy, Fault, RaiseAtCorruptBatch
from stream.kafka.cluster.damaged_headers import LENGTH_ENDS, SILENT, AnswersOfAiokafka, batch_end, check_answers
from stream.kafka.cluster.record_batches import BatchRecord, bounded, header_of, read_batch

logger = logging.getLogger("isthmus")
_MAGIC_ENDS: Final = 17
_READ_COMMITTED: Final = 1
_MAX_RECORDS: Final = 1_000_000
"""No batch holds more: a damaged header must not make a consumer pass over other batches."""


class _OffsetsOutOfOrderError(Exception):
    """A record's offset is not after the one before it, or is outside its batch."""


class FetchedBatches:
    """The batches of one fetch, instead of a library's `MemoryRecords`, which trusts the lengths; `parser` is that class.

    Attributes:
        current: The bytes of the current batch; of one whose header is damaged, all that is left.
    """

    def __init__(self, data: bytes, parser: Any = AiokafkaRecords) -> None:
        self.current = b""
        self._data = data
        self._parser = parser
        self._position = 0

    def size_in_bytes(self) -> int:
        return len(self._data)

    def has_next(self) -> bool:
        """Whether a batch is left. The last may be cut off, but not the first (KIP-74), unless its length is wrong."""
        if not self._position:
            return bool(self._data)
        left = len(self._data) - self._position
        end = batch_end(self._data, self._position)
        return left >= LENGTH_ENDS and (end is None or end <= len(self._data))

    def next_batch(self) -> Any:
        """The next batch as the library parses it; None, and it is the last, if its header is damaged."""
        end = batch_end(self._data, self._position)
        if end is None or end > len(self._data):
            self.current, self._position = self._data[self._position :], len(self._data)
            return None
        self.current, self._position = self._data[self._position : end], end
        return self._parser(self.current).next_batch()

    def bounded(self, batch: Any) -> Any:
        """The current batch, decompressed here if it is too large for the library.

        Raises:
            ValueError: It would be too large for any process.
        """
        data = bounded(self.current)
        return batch if data is self.current else self._parser(data).next_batch()

    def damage(self, tp: Any, position: int) -> CorruptBatch:
        """The current batch, which is damaged. If the next one was fetched too, that says where it begins."""
        if batch_end(self.current, 0) != len(self.current):
            fault = Fault.SILENCE if self.current == SILENT else Fault.HEADER
            return CorruptBatch(tp.topic, tp.partition, position, position + 1, fault)
        (offset,) = struct.unpack_from(">q", self.current)
        header = header_of(self.current)
        after = self._offset_of_following()
        if after is None or not offset < after <= offset + _MAX_RECORDS:
            after = header.next_offset if header is not None and 0 <= header.last_offset_delta < _MAX_RECORDS else 0
        return CorruptBatch(tp.topic, tp.partition, offset, max(after, offset + 1))

    def resume_at(self, offset: int) -> None:
        """Leaves out the rest of the fetch unless it continues at an offset: after a wrong length it is no batch."""
        if self._offset_of_following() != offset:
            self._position = len(self._data)

    def _offset_of_following(self) -> int | None:
        following = self._data[self._position : self._position + _MAGIC_ENDS]
        if len(following) < _MAGIC_ENDS or batch_end(self._data, self._position) is None or following[-1] > 2:
            return None
        (offset,) = struct.unpack_from(">q", following)
        return int(offset)


class TolerantPartitionRecords(aiokafka_fetcher.PartitionRecords):
    """aiokafka's, reading past what does not parse. `check_crcs` is the consumer's `CorruptBatchPolicy`, or a bool."""

    next_fetch_offset: int

    def _unpack_records(self) -> Iterator[Any]:
        """As aiokafka's own, but for records and batches that do not parse."""
        records, tp = self._records, self._tp
        policy: CorruptBatchPolicy = self._check_crcs if hasattr(self._check_crcs, "skip_to") else RaiseAtCorruptBatch()
        while records.has_next():
            batch = records.next_batch()
            if batch is None or not batch.validate_crc():
                skipped = _skipped(records, tp, policy, self.next_fetch_offset)
                if skipped is None:
                    return
                record, self.next_fetch_offset = skipped
                yield self._consumer_record(tp, record)
            elif self._is_passed(batch):
                self.next_fetch_offset = batch.next_offset
            else:
                yield from self._batch_records(batch)

    def _batch_records(self, batch: Any) -> Iterator[Any]:
        position, end = self.next_fetch_offset, batch.next_offset
        try:
            for record in self._records.bounded(batch):
                if self.next_fetch_offset <= record.offset < end:
                    consumer_record = self._consumer_record(self._tp, record)
                    self.next_fetch_offset = record.offset + 1
                    yield consumer_record
                else:
                    _check_passed(record.offset, position)
        except Exception:  # noqa: BLE001  (whatever its parser raises)
            for found in _read_slowly(self._tp, self._records.current, self.next_fetch_offset):
                self.next_fetch_offset = found.offset + 1
                yield self._consumer_record(self._tp, found)
        self.next_fetch_offset = max(self.next_fetch_offset, end)

    def _is_passed(self, batch: Any) -> bool:
        """Whether a batch holds nothing for a reader: a transaction's marker, or records of an aborted one."""
        if self._isolation_level == _READ_COMMITTED and batch.producer_id is not None:
            self._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and _is_abort(self, batch, self._tp):
                self._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in self._aborted_producers:
                return True
        return bool(batch.is_control_batch)


class TolerantFetcher(aiokafka_fetcher.Fetcher):
    """aiokafka's, told about damaged headers."""

    def __init__(self, client: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(AnswersOfAiokafka(client), *args, **kwargs)


class TolerantKafkaPythonRecords(Fetcher.PartitionRecords):
    """kafka-python's, reading past what does not parse. `check_crcs` is the consumer's `CorruptBatchPolicy`."""

    next_fetch_offset: int

    def _unpack_records(self, tp: Any, records: Any, *_: Any) -> Iterator[Any]:
        """As kafka-python's own, but for records and batches that do not parse; values are not deserialized."""
        batches = FetchedBatches(bytes(records._buffer), KafkaPythonRecords)
        while batches.has_next():
            batch = batches.next_batch()
            if batch is None or not batch.validate_crc():
                skipped = _skipped(batches, tp, self.check_crcs, self.next_fetch_offset)
                if skipped is None:
                    return
                record, self.next_fetch_offset = skipped
                yield self._record(tp, record)
            elif batch.magic == 2 and self._is_passed(batch):
                self.next_fetch_offset = batch.next_offset
            else:
                yield from self._batch_records(tp, batch, batches)
        self.drain()

    def _batch_records(self, tp: Any, batch: Any, batches: FetchedBatches) -> Iterator[Any]:
        position = self.next_fetch_offset
        end = batch.next_offset if batch.magic == 2 else None
        try:
            for record in batches.bounded(batch):
                if self.next_fetch_offset <= record.offset and (end is None or record.offset < end):
                    self.next_fetch_offset = record.offset + 1
                    yield self._record(tp, record)
                else:
                    _check_passed(record.offset, position)
        except Exception:  # noqa: BLE001  (whatever its parser raises)
            for found in _read_slowly(tp, batches.current, self.next_fetch_offset):
                self.next_fetch_offset = found.offset + 1
                yield self._record(tp, found)
        self.next_fetch_offset = max(self.next_fetch_offset, end or 0)

    def _is_passed(self, batch: Any) -> bool:
        """Whether a batch holds nothing for a reader: a transaction's marker, or records of an aborted one."""
        self.leader_epoch = batch.leader_epoch
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if _is_abort(self, batch, self.topic_partition):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)

    def _record(self, tp: Any, record: Any) -> Any:
        """A record as kafka-python's consumers return it."""
        self.records_read += 1
        self.bytes_read += len(record.value or b"")
        sizes = [-1 if field is None else len(field) for field in (record.key, record.value)]
        fields = (record.offset, record.timestamp, record.timestamp_type, record.key, record.value, record.headers)
        return ConsumerRecord(tp.topic, tp.partition, self.leader_epoch, *fields, None, *sizes, -1)


def install() -> None:
    """Makes this process's aiokafka consumers read tolerantly: their fetcher takes both classes from its module."""
    aiokafka_fetcher.MemoryRecords = FetchedBatches
    aiokafka_fetcher.PartitionRecords = TolerantPartitionRecords
    aiokafka_consumer.Fetcher = TolerantFetcher


def read_tolerantly(consumer: Any) -> None:
    """Makes one kafka-python consumer read tolerantly."""
    consumer._fetcher.PartitionRecords = TolerantKafkaPythonRecords
    check_answers(consumer._fetcher)


def _check_passed(offset: int, position: int) -> None:
    """Raises unless a record precedes the requested position: a fetch returns the whole batch that holds it."""
    if offset >= position:
        raise _OffsetsOutOfOrderError


def _is_abort(records: Any, batch: Any, tp: Any) -> bool:
    """Whether a batch is the marker of an aborted transaction; a marker that does not parse is logged. None is compressed."""
    try:
        is_abort: bool = not batch.compression_type and records._contains_abort_marker(batch)
    except Exception as error:  # noqa: BLE001  (whatever its parser raises)
        logger.warning("%s-%d: the transaction marker at offset %d does not parse (%s)", *tp, batch.base_offset, error)
        return False
    return is_abort


def _skipped(batches: FetchedBatches, tp: Any, policy: CorruptBatchPolicy, position: int) -> tuple[BatchRecord, int] | None:
    """The stand-in for a damaged batch that is given up, and the offset to go on at; None where the reading ends.

    The stand-in has the current time: the batch's own timestamps may be wrong.
    """
    corrupt = batches.damage(tp, position)
    after = policy.skip_to(corrupt)
    if after is None:
        return None
    offset = max(position, corrupt.offset)
    after = max(after, offset + 1)
    batches.resume_at(after)
    error = f"{corrupt.what()}; skipped on purpose (offsets {corrupt.offset} to {after - 1})"
    return BatchRecord(offset, time.time_ns() // 1_000_000, None, UnreadableValue.of(error), ()), after


def _read_slowly(tp: Any, batch: bytes, position: int) -> Iterator[BatchRecord]:
    """The records of a batch from a position on, with a warning that names those that do not parse."""
    records = [record for record in read_batch(batch) if record.offset >= position]
    unreadable = [record for record in records if isinstance(record.value, UnreadableValue)]
    if unreadable:
        first = unreadable[0]
        assert isinstance(first.value, UnreadableValue)
        more = f" and {len(unreadable) - 1} more of its batch" if len(unreadable) > 1 else ""
        logger.warning("%s-%d: the record at offset %d%s does not parse: %s", *tp, first.offset, more, first.value.error)
    yield from records
