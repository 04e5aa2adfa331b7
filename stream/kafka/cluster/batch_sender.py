"""Sends outputs through an aiokafka producer in whole batches, past its path of one future per record."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from aiokafka import AIOKafkaProducer

from stream.core.outputs import Output


class KafkaSender:
    """`stream.kafka.delivery.contracts.Sender` over aiokafka. `producer` is called before each send: Faust may replace its own."""

    def __init__(self, producer: Callable[[], AIOKafkaProducer]) -> None:
        self._producer = producer

    async def send(
        self, topic: str, partition: int, outputs: Sequence[Output], timestamps: Sequence[int] | None = None
    ) -> Awaitable[int]:
        producer = self._producer()
        futures, counts = [], []
        batch, count = producer.create_batch(), 0
        for index, output in enumerate(outputs):
            timestamp_ms = None if timestamps is None else timestamps[index]
            headers = list(output.headers)
            if batch.append(timestamp=timestamp_ms, key=output.key, value=output.value, headers=headers) is None:
                batch.close()
                futures.append(await producer.send_batch(batch, topic, partition=partition))
                counts.append(count)
                batch, count = producer.create_batch(), 0
                batch.append(timestamp=timestamp_ms, key=output.key, value=output.value, headers=headers)
            count += 1
        if count:
            batch.close()
            futures.append(await producer.send_batch(batch, topic, partition=partition))
            counts.append(count)
        return last_offset(futures, counts)


async def last_offset(futures: Sequence[Awaitable[Any]], counts: Sequence[int]) -> int:
    """The offset of the last record of batches sent to one partition, once all are acknowledged; -1 without batches."""
    last = -1
    for metadata, count in zip(await asyncio.gather(*futures), counts, strict=True):
        last = metadata.offset + count - 1
    return last
