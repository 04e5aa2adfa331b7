"""Produces a small catalogue and one customer's events, as a well-behaved producer does: key = user, murmur2, acks=all, idempotent.

python -m examples.produce_events localhost:9092
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from aiokafka import AIOKafkaProducer

CATALOGUE = (
    {"item_id": "18", "name": "Dog insurance", "text": "covers vet bills"},
    {"item_id": "4", "name": "Travel insurance", "text": "for trips abroad"},
    {"item_id": "7", "name": "Roadside help", "repeatable": True},
)


def events(user: str, now_ms: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(topic, event) in event order: two clicks of one session, a call and a purchase."""
    minute_ms = 60_000
    yield "web-clicks", {"user_id": user, "occurred_at": now_ms - 9 * minute_ms, "tags": ["pets", "dog"], "event_id": "e-1"}
    yield "web-clicks", {"user_id": user, "occurred_at": now_ms - 8 * minute_ms, "tags": ["pets", "price"], "event_id": "e-2"}
    yield (
        "call-transcripts",
        {
            "user_id": user,
            "conversation_id": "call-3",
            "started_at": now_ms - 5 * minute_ms,
            "ended_at": now_ms - 2 * minute_ms,
            "sentences": [
                {"speaker": "customer", "text": "We have got a dog now."},
                {"speaker": "agent", "text": "Would you like to hear about dog insurance?"},
            ],
        },
    )
    yield "purchases", {"user_id": user, "occurred_at": now_ms, "items": ["18"], "event_id": "e-3"}


async def produce(bootstrap: str, user: str) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
        for item in CATALOGUE:
            await producer.send_and_wait("items", key=str(item["item_id"]).encode(), value=json.dumps(item).encode())
        for topic, event in events(user, time.time_ns() // 1_000_000):
            await producer.send_and_wait(topic, key=user.encode(), value=json.dumps(event).encode())


if __name__ == "__main__":
    asyncio.run(produce(sys.argv[1], "c-17"))
