"""Watches a running app from outside its delivery: lag, stalled partitions, and topics that are recreated while it runs.

Only its topic id distinguishes a recreated topic. Its events carry a new epoch, and Faust would drop those below the offsets it
remembers, so the app has to be rebuilt (`renew`); the new one reads such a topic from its beginning.
"""

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from stream.errors import IsthmusError
from stream.formats.gate import SchemaGate
from stream.health import NOT_ASSIGNED, Health, PartitionProgress, Stalls
from stream.kafka.cluster.corrupt_batches import StoppedPartitions
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.stopped_reading import report_stopped
from stream.kafka.cluster.topics import TopicShape
from stream.kafka.cluster.view import ClusterView, Offsets
from stream.kafka.delivery.contracts import Message
from stream.kafka.faust.changelog import changelog_recreated
from stream.kafka.faust.watermarks import Watermarks
from stream.metrics import Metrics

logger = logging.getLogger(__name__)
INTERVAL_S: Final = 5.0
_POSITION_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, kw_only=True)
class Supervision:
    """How an app is watched.

    Attributes:
        view: The log's view of its group; None: one that the transport makes.
        health: Where its checks go.
        recreated: Input topics whose committed offsets belong to a deleted topic of the same name.
        changelog: The changelog's epoch, by its name; empty: not watched.
        stalled_s: A partition is stalled if it has work and its committed offset has not moved for this long.
        stopped: Partitions that stopped at a damaged batch.
        followed: Those of topics that the process follows whole.
        gate: Holds back records whose schema is not known; None: all topics are JSON.
    """

    view: ClusterView | None = None
    health: Health = field(default_factory=Health)
    recreated: frozenset[str] = frozenset()
    changelog: Mapping[str, int] = field(default_factory=dict)
    stalled_s: float = 300.0
    stopped: StoppedPartitions = field(default_factory=StoppedPartitions)
    followed: StoppedPartitions = field(default_factory=StoppedPartitions)
    gate: SchemaGate | None = None


