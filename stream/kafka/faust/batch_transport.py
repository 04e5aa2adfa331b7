"""What both transports, Kafka's and the embedded log's, offer beyond Faust's own interface."""

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from aiokafka import AIOKafkaProducer

from stream.kafka.cluster.corrupt_batches import StoppedPartitions
from stream.kafka.cluster.view import ClusterView
from stream.kafka.delivery.contracts import Sender
from stream.kafka.faust.changelog import Fetched


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """How an app's consumer fetches.

    Attributes:
        in_flight: Unacknowledged batches per partition number, at most. A bound instead of a batch size gives natural batching: a
            quiet stream gets small batches at once, a busy one large ones.
        recreated: Topics whose committed offsets belong to a deleted topic of the same name; they are read from their beginning.
        stopped: Partitions that stopped at a batch whose checksum fails.
    """

    in_flight: int = 6
    recreated: frozenset[str] = frozenset()
    stopped: StoppedPartitions = field(default_factory=StoppedPartitions, compare=False)


class BatchTransport(Protocol):
    """A Faust transport with batch delivery."""

    fetch_policy: FetchPolicy

    def cluster_view(self) -> ClusterView:
        """The log's own view of the app's group."""
        ...

    def sender(self) -> Sender:
        """Sends outputs without transactions."""
        ...

    def use_transactions(self) -> Callable[[str], AIOKafkaProducer]:
        """Leaves the commits to transactions; returns a factory of producers, not started, by transactional id.

        Raises:
            IsthmusError: the log has no transactions.
        """
        ...

    def read_changelog(self, topic: str, starts: Mapping[int, int]) -> AsyncIterator[Fetched]:
        """Reads a changelog to its end, in whole fetches; `starts` gives, per partition number, the first offset to read.

        Raises:
            IsthmusError: a start lies behind the end.
        """
        ...
