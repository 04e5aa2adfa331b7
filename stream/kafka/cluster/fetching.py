"""Reading an assigned aiokafka consumer to its partitions' ends."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from aiokafka import AIOKafkaConsumer

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
