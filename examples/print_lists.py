"""Prints each user's list as it changes. It reads committed records only, so it suits both delivery guarantees.

python -m examples.print_lists localhost:9092
"""

import argparse
import asyncio
import json

from aiokafka import AIOKafkaConsumer

from examples.secured import add_options, client_options


def line(key: bytes, value: bytes | None) -> str:
    """One record in words. A tombstone follows an erasure."""
    if value is None:
        return f"{key.decode()}: forgotten"
    recommendation = json.loads(value)
    items = ", ".join(f"{ranked['item']} ({ranked['score']:.3f})" for ranked in recommendation["items"])
    why = recommendation.get("fallback") or f"after a {recommendation['caused_by']['type']}"
    return f"{recommendation['user_id']}: {items}  [{recommendation['model']['name']}, {why}]"


async def follow(options: argparse.Namespace) -> None:
    consumer = AIOKafkaConsumer(
        "recommendations",
        bootstrap_servers=options.bootstrap,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        **client_options(options),
    )
    async with consumer:
        async for record in consumer:
            print(line(record.key, record.value), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("bootstrap")
    add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(follow(arguments()))
