"""What comes after a batch was computed: outputs acknowledged, then state durable, then the source message acknowledged.

The finishing of the batches of one partition *number* is a chain, in order: clicks-3 and purchases-3 hold the same users, and an
older state must never follow a newer one. Computing the next batch does not wait for it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from mode import get_logger

logger = get_logger(__name__)


class Finishing:
    """One chain per partition number; an error in any link crashes the app (a restart delivers again what was not acknowledged)."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._last: dict[int, asyncio.Task[None]] = {}

    def is_current(self, message: Any) -> bool:
        """Whether the partition is still ours as it was when the message was fetched."""
        return bool(message.generation_id == self._app.consumer_generation_id)

    def add(self, event: Any, sent: list[Awaitable[Any]], persist: Callable[[], Awaitable[None]] | None = None) -> None:
        """Once `sent` is acknowledged and the former batch finished: `persist`, then acknowledge `event`."""
        partition = event.message.partition
        self._last[partition] = asyncio.create_task(self._finish(self._last.get(partition), event, sent, persist))

    def forget(self) -> None:
        self._last.clear()

    async def _finish(
        self,
        former: asyncio.Task[None] | None,
        event: Any,
        sent: list[Awaitable[Any]],
        persist: Callable[[], Awaitable[None]] | None,
    ) -> None:
        try:
            await asyncio.gather(*sent)
            if former is not None:
                await former
            if not self.is_current(event.message):
                return
            if persist is not None:
                await persist()
            event.ack()
        except Exception as error:
            logger.exception("a batch of %s could not be finished", event.message.tp)
            await self._app.crash(error)
            raise
