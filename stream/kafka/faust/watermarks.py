"""The watermarks of an app's inputs: compared with the logs at each assignment and after each reconnection, advanced by each batch.

Logs change under a worker only when a broker restarts or leads another's partitions, and then the connection is a new one. So a
running worker looks at the log again only for the first batch of a partition after a reconnection, and where offsets jump.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from stream.core.records import Boundaries, Record
from stream.core.watermarks import VERSION, Watermark
from stream.kafka.cluster.log_state import LogState, Mark
from stream.kafka.cluster.partition import Partition
from stream.kafka.delivery.continuity import Continuation, Gap, GapKind, continuation, mark_of
from stream.kafka.delivery.contracts import Message
from stream.metrics import Metrics

logger = logging.getLogger(__name__)
_RETRY_S: Final = 1.0
_CONTROL_RECORDS: Final = 1
"""So many offsets without a record between two batches are no reason to look: a transaction ends with one."""
StoredWatermarks = Callable[[Collection[Partition]], Awaitable[Mapping[Partition, Watermark]]]


class Watermarks:
    """How far each owned partition of the inputs is contained, and whether its log still holds that.

    Args:
        app: The Faust app.
        epochs: Of the inputs, by name.
        metrics: Where gaps are counted.
        stored: Returns the durable watermarks of partitions that were just assigned.
        replayable: Topics whose records carry the offsets of another topic.
        keeps_state: As in `continuation`.
        has_states: Whether there are states of a partition number. If they have no watermark, a version without them wrote them.
        on_compared: Called after each assignment with where its partitions are read on.
    """

    def __init__(
        self,
        app: Any,
        epochs: Mapping[str, int],
        metrics: Metrics,
        stored: StoredWatermarks,
        *,
        replayable: Collection[str] = (),
        keeps_state: bool = True,
        has_states: Callable[[int], bool] = lambda _: False,
        on_compared: Callable[[Mapping[Partition, Watermark]], None] = lambda _: None,
    ) -> None:
        self._app = app
        self._epochs = epochs
        self._metrics = metrics
        self._stored = stored
        self._replayable = frozenset(replayable)
        self._keeps_state = keeps_state
        self._has_states = has_states
        self._on_compared = on_compared
        self._unstored: set[Partition] = set()
        self._predating: set[int] = set()
        self._current: dict[Partition, Watermark] = {}
        self._reconnections: dict[Partition, int] = {}

    async def starts(self, assigned: Iterable[Any]) -> dict[Partition, int]:
        """Compares the assigned partitions with their logs; returns where those that changed are read on.

        Retries until the broker answers. Recovery cancels it when the assignment changes.
        """
        partitions = [(tp.topic, tp.partition) for tp in assigned if tp.topic in self._epochs]
        while True:
            try:
                return await self._compare(partitions)
            except OSError as error:
                logger.warning("cannot compare the inputs with what was applied: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def _compare(self, partitions: Sequence[Partition]) -> dict[Partition, int]:
        stored, committed = await self._stored(partitions), await self._app.consumer.committed_offsets(partitions)
        without = {number for _, number in partitions} - {number for _, number in stored}
        self._predating = {number for number in without if self._has_states(number)}
        marks = {partition: mark_of(stored.get(partition), committed[partition]) for partition in partitions}
        self._reconnections = {partition: self._app.consumer.reconnections(partition) for partition in partitions}
        logs = await self._app.transport.read_log_states(marks)
        continued = {
            partition: self._continuation(partition, stored.get(partition), logs[partition], committed[partition])
            for partition in partitions
        }
        for partition, (_, _, gap) in continued.items():
            self._report(partition, gap)
        self._current = {partition: watermark for partition, (watermark, _, _) in continued.items()}
        self._on_compared(self._current)
        self._unstored = {
            partition
            for partition, (_, _, gap) in continued.items()
            if partition not in stored and (gap is None or gap.kind is not GapKind.LOST)  # a loss is reported until it is repaired
        }
        return {partition: start for partition, (_, start, _) in continued.items() if start is not None}

    def _continuation(self, partition: Partition, watermark: Watermark | None, log: LogState, committed: int) -> Continuation:
        topic = partition[0]
        return continuation(
            watermark,
            self._epochs[topic],
            log,
            committed,
            replayable=topic in self._replayable,
            keeps_state=self._keeps_state,
            knows_all=self._keeps_state and partition[1] not in self._predating,
        )

    def boundaries(self, partition: Partition) -> Boundaries:
        """Where a partition was cut."""
        watermark = self._current.get(partition)
        return () if watermark is None else watermark.boundaries

    def advance(self, partition: Partition, records: Sequence[Record]) -> Watermark | None:
        """The watermark to store with a batch; None if it contains the batch already."""
        watermark = self._current.get(partition)
        if not records or (watermark is not None and records[-1].offset <= watermark.offset):
            return None
        before = watermark or Watermark(VERSION, self._epochs[partition[0]], -1, -1)
        self._current[partition] = advanced = before.advanced(records[-1].offset, records[-1].timestamp)
        self._unstored.discard(partition)
        return advanced

    def take_unstored(self, number: int) -> dict[str, Watermark]:
        """The watermarks to store with a batch of a partition number, by topic: of inputs that have none yet.

        With the first states of a number each input has one, so that a later lack of it means a loss.
        """
        taken = {partition for partition in self._unstored if partition[1] == number}
        self._unstored -= taken
        return {partition[0]: self._current[partition] for partition in taken}

    def is_doubtful(self, message: Message) -> bool:
        """Whether a batch may come from a log that no longer holds what was applied. Called for each batch that has records."""
        partition = (message.topic, message.partition)
        if self._app.consumer.reconnections(partition) != self._reconnections.get(partition, 0):
            return True
        watermark = self._current.get(partition)
        return watermark is not None and message.value[0].offset - watermark.offset - 1 > _CONTROL_RECORDS

    async def still_continues(self, message: Message) -> bool:
        """Compares a partition with its log now. False: it was cut, and nothing of the batch may be applied."""
        partition = (message.topic, message.partition)
        reconnections, watermark = self._app.consumer.reconnections(partition), self._current.get(partition)
        mark = mark_of(watermark, 0)
        if mark is not None:
            log = await self._log_state(message, mark)
            if log is None:
                return False
            gap = self._continuation(partition, watermark, log, 0).gap
            if gap is not None and gap.kind is GapKind.CUT:
                logger.warning("%s-%d was cut while it was read: restarting the app", *partition)
                return False
            self._report(partition, gap)
        self._reconnections[partition] = reconnections
        return True

    async def _log_state(self, message: Message, mark: Mark) -> LogState | None:
        """Asks until the broker answers; None if the partition is lost meanwhile."""
        partition = (message.topic, message.partition)
        while self._app.consumer.holds(message.generation_id):
            try:
                states: dict[Partition, LogState] = await self._app.transport.read_log_states({partition: mark})
            except OSError as error:
                logger.warning("cannot compare %s-%d with what was applied: %s", *partition, error)
                await asyncio.sleep(_RETRY_S)
            else:
                return states[partition]
        return None

    def _report(self, partition: Partition, gap: Gap | None) -> None:
        if gap is None:
            return
        self._metrics.counter("log_gaps", partition[0], gap.kind).inc()
        level = logging.ERROR if gap.kind in {GapKind.CUT, GapKind.DELETED} else logging.WARNING
        logger.log(level, "%s-%d: %s", *partition, gap.text)
