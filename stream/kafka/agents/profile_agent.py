"""The profile agent: batches of all inputs go through the pure step; a `Delivery` makes what comes out durable.

Nothing here knows in which order, or in which transaction.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from stream.core.dead_letters import DeadLetterLimit
from stream.core.events import Reason, Source
from stream.core.outputs import Count, Outcome, Output
from stream.core.poison import step_many_isolating_poison
from stream.core.records import Batch, time_span
from stream.core.step import StepConfig, StepInput
from stream.core.watermarks import encode_watermark, watermark_key
from stream.errors import IsthmusError
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.agents.watchdog import Watchdog
from stream.kafka.delivery.contracts import Delivery, Emission, Message, ProcessedBatch
from stream.kafka.delivery.redelivery import RedeliveryTracker
from stream.kafka.faust.user_table import UserTable
from stream.kafka.faust.watermarks import Watermarks
from stream.metrics import Metrics
from stream.settings import TopicSettings

logger = logging.getLogger(__name__)
_CONSEQUENCES: Final = {
    Source.ERASURE: "their users are not erased",
    Source.ELIGIBILITY: "lists may contain what must not be offered",
    Source.PURCHASE: "what was bought may be offered again",
}
"""Of dead letters that are worth a log line each batch. Those of clicks and calls are too many, and metrics are enough."""
UNUSABLE: Final = (
    "%d records of %s could not be used: %s. `isthmus dead-letters list --topic %s` says why; fix the cause and replay them"
)
_IDLE_ERASURES: Final[Mapping[Count, str]] = {
    ("erasures_without_effect",): (
        "are older than all that is known of their users and erased nothing: check the times that their producer sends, then send "
        "them again"
    ),
    ("events", Source.ERASURE, "duplicate_event"): (
        "repeat earlier ones under their ids, without a time, and erased nothing more: a new request needs a new event_id or an "
        "occurred_at"
    ),
}
_LOOP_TURNS: Final = 4


@dataclass(frozen=True, kw_only=True)
class ProfileContext:
    """What the profile agent of an app works with.

    Attributes:
        sources: The input topics, by name.
        epochs: Their epochs, by name.
        served: The model and the catalogue.
        step: The step's configuration.
        topics: Names of the output topics.
        metrics: Where it counts.
        limit: How many dead letters of a topic stop the worker.
        in_flight: Unacknowledged batches per partition number, at most.
        flat: Turns lists into flat ones, which are sent too; None: they are not.
    """

    sources: Mapping[str, Source]
    epochs: Mapping[str, int]
    served: ServedModel
    step: StepConfig
    topics: TopicSettings
    metrics: Metrics
    limit: DeadLetterLimit = field(default_factory=DeadLetterLimit)
    in_flight: int = 6
    flat: Callable[[Iterable[Output]], Iterable[Output]] | None = None


class ProfileAgent:
    """Nothing is awaited between reading a user's state and deciding its new value, so batches cannot interleave."""

    def __init__(
        self, app: Any, context: ProfileContext, watchdog: Watchdog, watermarks: Watermarks, table: UserTable, delivery: Delivery
    ) -> None:
        self._app = app
        self._watermarks = watermarks
        self._context = context
        self._metrics = context.metrics
        self._watchdog = watchdog
        self._table = table
        self._delivery = delivery
        self._batches = 0
        self._max_records = app.conf.broker_max_poll_records
        self._redelivery = RedeliveryTracker(self._max_records * context.in_flight)
        app.on_partitions_revoked.connect(self._on_revoked)
        app.on_rebalance_complete.connect(self._on_rebalanced)

    async def run(self, stream: Any) -> None:
        async with aclosing(coalesce_ready_batches(stream.noack().events(), self._max_records)) as ready:
            async for events in ready:
                allowed = [event for event in events if await self._may_handle(event.message)]
                current = [event for event in allowed if self._delivery.is_current(event.message)]
                if current:
                    await self._process(current)

    async def _may_handle(self, message: Message) -> bool:
        if not self._delivery.is_current(message):
            return False
        if await self._watchdog.may_handle(message):
            return True
        self._app.consumer.abandon(message)
        return False

    async def _process(self, events: Sequence[Any]) -> None:
        """Processes batches of different partition numbers in one step."""
        context, started = self._context, time.perf_counter()
        inputs = [self._step_input(event.message) for event in events]
        outcomes = step_many_isolating_poison(inputs, context.served.ranker, context.served.catalogue, context.step)
        stepped = time.perf_counter()
        processed = [
            self._processed(event, step_input.batch, outcome, stepped)
            for event, step_input, outcome in zip(events, inputs, outcomes, strict=True)
        ]
        for batch in processed:
            await self._delivery.deliver(batch)
        self._observe("step", stepped - started)
        self._observe("send", time.perf_counter() - stepped)

    def _step_input(self, message: Message) -> StepInput:
        topic, partition = message.topic, message.partition
        source, epoch = self._context.sources[topic], self._watchdog.epochs[topic]
        boundaries = self._watermarks.boundaries((topic, partition))
        batch = Batch(source, topic, epoch, partition, message.value, self._notified_users(message), boundaries)
        return StepInput(batch, self._table.states(partition))

    def _processed(self, event: Any, batch: Batch, outcome: Outcome, stepped: float) -> ProcessedBatch:
        """What is left to do of a batch; its new states become visible to the batches that follow."""
        partition = batch.partition
        self._check_dead_letters(batch, outcome)
        if batch.source is Source.ERASURE:
            _warn_of_idle_erasures(batch, outcome)
        self._track_redelivery(batch, outcome)
        watermark = self._watermarks.advance((batch.topic, partition), batch.records)
        if watermark is not None:
            watermarks = {**self._watermarks.take_unstored(partition), batch.topic: watermark}
            outcome.writes.update((watermark_key(topic), encode_watermark(value)) for topic, value in watermarks.items())
        self._batches += 1
        number = self._batches
        self._table.add_to_overlay(partition, outcome.writes, number)
        self._metrics.histogram("batch_records", batch.source).observe(len(batch.records))
        changes = self._table.changes(partition, outcome.writes)

        def persist(offset: int) -> None:
            if outcome.writes:
                self._table.write(partition, outcome.writes, offset, number, outcome.new_users)
            self._count(outcome)
            self._observe("finish", time.perf_counter() - stepped)

        changelog = Emission(self._table.changelog, changes) if changes else None
        return ProcessedBatch(event, self._emissions(outcome), changelog, persist)

    def _emissions(self, outcome: Outcome) -> list[Emission]:
        topics, to_flat = self._context.topics, self._context.flat
        flat = [] if to_flat is None else [Emission(topics.flat_recommendations, list(to_flat(outcome.recommendations)))]
        return [
            Emission(topics.recommendations, outcome.recommendations),
            *flat,
            Emission(topics.training_examples, outcome.examples),
            Emission(topics.dead_letters, outcome.dead_letters),
        ]

    def _notified_users(self, message: Message) -> AbstractSet[bytes] | None:
        """For a batch that may be a redelivery, the users who were sent a list since the assignment; else None."""
        if not self._delivery.repeats or not message.value:
            return None
        end = self._app.consumer.highwater(message.tp) or 0
        return self._redelivery.notified_users((message.topic, message.partition), message.value[0].offset, end)

    def _track_redelivery(self, batch: Batch, outcome: Outcome) -> None:
        if batch.notified_users is not None:
            applied = outcome.counts["events", batch.source, "applied"]
            users = [recommendation.key for recommendation in outcome.recommendations]
            self._redelivery.processed((batch.topic, batch.partition), applied, users)

    def _check_dead_letters(self, batch: Batch, outcome: Outcome) -> None:
        """Called before anything of the batch is sent.

        Raises:
            IsthmusError: too many of the topic's records are dead letters.
        """
        poisoned = outcome.counts["dead_letters", Reason.POISON]
        if poisoned:
            logger.error("%d events of %s made the step raise; their dead letters contain the location", poisoned, batch.topic)
        if outcome.dead_letters and batch.source in _CONSEQUENCES:
            consequence = _CONSEQUENCES[batch.source]
            logger.error(UNUSABLE, len(outcome.dead_letters), batch.topic, consequence, batch.topic)
        exceeded = self._context.limit.add(batch.topic, len(batch.records), outcome.dead_letters, *time_span(batch.records))
        if exceeded is not None:
            raise IsthmusError(exceeded)

    def _count(self, outcome: Outcome) -> None:
        """Counts a batch once it is durable, so that a redelivered one is not counted twice."""
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
        self._delivery.drop_in_flight()
        self._redelivery.reset()

    async def _on_rebalanced(self, *_: Any, **__: Any) -> None:
        numbers = {tp.partition for tp in self._app.consumer.assignment() if tp.topic in self._context.sources}
        self._metrics.gauge("users").set(sum(self._table.count_users(number) for number in numbers))
        logger.info("serving %d partition numbers", len(numbers))


