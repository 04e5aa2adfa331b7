"""The dead letters of the catalogue. Every worker reads all items, and one worker of all reports a record that cannot be used.

The workers share a consumer group for this, so that a record is reported once, by whichever worker has the partition, and not again
after a restart. After a crash between sending and committing it is sent again, under the same key.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from aiokafka.errors import KafkaError

from stream.application import catalogue_group
from stream.core import limits
from stream.core.catalogue_records import ItemFormat, RejectedItem, item_dead_letters, read_item
from stream.core.events import Rejection
from stream.core.records import Record
from stream.errors import IsthmusError
from stream.formats.topic_decoder import wait_for_schemas
from stream.kafka.cluster import batch_reading
from stream.kafka.cluster.clients import QUIET_WAIT_MS, READ_COMMITTED, async_consumer, async_producer
from stream.kafka.cluster.corrupt_batches import StoppedPartitions
from stream.kafka.cluster.stopped_reading import StopsAtDamage
from stream.kafka.cluster.topics import topic_epochs
from stream.kafka.cluster.view import KafkaClusterView
from stream.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

logger = logging.getLogger(__name__)
AGAIN_S: Final = 5.0
_FETCH_MS: Final = 10_000


def rejected_items(records: Sequence[Record], form: ItemFormat) -> list[RejectedItem]:
    """Returns the records that are no items."""
    read = [(record, read_item(record, form)) for record in records]
    return [RejectedItem(record, item) for record, item in read if isinstance(item, Rejection)]


def count_items(records: int, rejected: Sequence[RejectedItem], metrics: Metrics) -> None:
    """Counts records of the catalogue as those of any other input."""
    metrics.counter("events", "item", "applied").inc(records - len(rejected))
    metrics.counter("events", "item", "dead_letter").inc(len(rejected))
    for _, rejection in rejected:
        metrics.counter("dead_letters", rejection.reason).inc()


async def report_unusable_items(
    bootstrap: str, application: str, items: str, dead_letters: str, form: ItemFormat, metrics: Metrics
) -> None:
    """Sends an application's dead letters of the topic `items` to `dead_letters` for ever; begins again after a failure of the
    broker.
    """
    while True:
        try:
            async with _clients(bootstrap, catalogue_group(application), items) as (consumer, damage, producer):
                while True:
                    await damage.retry()
                    for tp, records in (await consumer.getmany(timeout_ms=_FETCH_MS)).items():
                        await wait_for_schemas(form.to_json, records)
                        rejected = rejected_items(records, form)
                        await _report(bootstrap, producer, dead_letters, tp, rejected, application.encode())
                        await consumer.commit({tp: records[-1].offset + 1})
                        damage.note_read(tp, records[-1].offset + 1)
                        count_items(len(records), rejected, metrics)
        except (KafkaError, IsthmusError) as error:
            logger.warning("dead letters of %s wait: %s", items, error or type(error).__name__)
            await asyncio.sleep(AGAIN_S)


async def _report(
    bootstrap: str, producer: Any, dead_letters: str, tp: Any, rejected: Sequence[RejectedItem], application: bytes
) -> None:
    if not rejected:
        return
    epoch = (await asyncio.to_thread(topic_epochs, bootstrap, [tp.topic]))[tp.topic]
    for letter in item_dead_letters(tp.topic, epoch, tp.partition, rejected, application):
        await producer.send_and_wait(
            dead_letters, key=letter.key, value=letter.value, headers=list(letter.headers), partition=tp.partition
        )


@asynccontextmanager
async def _clients(bootstrap: str, group: str, items: str) -> "AsyncIterator[tuple[Any, StopsAtDamage, Any]]":
    batch_reading.install()
    consumer = async_consumer(
        items,
        bootstrap=bootstrap,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level=READ_COMMITTED,
        fetch_max_wait_ms=QUIET_WAIT_MS,
    )
    view = KafkaClusterView(bootstrap, "")
    damage = StopsAtDamage(consumer, StoppedPartitions(), view)  # told by the follower of the same topic
    producer = async_producer(bootstrap, max_request_size=limits.RECORD_BYTES)
    try:
        await consumer.start()
        await producer.start()
        yield consumer, damage, producer
    finally:
        await consumer.stop()
        await producer.stop()
        await view.close()
