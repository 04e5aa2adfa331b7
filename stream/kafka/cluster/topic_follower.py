"""Following whole topics for ever, over aiokafka and without a group."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError

from stream.kafka.cluster import batch_reading
from stream.kafka.cluster.clients import QUIET_WAIT_MS, READ_COMMITTED, async_consumer
from stream.kafka.cluster.corrupt_batches import PassCorruptBatches, StoppedPartitions
from stream.kafka.cluster.fetching import fetch_until
from stream.kafka.cluster.log_state import MARK_FETCH_BYTES, Mark, read_log_states
from stream.kafka.cluster.stopped_reading import StopsAtDamage
from stream.kafka.cluster.view import KafkaClusterView

logger = logging.getLogger("isthmus")
CHECK_S: Final = 5.0
_CHECK_TIMEOUT_S: Final = 10.0
_AGAIN_S: Final = 1.0


class Apply(Protocol):
    """Applies records of a topic. With `replace` they are all that it holds: what was applied before is no longer true."""

    async def __call__(self, records: Sequence[Any], *, replace: bool = False) -> None: ...


async def follow_topic(bootstrap: str, topic: str, apply: Apply, ready: asyncio.Event, stopped: StoppedPartitions) -> None:
    """Applies all records of a topic, then new ones for ever; sets `ready` once all that existed at the start is applied.

    If the topic was recreated or its log was cut, checked every `CHECK_S`, it is read whole again and replaces what was applied;
    until then `ready` is cleared. A partition stops at a damaged batch, is noted in `stopped`, and goes on once the batch is whole
    or an operator has given it up: what was applied stays, and at the start `ready` waits for it.
    """
    batch_reading.install()
    view = KafkaClusterView(bootstrap, "")
    is_again = False
    try:
        while True:
            try:
                await _follow_log(bootstrap, topic, apply, ready, view, stopped, is_again=is_again)
            except (OSError, KafkaError) as error:
                if not is_again or ready.is_set():
                    raise
                logger.warning("%s cannot be read again yet: %s", topic, error or type(error).__name__)
                await asyncio.sleep(_AGAIN_S)
                continue
            logger.error("%s was recreated, or its log was cut: it is read whole again and replaces what was read before", topic)
            is_again = True
            ready.clear()
    finally:
        await view.close()


async def _follow_log(
    bootstrap: str,
    topic: str,
    apply: Apply,
    ready: asyncio.Event,
    view: KafkaClusterView,
    stopped: StoppedPartitions,
    *,
    is_again: bool,
) -> None:
    """Reads a topic whole and follows it; returns once its log does not continue what was read."""
    epoch = (await view.epochs([topic])).get(topic)
    async with (
        _stopping_consumer(bootstrap, topic, stopped, view) as (consumer, damage),
        _started(_mark_consumer(bootstrap)) as mark_reader,
    ):
        marks = await _read_whole(consumer, damage, apply, replace=is_again)
        # Only now: a broker answers the requests of one connection in turn, and the topic's end was asked for on the fetch's.
        consumer._fetcher._fetch_max_wait_ms = QUIET_WAIT_MS
        ready.set()
        check_at = time.monotonic() + CHECK_S
        while True:
            wait_ms = max(0, round((check_at - time.monotonic()) * 1_000))
            for tp, records in (await consumer.getmany(timeout_ms=wait_ms)).items():
                if tp in marks and records[0].offset <= marks[tp].offset:
                    return  # the position was beyond the end, and aiokafka has begun again
                await apply(records)
                damage.note_read(tp, records[-1].offset + 1)
                marks[tp] = Mark(records[-1].offset, records[-1].timestamp)
            if time.monotonic() >= check_at:
                if not await _is_continued(view, topic, epoch, mark_reader, marks):
                    return
                check_at = time.monotonic() + CHECK_S


async def _read_whole(consumer: AIOKafkaConsumer, damage: StopsAtDamage, apply: Apply, *, replace: bool) -> dict[Any, Mark]:
    """Applies what a topic holds; returns the last record of each partition."""
    partitions = sorted(consumer.assignment())
    records: list[Any] = []
    marks: dict[Any, Mark] = {}
    async for tp, fetched, position in fetch_until(consumer, await consumer.end_offsets(partitions)):
        records += fetched
        damage.note_read(tp, position)
        if fetched:
            marks[tp] = Mark(fetched[-1].offset, fetched[-1].timestamp)
    await apply(records, replace=replace)
    consumer.resume(*partitions)
    return marks


async def _is_continued(
    view: KafkaClusterView, topic: str, epoch: int | None, mark_reader: AIOKafkaConsumer, marks: dict[Any, Mark]
) -> bool:
    """Whether a topic is the one with this epoch and holds the marked records. True as long as it is deleted or does not answer."""
    try:
        current = (await view.epochs([topic])).get(topic, epoch)
        if current != epoch:
            return False
        async with asyncio.timeout(_CHECK_TIMEOUT_S):
            states = await read_log_states(mark_reader, marks)
    except (OSError, KafkaError) as error:
        logger.warning("cannot check whether %s was recreated or cut: %s", topic, error or "no answer in time")
        return True
    return all(states[tp].holds(mark) for tp, mark in marks.items())


@asynccontextmanager
async def _stopping_consumer(
    bootstrap: str, topic: str, stopped: StoppedPartitions, view: KafkaClusterView
) -> AsyncIterator[tuple[AIOKafkaConsumer, StopsAtDamage]]:
    consumer = _new_consumer(bootstrap, topic, auto_offset_reset="earliest")
    damage = StopsAtDamage(consumer, stopped, view)
    stopped.forget([topic])
    async with _started(consumer):
        retrying = asyncio.create_task(damage.keep_retrying())
        try:
            yield consumer, damage
        finally:
            retrying.cancel()
            with suppress(asyncio.CancelledError):
                await retrying


def _mark_consumer(bootstrap: str) -> AIOKafkaConsumer:
    return _new_consumer(
        bootstrap, auto_offset_reset="none", check_crcs=PassCorruptBatches(), max_partition_fetch_bytes=MARK_FETCH_BYTES
    )


def _new_consumer(bootstrap: str, *topics: str, **settings: Any) -> AIOKafkaConsumer:
    return async_consumer(*topics, bootstrap=bootstrap, enable_auto_commit=False, isolation_level=READ_COMMITTED, **settings)


@asynccontextmanager
async def _started(consumer: AIOKafkaConsumer) -> AsyncIterator[AIOKafkaConsumer]:
    try:
        await consumer.start()
        yield consumer
    finally:
        await consumer.stop()
