"""Following a topic of an embedded log whole and for ever, as `stream.kafka.agents.followers.follow_kafka` does."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from stream.kafka.embedded.log import Log

_LOOK_S: Final = 1.0
_MANY: Final = 10_000


async def follow_log(
    log: Log, topic: str, apply: Callable[[Sequence[Any]], Any], ready: asyncio.Event, *, from_end: bool = False
) -> None:
    """Reads all partitions from their starts, or their ends; sets `ready` once all that was there at first is applied."""
    positions = [partition.end if from_end else partition.start for partition in log.topics[topic].partitions]
    while True:
        found: list[Any] = []
        for number, offset in enumerate(positions):
            records = log.read(topic, number, offset, _MANY)
            if records:
                positions[number] = records[-1].offset + 1
                found += records
        if found or not ready.is_set():
            await apply(found)
        ready.set()
        if not found:
            await log.wait(_LOOK_S)
