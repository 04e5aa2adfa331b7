"""From produce to acknowledged recommendation: clicks at a fixed rate on real Kafka, each of another user, so that each brings a
list.

A click's clock starts when it is due, not when the sender gets to it, and every list is waited for: else what is slowest is left
out of the figures. Where the sender itself cannot keep the rate there are no figures: they would be its own.
"""

import asyncio
import time
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.benchmarks.load import NOW_MS, TAGS

DRAIN_S = 30.0
SENDER_LATE_MS = 5.0


class _CausedBy(msgspec.Struct):
    event_id: str


class _List(msgspec.Struct):
    caused_by: _CausedBy


async def measure(bootstrap: str, rate: int, seconds: float, warm_s: float) -> dict[str, float]:
    """p50 and p99 in ms over `seconds`, after `warm_s`. A list that a consumer has read is acknowledged.

    Raises:
        TimeoutError: lists are missing, or the sender was late: the rate is more than can be kept up or made here, and then no
            percentile means anything.
    """
    consumer = AIOKafkaConsumer(
        "recommendations", bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="latest"
    )
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0)
    await consumer.start()
    await consumer.seek_to_end()
    await producer.start()
    sent: dict[str, float] = {}
    ages: list[float] = []
    wanted = int(rate * seconds)

    async def read() -> None:
        async for record in consumer:
            began = sent.pop(msgspec.json.decode(record.value, type=_List).caused_by.event_id, None)
            if began is not None:
                ages.append(time.perf_counter() - began)

    reading = asyncio.create_task(read())
    try:
        await _send(producer, rate, warm_s, "warm", {})
        late_ms = await _send(producer, rate, seconds, "timed", sent)
        await _all_there(ages, wanted)
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await producer.stop()
        await consumer.stop()
    if late_ms > SENDER_LATE_MS:
        raise TimeoutError(f"the sender was {late_ms:.0f} ms late at p99: this load cannot be made here beside the broker")
    p50, p99 = np.quantile(ages, [0.5, 0.99]) * 1_000
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


async def _all_there(ages: list[float], wanted: int) -> None:
    deadline = time.perf_counter() + DRAIN_S
    while len(ages) < wanted:
        if time.perf_counter() > deadline:
            raise TimeoutError(f"{len(ages)} lists for {wanted} clicks {DRAIN_S:.0f} s after the last one")
        await asyncio.sleep(0.05)


async def _send(producer: Any, rate: int, seconds: float, name: str, sent: dict[str, float]) -> float:
    """Gives how late it sent, p99 in ms."""
    began = time.perf_counter()
    late: list[float] = []
    for number in range(int(rate * seconds)):
        due = began + number / rate
        while (now := time.perf_counter()) < due:
            await asyncio.sleep(min(due - now, 0.001))
        late.append(now - due)
        event_id = f"{name}-{number}"
        tag = TAGS[number % len(TAGS)]
        value = f'{{"event_id":"{event_id}","user_id":"{event_id}","occurred_at":{NOW_MS - 1},"tags":["{tag}"]}}'.encode()
        sent[event_id] = due
        await producer.send("web-clicks", key=event_id.encode(), value=value)
    return float(np.quantile(late, 0.99)) * 1_000
