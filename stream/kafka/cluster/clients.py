"""kafka-python's blocking clients, which leave nothing behind where no broker answers.

Their constructors start a thread and connect; when that fails, kafka-python 3 keeps thread and sockets for as long as the process
lives. A worker asks again every few seconds, a trainer at every run, and a broker may be away for a day.
"""

from typing import Any, Final

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.errors import KafkaError

from stream.core import limits

READ_COMMITTED: Final = "read_committed"
"""Always: where nobody uses transactions it changes nothing, and what a fenced worker left open is nobody's."""
BOOTSTRAP_MS: Final = 10_000  # 30 s by default: too long to wait for a mistyped address


class _LeavesNothing:
    """Mixed in before a client whose constructor may fail once it has begun to connect."""

    def __init__(self, **settings: Any) -> None:
        client: Any = self
        try:
            super().__init__(**settings)
        except KafkaError:
            client._net.stop()
            client._client.close()
            raise


class AdminClient(_LeavesNothing, KafkaAdminClient):
    """`kafka.KafkaAdminClient`."""


class Consumer(_LeavesNothing, KafkaConsumer):
    """`kafka.KafkaConsumer`, which is told its partitions by `assign` and reads from their beginning what is committed."""

    def __init__(self, **settings: Any) -> None:
        defaults = {
            "bootstrap_timeout_ms": BOOTSTRAP_MS,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "isolation_level": READ_COMMITTED,
            "max_partition_fetch_bytes": limits.RECORD_BYTES,
        }
        super().__init__(**{**defaults, **settings})
