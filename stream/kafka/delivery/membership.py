"""Whether this worker still holds the partition of a message, and whether the group still counts it as a member."""

import asyncio
import logging
from typing import Final

from stream.kafka.delivery.contracts import App, Consumer, Message
from stream.metrics import Metrics

logger = logging.getLogger(__name__)
RECHECK_S: Final = 0.05


def is_current(consumer: Consumer, message: Message) -> bool:
    """Whether the partition is still held under the assignment that fetched the message; if not, the message is abandoned."""
    if consumer.holds(message.generation_id):
        return True
    consumer.abandon(message)
    return False


class MembershipGuard:
    """Decides whether a batch may still be sent.

    A worker that was paused past its session timeout wakes up with batches of partitions that another worker now owns. Without
    transactions nothing on the broker stops it, so nothing is sent unless a heartbeat is younger than the session timeout.
    """

    def __init__(self, app: App, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    def is_current(self, message: Message) -> bool:
        return is_current(self._app.consumer, message)

    async def may_send(self, message: Message) -> bool:
        """Waits for an answer of the group if the last heartbeat is too old; False if the partition was lost."""
        consumer = self._app.consumer
        held = False
        while self.is_current(message):
            if consumer.is_member():
                return True
            if not held:
                held = True
                self._metrics.counter("late_batches", "held").inc()
                logger.warning("a batch of %s is held back: no heartbeat within the session timeout", message.tp)
            await asyncio.sleep(RECHECK_S)
        self._metrics.counter("late_batches", "dropped").inc()
        return False
