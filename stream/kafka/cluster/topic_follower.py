"""Reading topics to their ends, or for ever, over aiokafka and without a group."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer

from stream.kafka.cluster import batch_reading
from stream.kafka.cluster.clients import READ_COMMITTED
from stream.kafka.cluster.corrupt_batches import SkipCorruptBatches

_FETCH_MS: Final = 200


async def fetch_until(
    consumer: AIOKafkaConsumer, ends: Mapping[Any, int], max_records: int | None = None
) -> AsyncIterator[tuple[Any, Sequence[Any], int]]:
    """Yields (topic partition, records, next position) of an assigned consumer until each position has reached its end.

    `records` is empty where only compacted offsets or control records were passed. A partition that has reached its end is paused.
    """
    positions = {tp: await consumer.position(tp) for tp in ends}
    while True:
        for tp in [tp for tp, position in positions.items() if position >= ends[tp]]:
            consumer.pause(tp)
            del positions[tp]
        if not positions:
            return
        fetched = await consumer.getmany(timeout_ms=_FETCH_MS, max_records=max_records)
        for tp, before in positions.items():
            positions[tp] = await consumer.position(tp)
            if positions[tp] > before:
                yield tp, fetched.get(tp, ()), positions[tp]


async def follow_topic(bootstrap: str, topic: str, apply: Callable[[Sequence[Any]], Any], ready: asyncio.Event) -> None:
    """Applies all records of a topic, then new ones for ever; sets `ready` once all that existed at the start is applied.

    A batch whose checksum fails is logged and left out: publishing its records again mends it.
    """
    batch_reading.install()
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=READ_COMMITTED,
        check_crcs=SkipCorruptBatches(),
    )
    await consumer.start()
    try:
        partitions = sorted(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        records: list[Any] = []
        async for _, fetched, _ in fetch_until(consumer, ends):
            records += fetched
        await apply(records)
        ready.set()
        consumer.resume(*partitions)
        while True:
            for batch in (await consumer.getmany(timeout_ms=1_000)).values():
                await apply(batch)
    finally:
        await consumer.stop()
