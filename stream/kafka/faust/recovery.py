"""Recovery of the user table inside Faust's own: the changelog is read in whole fetches, past Faust's one-record path.

Faust's service still decides when to recover (at each assignment) and completes the recovery (seeks committed offsets, resumes the
flow), with one correction: it resumes the source partitions, then seeks them, then clears the agents' queues, so that what was
fetched in between is lost (faust-streaming/faust#596). Here they are resumed after all of that. A recovery ends by position, never
by waiting for a last record, which compaction may have removed (#176, #597).
"""

import logging
import time
from typing import Any, Final, Protocol

from aiokafka.errors import IllegalStateError
from faust.tables.manager import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from mode import Service

from stream.kafka.delivery.contracts import Delivery
from stream.kafka.faust.changelog import Fetched
from stream.kafka.faust.watermarks import Watermarks

logger = logging.getLogger(__name__)
_PROGRESS_S: Final = 5.0


class Restorable(Protocol):
    """A table that is restored from its changelog, partition number by partition number."""

    changelog: str

    def start_restore(self, number: int) -> int:
        """The first changelog offset that the local store lacks."""
        ...

    def restore(self, fetched: Fetched) -> int:
        """Applies changelog records to the local store; returns how many it lacked."""
        ...

    def finish_restore(self, number: int, generation: int) -> None:
        """Called at the end of the changelog: this worker's term begins."""
        ...


class SafeTableManager(TableManager):
    """Faust's table manager with `SafeRecovery`, and without its second of sleep at the start."""

    delivery: Delivery
    watermarks: Watermarks
    table: Restorable | None = None

    def connect(self, delivery: Delivery, watermarks: Watermarks, table: Restorable | None = None) -> None:
        """Sets what a recovery needs, before the app starts; `table` is None for an app without state."""
        self.delivery, self.watermarks, self.table = delivery, watermarks, table

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:  # type: ignore[has-type]
            self._recovery = SafeRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class SafeRecovery(Recovery):
    """Faust's recovery with our reader, resuming last."""

    tables: SafeTableManager

    @Service.task  # type: ignore[untyped-decorator]
    async def _restart_recovery(self) -> None:
        """One recovery per assignment; a new assignment abandons it."""
        while not await self.wait_for_stopped(self.signal_recovery_start):
            self.signal_recovery_start.clear()
            try:
                await self._wait(self._recover(self._generation_id))
            except (RebalanceAgain, IllegalStateError):
                logger.info("new assignment during recovery: starting again")
            except ServiceStopped:
                break

    async def _recover(self, generation: int) -> None:
        self._set_recovery_started()
        numbers = {tp.partition for tp in self.app.consumer.assignment() if not self._is_changelog_tp(tp)}
        await self.tables.delivery.acquire(numbers)
        if self.tables.table is not None:
            await self._restore(self.tables.table, {tp.partition for tp in self.active_tps}, generation)
        consumer: Any = self.app.consumer
        consumer.resume_at = await self.tables.watermarks.starts(consumer.assignment())
        await self.on_recovery_completed(generation)

    async def _restore(self, table: Restorable, numbers: set[int], generation: int) -> None:
        started = reported = time.monotonic()
        records = 0
        starts = {number: table.start_restore(number) for number in numbers}
        async for fetched in self.app.transport.read_changelog(table.changelog, starts):
            records += table.restore(fetched)
            if time.monotonic() - reported > _PROGRESS_S:
                reported = time.monotonic()
                logger.info("restoring: %d changelog records so far", records)
        for number in numbers:
            table.finish_restore(number, generation)
        logger.info("restored %d changelog records of %d partitions in %.1f s", records, len(numbers), time.monotonic() - started)

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        consumer: Any = self.app.consumer
        consumer.hold_resume()
        try:
            await super().on_recovery_completed(generation_id)
        finally:
            consumer.release_resume(resume=self.app.consumer_generation_id == generation_id)

    @Service.task  # type: ignore[untyped-decorator]
    async def _slurp_changelogs(self) -> None:
        """Nothing: changelogs do not come through Faust's queue."""

    @Service.task  # type: ignore[untyped-decorator]
    async def _publish_stats(self) -> None:
        """Nothing: `_restore` logs its progress."""
