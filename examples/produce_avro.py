"""Produces a catalogue in JSON and page views in Avro, as a shop with a schema registry and a secured broker does.

python -m examples.produce_avro --bootstrap localhost:9093 --username shop --password-file password --ca-file ca.pem
  --registry http://127.0.0.1:8081 --topic shop.page-views

The key is the user's id as plain text. The value is framed: a zero byte, the schema's id in four bytes, then the Avro record.
"""

import argparse
import asyncio
import io
import json
import struct
from datetime import UTC, datetime, timedelta
from typing import Any

import fastavro
import httpx
from aiokafka import AIOKafkaProducer

from examples.produce_events import CATALOGUE
from examples.secured import add_options, client_options

PAGE_VIEW = {
    "type": "record",
    "name": "PageView",
    "namespace": "shop",
    "fields": [
        {"name": "uuid", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "viewedAt", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "customer", "type": {"type": "record", "name": "Customer", "fields": [{"name": "id", "type": "string"}]}},
        {
            "name": "page",
            "type": {
                "type": "record",
                "name": "Page",
                "fields": [{"name": "section", "type": "string"}, {"name": "object", "type": ["null", "string"]}],
            },
        },
        {"name": "action", "type": {"type": "enum", "name": "Action", "symbols": ["VIEW", "COMPARE", "PRICE"]}},
    ],
}


def page_views(user: str, now: datetime) -> list[dict[str, Any]]:
    """Three page views of one session."""
    pages = [("pets", None, "VIEW"), ("pets", "dog", "COMPARE"), ("pets", "dog", "PRICE")]
    return [
        {
            "uuid": f"00000000-0000-4000-8000-00000000000{number}",
            "viewedAt": now - timedelta(minutes=9 - number),
            "customer": {"id": user},
            "page": {"section": section, "object": item},
            "action": action,
        }
        for number, (section, item, action) in enumerate(pages)
    ]


def registered(registry: str, topic: str) -> int:
    """Registers the schema, unless it is there; returns its id."""
    answer = httpx.post(f"{registry}/subjects/{topic}-value/versions", json={"schema": json.dumps(PAGE_VIEW)}, timeout=10)
    answer.raise_for_status()
    return int(answer.json()["id"])


def framed(schema_id: int, content: dict[str, Any]) -> bytes:
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(PAGE_VIEW), content)
    return struct.pack(">bi", 0, schema_id) + body.getvalue()


async def produce(options: argparse.Namespace) -> None:
    schema_id = registered(options.registry, options.topic)
    async with AIOKafkaProducer(
        bootstrap_servers=options.bootstrap, acks="all", enable_idempotence=True, **client_options(options)
    ) as producer:
        for item in CATALOGUE:
            await producer.send_and_wait("items", key=str(item["item_id"]).encode(), value=json.dumps(item).encode())
        for view in page_views("c-17", datetime.now(UTC)):
            await producer.send_and_wait(options.topic, key=b"c-17", value=framed(schema_id, view))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--registry", required=True)
    parser.add_argument("--topic", required=True)
    add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(produce(arguments()))
