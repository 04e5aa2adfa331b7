"""Recovery of the user table, our own inside Faust's: the changelog is read in whole fetches past Faust's one-record path.

Faust's service still says when (at each assignment) and ends it (committed offsets sought, flow resumed), with one correction: it
resumes the source partitions, then seeks them, then clears the agents' queues, so that what was fetched in between vanishes
(faust-streaming/faust#596). Here they are resumed after all of that. A recovery ends by position, never by waiting for a last
record, which compaction may have removed (#176, #597).
"""

import time
from typing import Any, Final, Protocol

from aiokafka.errors import IllegalStateError
from faust.tables.manager import TableManager
from faust.tables.recovery import RebalanceAgain, Recovery, ServiceStopped
from mode import Service, get_logger

from stream.kafka.delivery.at_least_once import Delivery
from stream.kafka.faust.changelog import Fetched

logger = get_logger(__name__)
_SAY_EVERY_S: Final = 5.0


class Restorable(Protocol):
    """A table that is restored from its changelog."""

    changelog: str

    def restore_from(self, number: int) -> int: ...
    def restore(self, fetched: Fetched) -> None: ...
    def restored(self, number: int, generation: int) -> None: ...


class SafeRecovery(Recovery):
    """Faust's recovery with our reader, resuming last."""

    @Service.task  # type: ignore[untyped-decorator]
    async def _restart_recovery(self) -> None:
        """One recovery per assignment; a new assignment abandons it."""
        while not await self.wait_for_stopped(self.signal_recovery_start):
            self.signal_recovery_start.clear()
            try:
                await self._wait(self._recover(self._generation_id))
            except (RebalanceAgain, IllegalStateError):
                logger.info("a new assignment: recovery begins again")
            except ServiceStopped:
                break

    async def _recover(self, generation: int) -> None:
        self._set_recovery_started()
        numbers = {tp.partition for tp in self.app.consumer.assignment() if not self._is_changelog_tp(tp)}
        await self.tables.delivery.take(numbers)
        if self.tables.restorable is not None:
            await self._restore(self.tables.restorable, {tp.partition for tp in self.active_tps}, generation)
        await self.on_recovery_completed(generation)

    async def _restore(self, table: Restorable, numbers: set[int], generation: int) -> None:
        began = said = time.monotonic()
        records = 0
        starts = {number: table.restore_from(number) for number in numbers}
        async for fetched in self.app.transport.read_changelog(table.changelog, starts):
            table.restore(fetched)
            records += len(fetched.records)
            if time.monotonic() - said > _SAY_EVERY_S:
                said = time.monotonic()
                logger.info("restoring: %d changelog records so far", records)
        for number in numbers:
            table.restored(number, generation)
        logger.info("restored %d changelog records of %d partitions in %.1f s", records, len(numbers), time.monotonic() - began)

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
        """Nothing: `_restore` tells how far it is."""


class SafeTableManager(TableManager):
    """Faust's table manager with `SafeRecovery`, and without its second of sleep at the start.

    `restorable` is the table, where there is one; `delivery` takes the partition numbers of each assignment first.
    """

    restorable: Restorable | None = None
    delivery: Delivery

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:  # type: ignore[has-type]
            self._recovery = SafeRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()
