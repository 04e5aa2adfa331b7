"""The types that delivery shares with agents and transports: what is sent, what a batch leaves to do, and who does it.

The last part names what delivery uses of Faust's app, consumer and messages, so that it needs no import of Faust and tests can
stand in for them.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from stream.core.outputs import Output
from stream.core.records import Record


class Emission(NamedTuple):
    """Outputs for one topic.

    Attributes:
        topic: Its name.
        outputs: The records, in order.
        timestamps: Of each record, in ms; None: the time of sending.
    """

    topic: str
    outputs: Sequence[Output]
    timestamps: Sequence[int] | None = None


class Sender(Protocol):
    """Appends outputs to one partition of a topic, in order."""

    async def send(
        self, topic: str, partition: int, outputs: Sequence[Output], timestamps: Sequence[int] | None = None
    ) -> Awaitable[int]:
        """Hands the outputs over, waiting while the client's buffers are full.

        The returned awaitable ends when the broker has acknowledged them; its result is the last one's offset, -1 without outputs.
        """
        ...


class Message(Protocol):
    """One fetched batch as it travels through Faust; its offset is the last one that the fetch covered."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def value(self) -> Sequence[Record]: ...
    @property
    def generation_id(self) -> int: ...
    @property
    def tp(self) -> Any: ...


class Event(Protocol):
    """A message in an agent's stream."""

    @property
    def message(self) -> Message: ...

    def ack(self) -> Any: ...


class Consumer(Protocol):
    """What delivery uses of a consumer; see `stream.kafka.faust.batch_consumer.BatchConsumer`."""

    def holds(self, generation: int) -> bool:
        """Whether the worker's assignment is still that of a generation."""
        ...

    def is_member(self) -> bool:
        """Whether the group has answered a heartbeat within the session timeout."""
        ...

    def abandon(self, message: Message) -> None:
        """Stops waiting for a message that will not be acknowledged here."""
        ...

    async def rejoin(self) -> None:
        """Asks the group for a new assignment."""
        ...


class AppConfig(Protocol):
    @property
    def id(self) -> str:
        """The consumer group."""
        ...


class App(Protocol):
    """What delivery uses of a Faust app."""

    @property
    def consumer(self) -> Consumer: ...
    @property
    def conf(self) -> AppConfig: ...

    async def crash(self, reason: BaseException) -> None: ...


@dataclass(frozen=True, slots=True)
class ProcessedBatch:
    """What a computed batch leaves to do before its source message may be acknowledged.

    Attributes:
        event: The source message.
        outputs: What to send, topic by topic.
        changelog: The new states as changelog records; None: no state changed.
        persist: Writes the states to the local store, given the changelog offset of the last of them (-1: none).
    """

    event: Event
    outputs: Sequence[Emission]
    changelog: Emission | None = None
    persist: Callable[[int], None] | None = None


class Delivery(Protocol):
    """Makes processed batches durable, in the order in which they are delivered per partition number.

    An error crashes the app: after the restart, unacknowledged messages are fetched again.
    """

    repeats: bool
    """Whether a redelivered batch may have sent outputs although its states were lost."""

    async def acquire(self, numbers: Iterable[int]) -> None:
        """Called with the partition numbers of each assignment before their state is restored."""
        ...

    def is_current(self, message: Message) -> bool:
        """Whether the partition is still held under the assignment that fetched the message; if not, the message is abandoned."""
        ...

    async def deliver(self, batch: ProcessedBatch) -> None:
        """Starts to make a batch durable; returns before it is."""
        ...

    def drop_in_flight(self) -> None:
        """Called at each revocation: batches in flight are fetched again, here or by another worker."""
        ...

    async def close(self) -> None: ...
