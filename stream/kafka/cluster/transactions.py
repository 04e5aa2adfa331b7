"""aiokafka's transactions, with less waiting before the first record.

A transaction asks its coordinator for each partition that it writes to, then for the group whose offsets it commits. Right after
another transaction the coordinator refuses both until that one's markers are written. So the next transaction is prepared as soon
as the one before has ended: it asks for the same partitions and the group while no record waits for it. Until it holds a record, it
holds up no reader.

The subclasses belong to aiokafka 0.14; tests/contracts/test_faust.py fails when what they lean on changes.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import CoordinationType
from aiokafka.errors import ConcurrentTransactions, for_code
from aiokafka.producer.sender import AddOffsetsToTxnHandler, AddPartitionsToTxnHandler, Sender
from aiokafka.producer.transaction_manager import TransactionState

_MARKERS_S: Final = 0.003
"""How often the coordinator is asked whether it has written the markers. aiokafka waits 20 ms and more."""


class Transactions:
    """The transactions of one producer, one after the other.

    Args:
        producer: Transactional, not started.
        group: The consumer group whose offsets each transaction commits.
    """

    def __init__(self, producer: AIOKafkaProducer, group: str) -> None:
        self._producer = producer
        self._manager = producer._txn_manager
        producer._sender = _EagerSender(producer, group)

    @property
    def is_open(self) -> bool:
        """Whether a transaction is begun or prepared."""
        is_open: bool = self._manager.is_in_transaction()
        return is_open

    @property
    def failure(self) -> BaseException | None:
        """Why the producer can no longer send, whoever noticed it."""
        failed = self._manager.state in {TransactionState.FATAL_ERROR, TransactionState.ABORTABLE_ERROR}
        return self._manager.wait_for_transaction_end().exception() if failed else None

    async def begin(self) -> None:
        """Begins a transaction, unless one is prepared."""
        if self.failure is not None:
            raise self.failure
        if not self.is_open:
            await self._producer.begin_transaction()

    async def commit(self) -> None:
        await self._producer.commit_transaction()

    async def prepare(self, partitions: Iterable[TopicPartition]) -> None:
        """Begins the next transaction and asks for the partitions that it will write to; waits for no broker."""
        await self.begin()
        for partition in partitions:
            self._manager.maybe_add_partition_to_txn(partition)


class _EagerSender(Sender):
    """Asks for the group as soon as a transaction has partitions, and again soon while markers are written."""

    def __init__(self, producer: AIOKafkaProducer, group: str) -> None:
        replaced = producer._sender
        super().__init__(
            producer.client,
            acks=replaced._acks,
            txn_manager=replaced._txn_manager,
            message_accumulator=replaced._message_accumulator,
            retry_backoff_ms=replaced._retry_backoff * 1_000,
            request_timeout_ms=replaced._request_timeout_ms,
        )
        self._group = group

    def _maybe_do_transactional_request(self) -> "asyncio.Task[Any] | None":
        task: asyncio.Task[Any] | None = super()._maybe_do_transactional_request()
        manager = self._txn_manager
        lacks_group = manager.is_in_transaction() and manager.txn_partitions and manager._txn_consumer_group is None
        if task is None and lacks_group:
            return asyncio.create_task(self._do_add_offsets_to_txn(self._group))
        return task

    async def _do_add_partitions_to_txn(self, tps: Any) -> Any:
        return await _AddPartitions(self, tps).do(await self._coordinator())

    async def _do_add_offsets_to_txn(self, group_id: str) -> Any:
        return await _AddOffsets(self, group_id).do(await self._coordinator())

    async def _coordinator(self) -> Any:
        return await self._find_coordinator(CoordinationType.TRANSACTION, self._txn_manager.transactional_id)


class _AddPartitions(AddPartitionsToTxnHandler):
    def handle_response(self, resp: Any) -> float | None:
        codes = [code for _, partitions in resp.errors for _, code in partitions]
        if any(for_code(code) is ConcurrentTransactions for code in codes):
            return _MARKERS_S
        backoff: float | None = super().handle_response(resp)
        return backoff


class _AddOffsets(AddOffsetsToTxnHandler):
    def handle_response(self, resp: Any) -> float | None:
        if for_code(resp.error_code) is ConcurrentTransactions:
            return _MARKERS_S
        backoff: float | None = super().handle_response(resp)
        return backoff
