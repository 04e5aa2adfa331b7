"""Recovery of tables, with two corrections of Faust 0.15: records lost around the end of a recovery, and one that never ends.

1. Faust resumes the source partitions, then seeks them to the committed offsets, then clears the agents' queues: what was fetched
   in between vanishes (faust-streaming/faust#596). Here they are resumed after all of that.
2. Faust waits for a changelog record at end offset - 1; where compaction has removed it, for ever (#176, #597). A watchdog compares
   positions.
"""

from typing import Any

from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from mode import Service, get_logger

logger = get_logger(__name__)


class SafeRecovery(Recovery):
    """Faust's recovery, resuming last, with a watchdog."""

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        consumer: Any = self.app.consumer
        consumer.hold_resume()
        try:
            await super().on_recovery_completed(generation_id)
        finally:
            consumer.release_resume(resume=self.app.consumer_generation_id == generation_id)

    @Service.task  # type: ignore[untyped-decorator]
    async def _watch_positions(self) -> None:
        """Ends a recovery whose consumer stands at the end although the last record never came. Looks twice: records may be on
        their way.
        """
        passed: set[Any] = set()
        while not self.should_stop:
            await self.sleep(1.0)
            if not self.in_recovery or not self.tables.changelog_queue.empty():
                passed.clear()
                continue
            behind = {tp for tp, remaining in self.active_remaining().items() if remaining > 0}
            for tp in behind:
                position = await self.app.consumer.position(tp)
                if position is None or position <= self.active_highwaters[tp]:
                    passed.discard(tp)
                elif tp in passed:
                    logger.warning("%s ends at %s without a record there: compacted away", tp, self.active_highwaters[tp])
                    self.active_offsets[tp] = self.active_highwaters[tp]
                else:
                    passed.add(tp)
            if behind and self.in_recovery and not self.need_recovery():
                self.flush_buffers()
                self._set_recovery_ended()
                self.signal_recovery_end.set()


class SafeTableManager(TableManager):
    """Faust's table manager with `SafeRecovery`, and without its second of sleep at the start."""

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:  # type: ignore[has-type]
            self._recovery = SafeRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()
