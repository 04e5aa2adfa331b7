"""What the log itself says of topics and a group: epochs, end offsets, committed offsets; not the consumer, which may be stuck.

Two kinds with the same face: Kafka's, over an admin client that is kept open and called in a thread, and the embedded log's.
"""

import asyncio
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, Protocol

from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaError

from stream.kafka.cluster.lag import committed_offsets
from stream.kafka.cluster.topics import admin_client, epochs_of
from stream.kafka.embedded.log import Log

Partition = tuple[str, int]


class Offsets(NamedTuple):
    committed: Mapping[Partition, int]
    ends: Mapping[Partition, int]


class ClusterView(Protocol):
    """Raises OSError where the broker does not answer."""

    async def epochs(self, topics: Iterable[str]) -> dict[str, int]:
        """The epochs of the topics that exist."""
        ...

    async def offsets(self, partitions: Iterable[Partition]) -> Offsets: ...

    async def close(self) -> None: ...


class KafkaClusterView:
    """A broker's view of one group. No call takes longer than `answer_s`, for one is made inside each rebalance; a question still
    unanswered then keeps its thread, and the next ones are refused until it ends.
    """

    def __init__(self, bootstrap: str, group: str, answer_s: float = 5.0) -> None:
        self._bootstrap = bootstrap
        self._group = group
        self._answer_s = answer_s
        self._admin: Any = None
        self._busy = threading.Lock()

    async def epochs(self, topics: Iterable[str]) -> dict[str, int]:
        return await self._ask(self._epochs, list(topics))

    async def offsets(self, partitions: Iterable[Partition]) -> Offsets:
        return await self._ask(self._offsets, [TopicPartition(*one) for one in partitions])

    async def close(self) -> None:
        if self._admin is not None:
            with suppress(OSError):
                await self._ask(self._close)

    async def _ask(self, call: Any, *arguments: Any) -> Any:
        return await asyncio.wait_for(asyncio.to_thread(self._with_admin, call, *arguments), self._answer_s)

    def _with_admin(self, call: Any, *arguments: Any) -> Any:
        if not self._busy.acquire(blocking=False):
            raise ConnectionError(f"the broker at {self._bootstrap} has not answered the last question yet")
        try:
            if self._admin is None:
                self._admin = admin_client(self._bootstrap, int(self._answer_s * 1_000))
            return call(*arguments)
        except Exception as error:  # whatever it is, the next call connects anew
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

    def _offsets(self, partitions: list[Any]) -> Offsets:
        ends = self._admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
        committed = committed_offsets(self._admin, self._group, partitions)
        return Offsets(
            {(one.topic, one.partition): committed.get(one, 0) for one in partitions},
            {(one.topic, one.partition): found.offset for one, found in ends.items()},
        )


class EmbeddedClusterView:
    """The embedded log's view of one group."""

    def __init__(self, log: Log, group: str) -> None:
        self._log = log
        self._group = group

    async def epochs(self, topics: Iterable[str]) -> dict[str, int]:
        return self._log.epochs([name for name in topics if name in self._log.topics])

    async def offsets(self, partitions: Iterable[Partition]) -> Offsets:
        committed = self._log.committed.get(self._group, {})
        ends = {(topic, number): self._log.topics[topic].partitions[number].end for topic, number in partitions}
        return Offsets({one: committed.get(one, 0) for one in ends}, ends)

    async def close(self) -> None:
        """Nothing is held."""