class Watchdog:
    """The watchdog of one app.

    Attributes:
        epochs: Of the input topics, by name, as the app's batches carry them.
        renew: Set once an input topic was deleted or recreated, or one of its partitions cut.
    """

    def __init__(
        self,
        app: Any,
        view: ClusterView,
        epochs: Mapping[str, int],
        metrics: Metrics,
        watermarks: Watermarks,
        supervision: Supervision,
    ) -> None:
        self.epochs = epochs
        self.renew = asyncio.Event()
        self._app = app
        self._view = view
        self._metrics = metrics
        self._watermarks = watermarks
        self._changelog = dict(supervision.changelog)
        self._next_offsets: dict[Any, int] = {}
        self._stalls = Stalls(supervision.stalled_s, 4 * INTERVAL_S)
        self._open_transactions = Stalls(supervision.stalled_s, 4 * INTERVAL_S)
        self._logged_transactions: set[str] = set()
        self._stopped = supervision.stopped
        self._gate = supervision.gate or SchemaGate({})
        self._is_reachable = True
        self._shapes: Mapping[str, TopicShape] = {}
        health = supervision.health
        health.live["delivery"] = self._stalls.check
        health.ready["partitions"] = self._not_serving
        health.ready["group"] = self._no_heartbeat
        health.ready["schemas"] = self._gate.check
        metrics.gauge("stalled_partitions").set_function(lambda: float(len(self._stalls.stalled())))
        report_stopped(health, metrics, self._stopped, supervision.followed)
        metrics.gauge("waiting_partitions").set_function(lambda: float(len(self._gate.partitions())))
        app.timer(INTERVAL_S)(self._observe)

    async def may_handle(self, message: Message) -> bool:
        """Whether a batch belongs to the known epochs and its partition was not cut; if not, sets `renew`.

        Checked if its offsets went back or jumped, and once after each reconnection.
        """
        records, tp = message.value, message.tp
        if not records:
            return True  # only control records were passed
        expected = self._next_offsets.get(tp, 0)
        self._next_offsets[tp] = records[-1].offset + 1
        went_back = records[0].offset < expected
        if went_back and not await self.check_epochs():
            return False
        if (went_back or self._watermarks.is_doubtful(message)) and not await self._watermarks.still_continues(message):
            self.renew.set()
        return not self.renew.is_set()

    async def check_epochs(self) -> bool:
        """Whether the topics still have the known epochs; if not, sets `renew`, or, for the changelog, crashes the app."""
        if self.renew.is_set():
            return False
        try:
            self._shapes = await self._view.shapes([*self.epochs, *self._changelog])
        except OSError as error:
            if self._is_reachable:
                logger.warning("cannot check whether a topic was recreated: %s", error or "no answer in time")
            self._is_reachable = False
            return True
        self._is_reachable = True
        current = {name: shape.epoch for name, shape in self._shapes.items()}
        if any(name in current and current[name] != epoch for name, epoch in self._changelog.items()):
            await self._app.crash(IsthmusError(changelog_recreated(next(iter(self._changelog)))))
            return False
        changed = [name for name, epoch in self.epochs.items() if current.get(name) != epoch]
        if changed:
            logger.warning("topics recreated or deleted while running, restarting the app: %s", ", ".join(changed))
            self.renew.set()
        return not changed

    async def _check_counts(self) -> None:
        """Crashes the app if `check_epochs` has found added partitions of an input. Faust would learn of them in minutes, and what
        is sent to them meanwhile, erasures too, would wait in silence.
        """
        wanted = self._app.conf.topic_partitions
        counts = {name: shape.partitions for name, shape in self._shapes.items() if name in self.epochs}
        other = [f"{name} has {count} partitions now, not {wanted}" for name, count in counts.items() if count != wanted]
        if other:
            await self._app.crash(
                IsthmusError(
                    f"{'; '.join(other)}: nobody reads what producers send to the added ones. A count cannot be changed back: stop "
                    "the producers, keep what the topic holds, delete it, run `isthmus topics`, and send its records again"
                )
            )

    async def after_assignment(self) -> bool:
        """Forgets what was observed under the last assignment; returns the same as `check_epochs`."""
        self._next_offsets.clear()
        self._stalls.forget()
        self._open_transactions.forget()
        assigned = [(tp.topic, tp.partition) for tp in self._app.consumer.assignment()]
        self._stopped.keep(assigned)
        self._gate.keep(assigned)
        return await self.check_epochs()

    async def _observe(self) -> None:
        if not await self.check_epochs() or self._app.rebalancing or not self._is_reachable:
            return
        await self._check_counts()
        partitions = [(tp.topic, tp.partition) for tp in self._app.consumer.assignment() if tp.topic in self.epochs]
        try:
            offsets = await self._view.offsets(partitions)
            stopped = await self._retry_stopped()
        except OSError:
            return  # logged by `check_epochs`
        self._metrics.clear("committed_offset")
        self._metrics.clear("end_offset")
        for topic, number in partitions:
            self._metrics.gauge("committed_offset", topic, str(number)).set(offsets.committed[topic, number])
            self._metrics.gauge("end_offset", topic, str(number)).set(offsets.ends[topic, number])
        held = stopped | self._gate.partitions()
        behind = await self._behind(offsets.committed, offsets.stable) - held  # a restart would not help these
        places = {
            f"{topic}-{number}": PartitionProgress(offsets.committed[topic, number], (topic, number) in behind)
            for topic, number in partitions
        }
        self._stalls.observe(time.monotonic(), places)
        self._report_open_transactions(offsets)

    def _report_open_transactions(self, offsets: Offsets) -> None:
        """Logs each partition that a transaction holds up, once: nobody can read past it, and a restart would not help."""
        stable = {f"{topic}-{number}": (offset, offsets.ends[topic, number]) for (topic, number), offset in offsets.stable.items()}
        places = {name: PartitionProgress(offset, offset < end) for name, (offset, end) in stable.items()}
        self._open_transactions.observe(time.monotonic(), places)
        held = set(self._open_transactions.stalled())
        for name in sorted(held - self._logged_transactions):
            logger.warning(
                "%s: a producer's transaction is open at offset %d, and nothing behind it can be read until it ends: "
                "end it with `kafka-transactions.sh find-hanging` and `abort`, or wait for the producer's transaction timeout",
                name,
                stable[name][0],
            )
        self._logged_transactions = held

    async def _retry_stopped(self) -> set[Partition]:
        """Fetches partitions again that stopped at a corrupt batch: it may be skipped now, or be whole on another broker."""
        stopped = {(batch.topic, batch.partition) for batch in self._stopped.batches()}
        if stopped:
            self._stopped.allow(await self._view.skips(stopped, self.epochs))
            await self._app.consumer.retry(stopped)
        return stopped

    async def _behind(self, committed: Mapping[Partition, int], stable: Mapping[Partition, int]) -> set[Partition]:
        """Partitions with work left: batches not acknowledged, acknowledged offsets not committed, or readable records not fetched.

        An end offset beyond the committed one is not enough: transactions leave control records there that are never consumed.
        """
        consumer: Any = self._app.consumer
        unacked = {(message.tp.topic, message.tp.partition) for message in list(consumer._unacked_messages)}
        behind = set()
        tps = [tp for tp in consumer.assignment() if (tp.topic, tp.partition) in committed]
        positions = await self._positions(tps)
        for tp in tps:
            partition = (tp.topic, tp.partition)
            acknowledged = consumer._committed_offset[tp] or 0
            if partition in unacked or acknowledged > committed[partition] or positions.get(tp, 0) < stable[partition]:
                behind.add(partition)
        return behind

    async def _positions(self, tps: Sequence[Any]) -> Mapping[Any, int]:
        """The next offsets to fetch; none, so that all partitions count as behind, if the consumer does not answer."""
        try:
            found: Mapping[Any, int] = await asyncio.wait_for(self._app.consumer.positions(tps), _POSITION_TIMEOUT_S)
        except TimeoutError:
            return {}
        return found

    def _no_heartbeat(self) -> str | None:
        if self._not_serving() is not None or self._app.consumer.is_answered():
            return None
        return "the broker does not answer heartbeats: this process may lose its partitions"

    def _not_serving(self) -> str | None:
        if self.renew.is_set():
            return "a topic was deleted or recreated"
        if self._app.rebalancing_count == 0:
            return NOT_ASSIGNED
        return "being assigned, or their tables restored" if self._app.rebalancing else None


async def until_all_exist(view: ClusterView, topics: Iterable[str], stop: asyncio.Event) -> dict[str, int] | None:
    """Waits until all topics exist and returns their epochs; None once `stop` is set."""
    names = list(topics)
    logged = False
    while not stop.is_set():
        try:
            epochs = await view.epochs(names)
        except OSError:
            epochs = {}
        missing = [name for name in names if name not in epochs]
        if not missing:
            return epochs
        if epochs and not logged:
            logger.warning("waiting for %s: deleted and not yet created again (`isthmus topics`)", ", ".join(missing))
            logged = True
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0)
    return None
