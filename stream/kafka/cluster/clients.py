"""kafka-python's blocking clients without their leak, and the error for a topic that they cannot use.

The constructors of kafka-python 3 start a thread and connect; when that fails, thread and sockets live as long as the process. A
worker asks again every few seconds and a trainer at every run, while a broker may be away for a day.
"""

from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError

from stream.core import limits
from stream.errors import IsthmusError
from stream.kafka.cluster.batch_reading import read_tolerantly
from stream.kafka.cluster.corrupt_batches import RaiseAtCorruptBatch

READ_COMMITTED: Final = "read_committed"
"""Isolation level of every consumer: no effect without transactions, and a fenced worker's open transaction is never read."""
BOOTSTRAP_MS: Final = 10_000  # 30 s by default: too long to wait for a mistyped address


class TopicError(IsthmusError):
    """A topic that cannot be read or written; the message names broker and topic."""


class _ClosesOnFailure:
    """Mixed in before a client whose constructor may fail after it has begun to connect."""

    def __init__(self, **settings: Any) -> None:
        client: Any = self
        try:
            super().__init__(**settings)
        except KafkaError:
            client._net.stop()
            client._client.close()
            raise


class AdminClient(_ClosesOnFailure, KafkaAdminClient):
    """`kafka.KafkaAdminClient`."""


class ConsumerClient(_ClosesOnFailure, KafkaConsumer):
    """`kafka.KafkaConsumer` with the defaults of a reader without a group: committed records, from the beginning.

    A record that does not parse has an `UnreadableValue`. A batch whose checksum fails raises CorruptBatchError.
    """

    def __init__(self, **settings: Any) -> None:
        defaults = {
            "bootstrap_timeout_ms": BOOTSTRAP_MS,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": READ_COMMITTED,
            "max_partition_fetch_bytes": limits.RECORD_BYTES,
            "check_crcs": RaiseAtCorruptBatch(),
        }
        super().__init__(**{**defaults, **settings})
        read_tolerantly(self)
