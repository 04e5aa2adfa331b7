"""From produce to acknowledged recommendation: clicks at a fixed rate on real Kafka, each of another user, so that each brings a
list.
"""

import asyncio
import time
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.benchmarks.load import NOW_MS, TAGS


class _CausedBy(msgspec.Struct):
    event_id: str


class _List(msgspec.Struct):
    caused_by: _CausedBy


async def measure(bootstrap: str, rate: int, seconds: float, warm_s: float) -> dict[str, float]:
    """p50 and p99 in ms over `seconds`, after `warm_s`. A list that a consumer has read is acknowledged."""
    consumer = AIOKafkaConsumer(
        "recommendations", bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="latest"
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0)
    await consumer.start()
    await consumer.seek_to_end()
    await producer.start()
    sent: dict[str, float] = {}
    ages: list[float] = []

    async def read() -> None:
        async for record in consumer:
            began = sent.pop(msgspec.json.decode(record.value, type=_List).caused_by.event_id, None)
            if began is not None:
                ages.append(time.perf_counter() - began)

    reading = asyncio.create_task(read())
    try:
        await _send(producer, rate, warm_s, "warm", {})
        await _send(producer, rate, seconds, "timed", sent)
        await asyncio.sleep(1.0)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await producer.stop()
        await consumer.stop()
    assert len(ages) > 0.9 * rate * seconds, f"{len(ages)} lists for {rate * seconds:.0f} clicks"
    p50, p99 = np.quantile(ages, [0.5, 0.99]) * 1_000
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


async def _send(producer: Any, rate: int, seconds: float, name: str, sent: dict[str, float]) -> None:
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = began + number / rate
        while (now := time.perf_counter()) < due:
            await asyncio.sleep(min(due - now, 0.001))
        event_id = f"{name}-{number}"
        tag = TAGS[number % len(TAGS)]
        value = f'{{"event_id":"{event_id}","user_id":"{event_id}","occurred_at":{NOW_MS - 1},"tags":["{tag}"]}}'.encode()
        sent[event_id] = time.perf_counter()
        await producer.send("web-clicks", key=event_id.encode(), value=value)
