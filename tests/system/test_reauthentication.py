"""Tokens that end and sessions that must authenticate again, under load: nothing is lost, doubled or interrupted.

`make secured` runs it for three minutes; here it is half a minute.
"""

import asyncio
import os
import time
from collections import Counter
from typing import Any, Final

import pytest

from stream.kafka.cluster.clients import async_consumer, async_producer
from stream.kafka.cluster.security import use_security
from stream.kafka.cluster.topics import create_or_check
from stream.settings import TopicSettings
from tests.system.secured_broker import SecuredBroker
from tests.system.token_server import SECRET, TokenServer

SECONDS: Final = 180 if os.environ.get("SECURED") == "full" else 30
LIFE_S: Final = 20
RENEWALS: Final = 6 if SECONDS == 180 else 1


@pytest.mark.timeout(SECONDS + 180)
async def test_sessions_are_renewed_under_load(
    secured_broker: SecuredBroker, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The broker ends a session after 10 s, tokens live for 20 s. A member of a group reads what a producer sends without a pause:
    every record once, no connection is broken, and the group never sees the member leave.
    """
    topic = f"{unique}-load"
    await asyncio.to_thread(create_or_check, secured_broker.plain, TopicSettings(partitions=2, clicks=topic), dev=True)
    with TokenServer(life_s=LIFE_S) as server:
        tokens = {"sasl_mechanism": "OAUTHBEARER", "token_url": server.url, "client_id": "app", "client_secret": SECRET}
        settings = secured_broker.settings("TOKEN", **tokens)
        use_security(settings)
        consumer = async_consumer(topic, bootstrap=settings.bootstrap, group_id=unique, auto_offset_reset="earliest")
        producer = async_producer(settings.bootstrap, linger_ms=5)
        await consumer.start()
        await producer.start()
        read: Counter[bytes] = Counter()
        reading = asyncio.create_task(read_into(consumer, read))
        try:
            generation = consumer._coordinator.generation
            sent = await send_for(producer, topic, SECONDS)
            async with asyncio.timeout(60):
                while read.total() < sent:
                    await asyncio.sleep(0.1)
            assert consumer._coordinator.generation == generation
        finally:
            reading.cancel()
            await producer.stop()
            await consumer.stop()
    assert (len(read), set(read.values())) == (sent, {1})
    assert server.given["app"] - 1 >= RENEWALS
    broken = [
        record.getMessage()
        for record in caplog.records
        if record.name.startswith("aiokafka") and ("renewed" in record.getMessage() or "closed" in record.getMessage())
    ]
    assert broken == []


async def read_into(consumer: Any, read: Counter[bytes]) -> None:
    async for record in consumer:
        read[record.value] += 1


async def send_for(producer: Any, topic: str, seconds: float) -> int:
    """Sends about a thousand records a second; returns how many."""
    ends = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < ends:
        pending = [await producer.send(topic, b"%d" % (sent + number)) for number in range(20)]
        await asyncio.gather(*pending)
        sent += len(pending)
        await asyncio.sleep(0.02)
    return sent
