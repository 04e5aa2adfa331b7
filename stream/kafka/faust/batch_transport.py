"""What both transports, Kafka's and the embedded log's, offer beyond Faust's own interface."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from aiokafka import AIOKafkaProducer

from stream.core.records import Record
from stream.formats.gate import SchemaGate
from stream.kafka.cluster.corrupt_batches import StoppedPartitions
from stream.kafka.cluster.log_state import LogState, Mark
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.view import ClusterView
from stream.kafka.delivery.contracts import Sender
from stream.kafka.faust.changelog import Fetched


def no_metadata(partition: Partition, committed: int) -> str:
    """What an app with states commits beside an offset: its states say how far it came."""
    del partition, committed
    return ""


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """How an app's consumer fetches and commits.

    Attributes:
        in_flight: Unacknowledged batches per partition number, at most. A bound instead of a batch size gives natural batching: a
            quiet stream gets small batches at once, a busy one large ones.
        recreated: Topics whose committed offsets belong to a deleted topic of the same name; they are read from their beginning.
        stopped: Partitions that stopped at a damaged batch.
        gate: Holds back records whose schema is not known; None: all topics are JSON.
        metadata: Returns what to commit beside an offset of a partition.
    """

    in_flight: int = 6
    recreated: frozenset[str] = frozenset()
    stopped: StoppedPartitions = field(default_factory=StoppedPartitions, compare=False)
    gate: SchemaGate | None = field(default=None, compare=False)
    metadata: Callable[[Partition, int], str] = field(default=no_metadata, compare=False)


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

    async def read_log_states(self, marks: Mapping[Partition, Mark | None]) -> dict[Partition, LogState]:
        """What partitions hold now, compared with records that they held.

        Raises:
            OSError: the broker does not answer.
        """
        ...

    async def read_last_records(self, topic: str, numbers: Iterable[int]) -> dict[int, Record]:
        """The last record of each partition that has one.

        Raises:
            OSError: the broker does not answer.
        """
        ...

    def read_changelog(self, topic: str, starts: Mapping[int, int]) -> AsyncIterator[Fetched]:
        """Reads a changelog to its end, in whole fetches; `starts` gives, per partition number, the first offset that is missing.
        The record before that is read too, if it is there: it says whether the changelog is still the same.

        Raises:
            IsthmusError: a start is past the end.
        """
        ...
