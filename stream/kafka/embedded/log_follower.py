"""Follows a topic of an embedded log for ever, as `stream.kafka.cluster.topic_follower.follow_topic` does for Kafka."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from stream.kafka.embedded.log import Log

_WAIT_S: Final = 1.0
_READ_RECORDS: Final = 10_000


async def follow_log(
    log: Log, topic: str, apply: Callable[[Sequence[Any]], Any], ready: asyncio.Event, *, from_end: bool = False
) -> None:
    """Applies all records of a topic, or those after its present end; sets `ready` once what existed at the start is applied."""
    positions = [partition.end if from_end else partition.start for partition in log.topics[topic].partitions]
    while True:
        batch: list[Any] = []
        for number, offset in enumerate(positions):
            records = log.read(topic, number, offset, _READ_RECORDS)
            if records:
                positions[number] = records[-1].offset + 1
                batch += records
        if batch or not ready.is_set():
            await apply(batch)
        ready.set()
        if not batch:
            await log.wait(_WAIT_S)
