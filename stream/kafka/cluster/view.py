"""What the log itself, not the consumer, which may be stuck, says of topics and a group: epochs, end and committed offsets.

`ClusterView` has two implementations: Kafka's, below, and `stream.kafka.embedded.cluster_view`.
"""

import asyncio
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from kafka import TopicPartition
from kafka.errors import KafkaError

from stream.kafka.cluster.corrupt_batches import Skip
from stream.kafka.cluster.lag import committed_and_end_offsets
from stream.kafka.cluster.skips import skips_in
from stream.kafka.cluster.topics import Partition, admin_client, epochs_of


class Offsets(NamedTuple):
    """Committed and end offsets by (topic, partition number)."""

    committed: Mapping[Partition, int]
    ends: Mapping[Partition, int]


class ClusterView(Protocol):
    """A view of one consumer group and its topics. Its methods raise OSError if the broker does not answer."""

    async def epochs(self, topics: Iterable[str]) -> dict[str, int]:
        """The epochs of the topics that exist."""
        ...

    async def offsets(self, partitions: Iterable[Partition]) -> Offsets: ...

    async def skips(self, partitions: Iterable[Partition], epochs: Mapping[str, int]) -> Mapping[Partition, Skip]:
        """What operators allow to skip of the partitions, as long as their topics have the given epochs."""
        ...

    async def close(self) -> None: ...


class KafkaClusterView:
    """A Kafka cluster's view, over an admin client that is kept open and called in a thread.

    No call takes longer than `answer_s`, because one is made inside each rebalance. A request that is still unanswered then keeps
    its thread, and further requests are refused until it ends.
    """

    def __init__(self, bootstrap: str, group: str, answer_s: float = 4.0) -> None:
        self._bootstrap = bootstrap
        self._group = group
        self._answer_s = answer_s
        self._admin: Any = None
        self._busy = threading.Lock()

    async def epochs(self, topics: Iterable[str]) -> dict[str, int]:
        return await self._request(self._epochs, list(topics))

    async def offsets(self, partitions: Iterable[Partition]) -> Offsets:
        return await self._request(self._offsets, [TopicPartition(*partition) for partition in partitions])

    async def skips(self, partitions: Iterable[Partition], epochs: Mapping[str, int]) -> Mapping[Partition, Skip]:
        return await self._request(self._skips, list(partitions), epochs)

    async def close(self) -> None:
        if self._admin is not None:
            with suppress(OSError):
                await self._request(self._close)

    async def _request(self, call: Any, *arguments: Any) -> Any:
        return await asyncio.wait_for(asyncio.to_thread(self._with_admin, call, *arguments), self._answer_s)

    def _with_admin(self, call: Any, *arguments: Any) -> Any:
        if not self._busy.acquire(blocking=False):
            raise ConnectionError(f"the broker at {self._bootstrap} has not answered the last request yet")
        try:
            if self._admin is None:
                self._admin = admin_client(self._bootstrap, int(self._answer_s * 1_000))
            return call(*arguments)
        except Exception as error:  # whatever it is, the next call reconnects
            self._close()
            raise ConnectionError(f"the broker at {self._bootstrap} does not answer ({type(error).__name__})") from error
        finally:
            self._busy.release()

    def _close(self) -> None:
        if self._admin is not None:
            with suppress(KafkaError, OSError):
                self._admin.close()
            self._admin = None

    def _epochs(self, topics: list[str]) -> dict[str, int]:
        return epochs_of(self._admin.describe_topics(topics))

    def _skips(self, partitions: list[Partition], epochs: Mapping[str, int]) -> dict[Partition, Skip]:
        return skips_in(self._admin, partitions, epochs)

    def _offsets(self, partitions: list[Any]) -> Offsets:
        committed, ends = committed_and_end_offsets(self._admin, self._group, partitions)
        return Offsets(
            {(tp.topic, tp.partition): committed.get(tp, 0) for tp in partitions},
            {(tp.topic, tp.partition): end for tp, end in ends.items()},
        )
