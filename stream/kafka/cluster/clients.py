"""Every client of Kafka is made here, with the process's security: aiokafka's, kafka-python's, and what Faust's are made with.

tests/contracts/test_clients.py fails for a client that is made elsewhere. kafka-python's blocking clients are without their leak:
their constructors start a thread and connect; when that fails, thread and sockets live as long as the process. A worker asks again
every few seconds and a trainer at every run, while a broker may be away for a day.

No client creates a topic, not even on a broker with `auto.create.topics.enable`: such a topic would have the broker's number of
partitions, and would not be compacted. `isthmus topics` creates them.
"""

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka import client as aiokafka_client
from aiokafka.protocol.metadata import MetadataRequest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.errors import KafkaError
from kafka.net import manager
from kafka.net.compat import KafkaNetClient

from stream.core import limits
from stream.errors import IsthmusError
from stream.kafka.cluster.access import TIMEOUT_S, door
from stream.kafka.cluster.batch_reading import read_tolerantly
from stream.kafka.cluster.client_security import async_security_options, security_options
from stream.kafka.cluster.corrupt_batches import RaiseAtCorruptBatch
from stream.kafka.cluster.security import current_security

READ_COMMITTED: Final = "read_committed"
"""Isolation level of every consumer: no effect without transactions, and a fenced worker's open transaction is never read."""
logging.getLogger("kafka.admin._groups").setLevel(logging.ERROR)  # it warns of members whose metadata it does not know: Faust's
BOOTSTRAP_MS: Final = 10_000  # 30 s by default: too long to wait for a mistyped address
FETCHER_TIMEOUT_MS: Final = 10_000
"""How long a consumer's fetcher may sleep. By default aiokafka wakes it every 0.2 s to look at each partition; all that it has to
do wakes it anyway: answers, taken records, seeks, and resumed or revoked partitions.
"""
QUIET_WAIT_MS: Final = 5_000
"""How long brokers hold back the fetch of a topic that is quiet most of the time. A fetch of what does not come costs as much as
one that returns a record; a record is answered at once all the same.
"""
SLOW_TASK_S: Final = 5.0
"""kafka-python warns of a step of its event loop that takes longer. On a busy machine a step exceeds its default, 0.1 s, while it
waits for a core or for Python's lock; and nobody but its own client waits for the loop.
"""


class _MetadataRequest(MetadataRequest):
    """Asks about topics without creating those that are missing. aiokafka's own does create them, and has no setting for it."""

    def __init__(self, topics: Sequence[str] | None = None) -> None:
        super().__init__(None if topics is None else list(topics), allow_auto_topic_creation=False)


aiokafka_client.MetadataRequest = _MetadataRequest  # its clients take the class from there
manager.ClusterMetadata = partial(ClusterMetadata, allow_auto_create_topics=False)  # the setting of the clients does not arrive


class TopicError(IsthmusError):
    """A topic that cannot be read or written; the message names broker and topic."""


class _Consumer(AIOKafkaConsumer):
    """aiokafka's, whose `stop` cancels requests of its own, and raises that as if its caller had been cancelled (aiokafka's issue
    647): after a broker was away, the caller's task would end without an error.
    """

    async def stop(self) -> None:
        try:
            await super().stop()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            await self._client.close()


def async_consumer(*topics: str, bootstrap: Any, **settings: Any) -> AIOKafkaConsumer:
    """An aiokafka consumer, not started. `bootstrap` is as aiokafka's `bootstrap_servers`.

    Raises:
        AccessError: the brokers refuse us, here and below.
    """
    door.check(bootstrap)
    defaults = {"consumer_timeout_ms": FETCHER_TIMEOUT_MS}
    return _Consumer(*topics, bootstrap_servers=bootstrap, **{**defaults, **settings, **async_security_options()})


def async_producer(bootstrap: Any, **settings: Any) -> AIOKafkaProducer:
    """An aiokafka producer that loses and repeats nothing, not started."""
    door.check(bootstrap)
    return AIOKafkaProducer(bootstrap_servers=bootstrap, **{**_producing(), **settings, **async_security_options()})


def producer_client(bootstrap: str, **settings: Any) -> Any:
    """A kafka-python producer that loses and repeats nothing."""
    door.check(bootstrap)
    return KafkaProducer(bootstrap_servers=bootstrap, **{**_producing(), **_LOOP, **settings, **security_options()})


def _producing() -> dict[str, Any]:
    return {"acks": "all", "enable_idempotence": True, "compression_type": current_security().compression}


_LOOP: Final[dict[str, Any]] = {"kafka_client": partial(KafkaNetClient, slow_task_threshold_secs=SLOW_TASK_S)}


class _ClosesOnFailure:
    """Mixed in before a client whose constructor may fail after it has begun to connect."""

    def __init__(self, **settings: Any) -> None:
        client: Any = self
        door.check(settings["bootstrap_servers"], min(TIMEOUT_S, settings.get("bootstrap_timeout_ms", BOOTSTRAP_MS) / 1_000))
        try:
            super().__init__(**{**_LOOP, **settings}, **security_options())
        except KafkaError:
            client._net.stop()
            client._client.close()
            raise


class AdminClient(_ClosesOnFailure, KafkaAdminClient):
    """`kafka.KafkaAdminClient`."""


class ConsumerClient(_ClosesOnFailure, KafkaConsumer):
    """`kafka.KafkaConsumer` with the defaults of a reader without a group: committed records, from the beginning.

    A record that does not parse has an `UnreadableValue`. A batch that is damaged raises CorruptBatchError.
    """

    def __init__(self, **settings: Any) -> None:
        defaults = {
            "bootstrap_timeout_ms": BOOTSTRAP_MS,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": READ_COMMITTED,
            "max_partition_fetch_bytes": limits.RECORD_BYTES,
            "check_crcs": RaiseAtCorruptBatch(),
            "enable_incremental_fetch_sessions": False,  # in a session, a partition without an answer is not mentioned
        }
        super().__init__(**{**defaults, **settings})
        read_tolerantly(self)
