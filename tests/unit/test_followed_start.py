"""The start of a process that follows whole topics."""

import asyncio
from typing import Any

import pytest

from stream.health import Health
from stream.kafka.cluster import topic_follower
from stream.kafka.cluster.corrupt_batches import CorruptBatch, StoppedPartitions
from stream.services.process import followed
from stream.services.startup import Startup


async def test_a_start_that_waits_at_a_damaged_batch_tells_it_and_ends_at_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes no further than the damaged topic, and needs no kill."""
    read = list[str]()

    async def follow(*arguments: Any) -> None:
        _, topic, _, _, stopped = arguments
        read.append(topic)
        stopped.skip_to(CorruptBatch(topic, 0, 3, 5))
        await asyncio.Event().wait()

    monkeypatch.setattr(topic_follower, "follow_topic", follow)
    health, stop, stopped = Health(), asyncio.Event(), StoppedPartitions()

    async def start() -> None:
        async with followed("b:1", {"items": None, "models": None}, health, stop, Startup(lambda _: None), stopped):  # type: ignore[dict-item]
            pass

    starting = asyncio.create_task(start())
    async with asyncio.timeout(30):
        while stopped.check() is None:
            await asyncio.sleep(0.01)
    assert not starting.done()
    assert health.ready["items"]() == "is not read whole yet"
    stop.set()
    await asyncio.wait_for(starting, 30)
    assert read == ["items"]