def _warn_of_idle_erasures(batch: Batch, outcome: Outcome) -> None:
    for count, why in _IDLE_ERASURES.items():
        if outcome.counts[count]:
            place = (batch.topic, batch.partition, batch.records[0].offset, batch.records[-1].offset)
            logger.warning("%d erasures of %s-%d at offsets %d to %d %s", outcome.counts[count], *place, why)


async def coalesce_ready_batches(events: AsyncIterator[Any], max_records: int) -> AsyncGenerator[list[Any]]:
    """Groups batches that are ready at the same time, in order, without waiting for more.

    A group has at most one batch per partition number, and at most `max_records` records unless its only batch has more.
    """
    following = asyncio.ensure_future(anext(events))
    try:
        while True:
            try:
                group = [await following]
            except StopAsyncIteration:
                return
            following = asyncio.ensure_future(anext(events))
            while await _is_ready(following) and _fits(following.result(), group, max_records):
                group.append(following.result())
                following = asyncio.ensure_future(anext(events))
            yield group
    finally:
        following.cancel()


async def _is_ready(following: "asyncio.Future[Any]") -> bool:
    """Whether it has a result after a few turns of the event loop, which a Faust stream takes even if its queue is not empty."""
    for _ in range(_LOOP_TURNS):
        if following.done():
            break
        await asyncio.sleep(0)
    return following.done() and not following.cancelled() and following.exception() is None


def _fits(event: Any, group: Sequence[Any], max_records: int) -> bool:
    messages = [other.message for other in group]
    records = sum(len(message.value) for message in messages) + len(event.message.value)
    return records <= max_records and event.message.partition not in {message.partition for message in messages}
