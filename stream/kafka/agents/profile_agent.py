"""The profile agent: batches of all five inputs through the pure step; what it brought about is made durable by a `Delivery`.

Nothing here knows in which order, or in which transaction.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from mode import get_logger

from stream.core.dead_letters import DeadLetterLimit
from stream.core.events import Reason, Source
from stream.core.outputs import Outcome
from stream.core.poison import step_many_isolating_poison
from stream.core.ranking import Catalogue, Ranker
from stream.core.records import Batch
from stream.core.step import StepConfig, StepInput
from stream.errors import IsthmusError
from stream.kafka.agents.watchdog import Watchdog
from stream.kafka.delivery.at_least_once import Delivery, ProcessedBatch
from stream.kafka.delivery.redelivery import RedeliveryTracker
from stream.kafka.faust.batch_consumer import Emission
from stream.kafka.faust.user_table import UserTable
from stream.metrics import Metrics
from stream.settings import TopicSettings

logger = get_logger(__name__)
_TURNS: Final = 4


@dataclass
class ServedModel:
    """What the followers keep up to date and every batch reads once."""

    ranker: Ranker | None = None
    catalogue: Catalogue = field(default_factory=Catalogue)


class ProfileAgent:
    """One agent's work. Nothing is awaited between reading a user's state and deciding its new value."""

    def __init__(
        self,
        app: Any,
        sources: Mapping[str, Source],
        watch: Watchdog,
        table: UserTable,
        delivery: Delivery,
        serving: ServedModel,
        settings: StepConfig,
        topics: TopicSettings,
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
        self._most_records = app.conf.broker_max_poll_records
        self._redelivery = RedeliveryTracker(self._most_records * in_flight)
        app.on_partitions_revoked.connect(self._on_revoked)
        app.on_rebalance_complete.connect(self._on_rebalanced)

    async def run(self, stream: Any) -> None:
        async with aclosing(coalesce_ready_batches(stream.noack().events(), self._most_records)) as ready:
            async for events in ready:
                allowed = [event for event in events if await self._may_handle(event.message)]
                current = [event for event in allowed if self._delivery.is_current(event.message)]
                if current:
                    await self._process(current)

    async def _may_handle(self, message: Any) -> bool:
        if not self._delivery.is_current(message):
            return False
        if await self._watch.may_handle(message):
            return True
        self._app.consumer.abandon(message)
        return False

    async def _process(self, events: Sequence[Any]) -> None:
        """Batches of different partition numbers at once."""
        started = time.perf_counter()
        parts = [self._part(event.message) for event in events]
        outcomes = step_many_isolating_poison(parts, self._serving.ranker, self._serving.catalogue, self._settings)
        stepped = time.perf_counter()
        works = [self._work(*one, stepped) for one in zip(events, parts, outcomes, strict=True)]
        for work in works:
            await self._delivery.deliver(work)
        self._observe("step", stepped - started)
        self._observe("send", time.perf_counter() - stepped)

    def _part(self, message: Any) -> StepInput:
        topic, partition = message.topic, message.partition
        told = self._told(message)
        batch = Batch(self._sources[topic], topic, self._watch.epochs[topic], partition, message.value, told)
        return StepInput(batch, self._table.states(partition))

    def _work(self, event: Any, part: StepInput, outcome: Outcome, stepped: float) -> ProcessedBatch:
        """What is left to do of a batch; its new states are shown to the batches that follow."""
        batch = part.batch
        partition = batch.partition
        self._look_at_dead_letters(batch, outcome)
        if batch.notified_users is not None:
            applied = outcome.counts["events", batch.source, "applied"]
            self._redelivery.handled((batch.topic, partition), applied, [one.key for one in outcome.recommendations])
        self._number += 1
        number = self._number
        self._table.hold(partition, outcome.writes, number)
        self._metrics.histogram("batch_records", batch.source).observe(len(batch.records))
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
        return ProcessedBatch(event, outputs, changelog, persist)

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
        if outcome.cause_times:
            ages = np.maximum(0.0, time.time() - np.array(outcome.cause_times, dtype=np.float64) / 1_000)  # (lists, 2)
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


async def coalesce_ready_batches(events: AsyncIterator[Any], most: int) -> AsyncGenerator[list[Any]]:
    """Batches that lie ready together, in order: of different partition numbers, and with `most` records at most unless one batch
    has more. Nothing is waited for.
    """
    following = asyncio.ensure_future(anext(events))
    try:
        while True:
            try:
                ready = [await following]
            except StopAsyncIteration:
                return
            following = asyncio.ensure_future(anext(events))
            while await _is_ready(following) and _fits(following.result(), ready, most):
                ready.append(following.result())
                following = asyncio.ensure_future(anext(events))
            yield ready
    finally:
        following.cancel()


async def _is_ready(following: "asyncio.Future[Any]") -> bool:
    """Whether it has a result after a few turns of the loop, which a stream takes even where its queue is full."""
    for _ in range(_TURNS):
        if following.done():
            break
        await asyncio.sleep(0)
    return following.done() and not following.cancelled() and following.exception() is None


def _fits(event: Any, ready: Sequence[Any], most: int) -> bool:
    messages = [other.message for other in ready]
    records = sum(len(message.value) for message in messages) + len(event.message.value)
    return records <= most and event.message.partition not in {message.partition for message in messages}
