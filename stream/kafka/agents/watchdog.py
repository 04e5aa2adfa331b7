"""Looks after a running app from outside its delivery: lag, stalled partitions, and topics recreated under it.

Kafka tells a recreated topic only by its id. Its events carry a new epoch, and Faust would drop those below the offsets that it
remembers: so the app is to be made anew (`renew`), which begins such a topic at its beginning.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from mode import get_logger

from stream.errors import IsthmusError
from stream.health import Health, Place, Stalls
from stream.kafka.cluster.view import ClusterView, Partition
from stream.metrics import Metrics

logger = get_logger(__name__)
EVERY_S: Final = 5.0
_ANSWER_S: Final = 10.0


class Watchdog:
    """Of one app. `epochs` are its input topics' epochs as its batches carry them, `changelog` its changelog's, by name."""

    def __init__(
        self,
        app: Any,
        view: ClusterView,
        epochs: Mapping[str, int],
        metrics: Metrics,
        health: Health,
        *,
        changelog: Mapping[str, int] | None = None,
        stalled_s: float = 300.0,
    ) -> None:
        self.epochs = epochs
        self.renew = asyncio.Event()
        self._app = app
        self._view = view
        self._metrics = metrics
        self._changelog = dict(changelog or {})
        self._next: dict[Any, int] = {}
        self._stalls = Stalls(stalled_s, 4 * EVERY_S)
        health.live["delivery"] = self._stalls.check
        health.ready["partitions"] = self._not_serving
        health.ready["group"] = self._not_answered
        metrics.gauge("stalled_partitions").set_function(lambda: float(len(self._stalls.stalled())))
        app.timer(EVERY_S)(self._look)

    async def may_handle(self, message: Any) -> bool:
        """Whether a batch may be handled under the known epochs. Where its offsets went back, the topic may be another."""
        records, tp = message.value, message.tp
        if not records:
            return True  # transaction markers alone were passed
        expected = self._next.get(tp, 0)
        self._next[tp] = records[-1].offset + 1
        return records[0].offset >= expected or await self.holds()

    async def holds(self) -> bool:
        """Whether the topics are still those of the known epochs; if not, `renew` is set (a changelog: the app crashes)."""
        if self.renew.is_set():
            return False
        try:
            found = await self._view.epochs([*self.epochs, *self._changelog])
        except OSError as error:
            logger.warning("whether a topic was recreated is not known: %s", error or "no answer in time")
            return True
        if any(name in found and found[name] != epoch for name, epoch in self._changelog.items()):
            await self._app.crash(IsthmusError(changelog_recreated(next(iter(self._changelog)))))
            return False
        changed = [name for name, epoch in self.epochs.items() if found.get(name) != epoch]
        if changed:
            logger.warning("recreated or deleted under us, so all is begun anew: %s", ", ".join(changed))
            self.renew.set()
        return not changed

    async def after_assignment(self) -> bool:
        """Begins anew after partitions were assigned; as `holds`."""
        self._next.clear()
        self._stalls.forget()
        return await self.holds()

    async def _look(self) -> None:
        if not await self.holds() or self._app.rebalancing:
            return
        wanted = [(tp.topic, tp.partition) for tp in self._app.consumer.assignment() if tp.topic in self.epochs]
        try:
            offsets = await self._view.offsets(wanted)
        except OSError:
            return  # told by `holds`
        self._metrics.clear("committed_offset")
        self._metrics.clear("end_offset")
        for topic, number in wanted:
            self._metrics.gauge("committed_offset", topic, str(number)).set(offsets.committed[topic, number])
            self._metrics.gauge("end_offset", topic, str(number)).set(offsets.ends[topic, number])
        behind = await self._behind(offsets.committed, offsets.ends)
        places = {
            f"{topic}-{number}": Place(offsets.committed[topic, number], (topic, number) in behind) for topic, number in wanted
        }
        self._stalls.observe(time.monotonic(), places)

    async def _behind(self, committed: Mapping[Partition, int], ends: Mapping[Partition, int]) -> set[Partition]:
        """Partitions with work: something delivered and not acknowledged, acknowledged and not committed, or not fetched yet.

        An end offset beyond the committed one alone says nothing: transactions leave markers there that nobody consumes.
        """
        consumer: Any = self._app.consumer
        unacked = {(message.tp.topic, message.tp.partition) for message in list(consumer._unacked_messages)}
        found = set()
        for tp in list(consumer.assignment()):
            one = (tp.topic, tp.partition)
            if one not in committed:
                continue
            believed = consumer._committed_offset[tp] or 0
            if one in unacked or believed > committed[one] or await self._position(tp) < ends[one]:
                found.add(one)
        return found

    async def _position(self, tp: Any) -> int:
        """The next offset to fetch; 0 where the consumer does not answer: then it is behind whatever there is."""
        try:
            return await asyncio.wait_for(self._app.consumer.position(tp), _ANSWER_S) or 0
        except TimeoutError:
            return 0

    def _not_answered(self) -> str | None:
        if self._not_serving() is not None or self._app.consumer.is_member():
            return None
        return "the broker has not answered a heartbeat within the session timeout: what is read and what waits is not known"

    def _not_serving(self) -> str | None:
        if self.renew.is_set():
            return "a topic was deleted or recreated"
        if self._app.rebalancing_count == 0:
            return "none are assigned yet"
        return "being assigned, or their tables restored" if self._app.rebalancing else None


def changelog_recreated(name: str) -> str:
    """What to say where a changelog is not the one that a worker's store continues."""
    group = name.rsplit("-users-", 1)[0]
    return (
        f"{name} was deleted and recreated: it no longer holds what the stores of users' states are restored from. To build the "
        "states anew from what the input topics still hold: stop all workers, delete their state directories (setting "
        f"worker.state_dir), run kafka-consumer-groups.sh --group {group} --reset-offsets --to-earliest --all-topics --execute, "
        "and start them again"
    )


async def until_all_exist(view: ClusterView, topics: Iterable[str], stop: asyncio.Event) -> dict[str, int] | None:
    """The epochs of the topics once all of them exist; None once `stop` is set."""
    wanted = list(topics)
    said = False
    while not stop.is_set():
        try:
            found = await view.epochs(wanted)
        except OSError:
            found = {}
        missing = [name for name in wanted if name not in found]
        if not missing:
            return found
        if found and not said:
            logger.warning("waiting for %s: deleted, or not created anew yet (`isthmus topics`)", ", ".join(missing))
            said = True
        with suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1.0)
    return None
