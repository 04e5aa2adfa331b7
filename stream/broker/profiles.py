"""The profile agent: batches of all five inputs through the pure step; what it brought about is made durable by a `Delivery`.

Nothing here knows in which order, or in which transaction.
"""

import time
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from mode import get_logger

from stream.broker.delivery import Emission
from stream.broker.finishing import Delivery, Work
from stream.broker.redelivery import Redelivery
from stream.broker.table import UserTable
from stream.broker.watch import Watch
from stream.core.dead_letters import DeadLetterLimit
from stream.core.events import Reason
from stream.core.outputs import Outcome
from stream.core.ranking import Catalogue, Ranker
from stream.core.records import Batch, Source
from stream.core.step import StepSettings
from stream.core.total import total_step
from stream.errors import IsthmusError
from stream.metrics import Metrics
from stream.settings import Topics

logger = get_logger(__name__)


@dataclass
class Serving:
    """What the followers keep up to date and every batch reads once."""

    ranker: Ranker | None = None
    catalogue: Catalogue = field(default_factory=Catalogue)


class Profiles:
    """One agent's work. Nothing is awaited between reading a user's state and deciding its new value."""

    def __init__(
        self,
        app: Any,
        sources: Mapping[str, Source],
        watch: Watch,
        table: UserTable,
        delivery: Delivery,
        serving: Serving,
        settings: StepSettings,
        topics: Topics,
        metrics: Metrics,
        limit: DeadLetterLimit,
        in_flight: int,
    ) -> None:
        self._app = app
        self._sources = sources
        self._watch = watch
        self._table = table
        self._delivery = delivery
        self._serving = serving
        self._settings = settings
        self._topics = topics
        self._metrics = metrics
        self._limit = limit
        self._number = 0
        self._redelivery = Redelivery(app.conf.broker_max_poll_records * in_flight)
        app.on_partitions_revoked.connect(self._on_revoked)
        app.on_rebalance_complete.connect(self._on_rebalanced)

    async def run(self, stream: Any) -> None:
        async for event in stream.noack().events():
            if self._delivery.is_current(event.message) and await self._watch.may_handle(event.message):
                await self._process(event)

    async def _process(self, event: Any) -> None:
        message = event.message
        topic, partition = message.topic, message.partition
        started = time.perf_counter()
        told = self._told(message)
        batch = Batch(self._sources[topic], topic, self._watch.epochs[topic], partition, message.value, told)
        outcome = total_step(batch, self._table.states(partition), self._serving.ranker, self._serving.catalogue, self._settings)
        self._look_at_dead_letters(batch, outcome)
        if told is not None:
            applied = outcome.counts["events", batch.source, "applied"]
            self._redelivery.handled((topic, partition), applied, [one.key for one in outcome.recommendations])
        self._number += 1
        number = self._number
        self._table.hold(partition, outcome.writes, number)
        stepped = time.perf_counter()
        outputs = [
            Emission(self._topics.recommendations, outcome.recommendations),
            Emission(self._topics.training_examples, outcome.examples),
            Emission(self._topics.dead_letters, outcome.dead_letters),
        ]
        changes = self._table.changes(partition, outcome.writes)

        def persist(offset: int) -> None:
            if outcome.writes:
                self._table.write(partition, outcome.writes, offset, number, outcome.new_users)
            self._count(outcome)
            self._observe("finish", time.perf_counter() - stepped)

        changelog = Emission(self._table.changelog, changes) if changes else None
        await self._delivery.deliver(Work(event, outputs, changelog, persist))
        self._observe("step", stepped - started)
        self._observe("send", time.perf_counter() - stepped)
        self._metrics.histogram("batch_records", batch.source).observe(len(batch.records))

    def _told(self, message: Any) -> AbstractSet[bytes] | None:
        """Of a batch that may have been handled before: who was sent a list since."""
        if not self._delivery.repeats or not message.value:
            return None
        end = self._app.consumer.highwater(message.tp) or 0
        return self._redelivery.told((message.topic, message.partition), message.value[0].offset, end)

    def _look_at_dead_letters(self, batch: Batch, outcome: Outcome) -> None:
        """Raises IsthmusError, before anything of the batch is sent, where too much of its topic cannot be used."""
        poisoned = outcome.counts["dead_letters", Reason.POISON]
        if poisoned:
            logger.error("%d events of %s made the step raise; their dead letters say where", poisoned, batch.topic)
        broken = self._limit.add(batch.topic, len(batch.records), outcome.dead_letters)
        if broken is not None:
            raise IsthmusError(broken)

    def _count(self, outcome: Outcome) -> None:
        """Metrics of a batch that is durable: counted once however often it was delivered before."""
        self._metrics.count(outcome.counts)
        self._metrics.gauge("users").inc(outcome.new_users)
        if outcome.moments:
            ages = np.maximum(0.0, time.time() - np.array(outcome.moments, dtype=np.float64) / 1_000)  # (lists, 2)
            self._metrics.ages("age_from_event_seconds").observe_many(ages[:, 0])
            self._metrics.ages("age_from_broker_seconds").observe_many(ages[:, 1])

    def _observe(self, stage: str, seconds: float) -> None:
        self._metrics.histogram("stage_seconds", stage).observe(seconds)

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self._table.drop_overlay()
        self._delivery.forget()
        self._redelivery.forget()

    async def _on_rebalanced(self, *_: Any, **__: Any) -> None:
        numbers = {tp.partition for tp in self._app.consumer.assignment() if tp.topic in self._sources}
        self._metrics.gauge("users").set(sum(self._table.count_users(number) for number in numbers))
        logger.info("serving %d partition numbers", len(numbers))
