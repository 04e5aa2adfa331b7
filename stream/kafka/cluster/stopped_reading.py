"""Followers of compacted topics stop at a damaged batch, as a worker does at one of its inputs: it may have held deletions.

Passing over it would keep what was deleted: lists and states of erased users, withdrawn items, revoked keys.
"""

import asyncio
import logging
import time
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.health import Health
from stream.kafka.cluster.corrupt_batches import PausesPartition, StoppedPartitions
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.view import ClusterView
from stream.metrics import Metrics

logger = logging.getLogger("isthmus")
RETRY_S: Final = 5.0


class StopsAtDamage:
    """Stops partitions of a consumer that is not started yet at damaged batches, and fetches them again now and then.

    They go on once the batch is whole, or an operator has given it up. `stopped` tells health and metrics; several consumers may
    share it if no two of them read the same topic.
    """

    def __init__(self, consumer: AIOKafkaConsumer, stopped: StoppedPartitions, view: ClusterView) -> None:
        self._consumer = consumer
        self._stopped = stopped
        self._view = view
        self._retry_at = 0.0
        consumer._check_crcs = PausesPartition(consumer, stopped)

    def note_read(self, tp: Any, position: int) -> None:
        """Notes that a partition was read up to before a position."""
        self._stopped.read_to((tp.topic, tp.partition), position)

    async def retry(self) -> None:
        """Fetches the stopped partitions again, every `RETRY_S`."""
        stopped = self._stopped_here()
        if not stopped or time.monotonic() < self._retry_at:
            return
        self._retry_at = time.monotonic() + RETRY_S
        try:
            epochs = await self._view.epochs({topic for topic, _ in stopped})
            self._stopped.allow(await self._view.skips(stopped, epochs))
        except OSError as error:
            logger.warning("what may be skipped cannot be read: %s", error or "no answer in time")
        self._consumer.resume(*(TopicPartition(*place) for place in self._stopped_here()))

    def _stopped_here(self) -> list[Partition]:
        """The stopped partitions that the consumer is assigned at present."""
        assigned = self._consumer.assignment()
        places = [(batch.topic, batch.partition) for batch in self._stopped.batches()]
        return [place for place in places if TopicPartition(*place) in assigned]

    async def keep_retrying(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            await self.retry()


def report_stopped(health: Health, metrics: Metrics, *stopped: StoppedPartitions) -> None:
    """Lets health and metrics tell which partitions of a process stopped."""
    health.ready["damaged"] = lambda: "; ".join(problem for one in stopped if (problem := one.check()) is not None) or None
    metrics.gauge("stopped_partitions").set_function(lambda: float(sum(len(one.batches()) for one in stopped)))
