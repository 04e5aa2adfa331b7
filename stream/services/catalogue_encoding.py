"""The encoder's second task: vectors of the catalogue's texts, in the topic `encoded-items`."""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from stream.core import limits
from stream.formats.topic_decoder import wait_for_schemas
from stream.text.catalogue_encoder import CatalogueEncoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from stream.core.catalogue_records import ItemFormat
    from stream.core.outputs import Output
    from stream.core.records import Record
    from stream.metrics import Metrics
    from stream.text.model import TextModel

    Send = Callable[[Sequence[Output]], Awaitable[None]]

logger = logging.getLogger("isthmus")
LOOK_AGAIN_S: Final = 600.0
"""How soon an encoder that was started with another text model loses the last word."""


class CatalogueEncoding:
    """Follows `items` and `encoded-items`, and sends what is missing."""

    def __init__(self, model: TextModel, form: ItemFormat, metrics: Metrics) -> None:
        self._encoder = CatalogueEncoder(model, form)
        self._form = form
        self._metrics = metrics
        self._changed = asyncio.Event()

    async def on_items(self, records: Sequence[Record], *, replace: bool = False) -> None:
        await wait_for_schemas(self._form.to_json, records)
        self._encoder.on_items(records, replace=replace)
        self._changed.set()

    async def on_encoded_items(self, records: Sequence[Record], *, replace: bool = False) -> None:
        self._encoder.on_encoded(records, replace=replace)
        self._changed.set()

    async def run(self, send: Send, look_again_s: float = LOOK_AGAIN_S) -> None:
        """Encodes for ever. What could not be sent is due again."""
        while True:
            self._changed.clear()
            try:
                while (chunk := self._encoder.take()) is not None:
                    encoded = await asyncio.to_thread(self._encoder.encode, chunk)
                    await send(encoded.outputs)
                    self._metrics.counter("encoder_items", "encoded").inc(encoded.encoded)
                    self._metrics.counter("encoder_items", "failed").inc(encoded.failed)
            except BaseException:
                self._encoder.look_at_all()
                raise
            try:
                async with asyncio.timeout(look_again_s):
                    await self._changed.wait()
            except TimeoutError:
                self._encoder.look_at_all()


@asynccontextmanager
async def kafka_sender(bootstrap: str, topic: str) -> AsyncIterator[Send]:
    """Yields a function that sends records to the one partition of a topic and waits until the broker has them."""
    from stream.kafka.cluster.clients import async_producer

    producer = async_producer(bootstrap, max_request_size=limits.RECORD_BYTES)
    await producer.start()

    async def send(outputs: Sequence[Output]) -> None:
        sent = [await producer.send(topic, key=output.key, value=output.value, partition=0) for output in outputs]
        await asyncio.gather(*sent)

    try:
        yield send
    finally:
        await producer.stop()
