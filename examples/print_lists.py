"""Prints each user's list as it changes: `python -m examples.print_lists localhost:9092`. It suits both delivery guarantees."""

import asyncio
import json
from argparse import Namespace

from aiokafka import AIOKafkaConsumer

from examples.secured import client_options, parsed


def line(key: bytes, value: bytes | None) -> str:
    """One record in words. A tombstone follows an erasure."""
    if value is None:
        return f"{key.decode()}: forgotten"
    recommendation = json.loads(value)
    items = ", ".join(f"{ranked['item']} ({ranked['score']:.3f})" for ranked in recommendation["items"])
    why = recommendation.get("fallback") or f"after a {recommendation['caused_by']['type']}"
    return f"{recommendation['user_id']}: {items}  [{recommendation['model']['name']}, {why}]"


async def follow(options: Namespace) -> None:
    read = {"bootstrap_servers": options.bootstrap, "auto_offset_reset": "earliest", "isolation_level": "read_committed"}
    async with AIOKafkaConsumer("recommendations", **read, **client_options(options)) as consumer:
        async for record in consumer:
            print(line(record.key, record.value), flush=True)


if __name__ == "__main__":
    asyncio.run(follow(parsed("bootstrap")))
