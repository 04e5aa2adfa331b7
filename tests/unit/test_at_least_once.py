"""At least once: the order in which a batch becomes durable, and what is held back or dropped before it is sent."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace

import pytest

from stream.core.outputs import Output
from stream.kafka.delivery.at_least_once import AtLeastOnce
from stream.kafka.delivery.contracts import Emission, ProcessedBatch
from stream.metrics import Metrics


class Group:
    """The part of a consumer that delivery uses."""

    def __init__(self) -> None:
        self.generation = 1
        self.member = True
        self.abandoned: list[object] = []

    def abandon(self, message: object) -> None:
        self.abandoned.append(message)

    def holds(self, generation: int) -> bool:
        return generation == self.generation

    def is_member(self) -> bool:
        return self.member


class Journal:
    """A sender that records every step in order; sends are acknowledged when `acknowledge` is called."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.open: list[tuple[str, asyncio.Future[int]]] = []

    async def send(
        self, topic: str, partition: int, outputs: Sequence[Output], timestamps: Sequence[int] | None = None
    ) -> Awaitable[int]:
        del partition, outputs, timestamps
        self.done.append(f"send {topic}")
        future = asyncio.get_running_loop().create_future()
        self.open.append((topic, future))
        return future

    async def acknowledge(self) -> None:
        for topic, future in self.open:
            self.done.append(f"acknowledged {topic}")
            future.set_result(7)
        self.open.clear()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Harness:
    """An at-least-once delivery over fakes."""

    def __init__(self) -> None:
        self.group, self.journal, self.metrics = Group(), Journal(), Metrics()
        app = SimpleNamespace(consumer=self.group, crash=self._crash)
        self.delivery = AtLeastOnce(app, self.journal, self.metrics)
        self.crashes: list[Exception] = []

    async def _crash(self, error: Exception) -> None:
        self.crashes.append(error)

    def batch(self, name: str, persist: Callable[[int], None] | None = None) -> ProcessedBatch:
        message = SimpleNamespace(generation_id=1, partition=3, tp=("clicks", 3))
        event = SimpleNamespace(message=message, ack=lambda: self.journal.done.append(f"ack {name}"))
        record = [Output(b"k", b"v")]
        note = persist or (lambda offset: self.journal.done.append(f"persist {name} at {offset}"))
        return ProcessedBatch(event, [Emission(f"outputs {name}", record)], Emission(f"changelog {name}", record), note)

    def late(self, outcome: str) -> float:
        return self.metrics.total("late_batches", outcome)


async def test_outputs_changelog_store_and_offset_become_durable_in_this_order() -> None:
    """Each only after the one before is acknowledged."""
    harness = Harness()
    await harness.delivery.deliver(harness.batch("a"))
    await settle()
    assert harness.journal.done == ["send outputs a"]
    await harness.journal.acknowledge()
    assert harness.journal.done[1:] == ["acknowledged outputs a", "send changelog a"]
    await harness.journal.acknowledge()
    assert harness.journal.done[3:] == ["acknowledged changelog a", "persist a at 7", "ack a"]


async def test_outputs_are_sent_at_once_but_a_batch_becomes_durable_after_the_one_before() -> None:
    """Of the same partition number."""
    harness = Harness()
    await harness.delivery.deliver(harness.batch("a"))
    await harness.delivery.deliver(harness.batch("b"))
    for _ in range(4):
        await harness.journal.acknowledge()
    done = harness.journal.done
    assert done[:2] == ["send outputs a", "send outputs b"]
    assert done.index("send changelog b") > done.index("ack a")
    assert done[-1] == "ack b"


async def test_nothing_is_sent_without_a_recent_heartbeat_until_the_group_has_answered() -> None:
    """The batch is held back, then sent, and counted."""
    harness = Harness()
    harness.group.member = False
    delivering = asyncio.create_task(harness.delivery.deliver(harness.batch("a")))
    await settle()
    assert harness.journal.done == []
    harness.group.member = True
    await delivering
    assert harness.journal.done == ["send outputs a"]
    assert (harness.late("held"), harness.late("dropped")) == (1, 0)


async def test_the_store_is_written_only_if_the_group_still_counts_us_in_after_the_changelog_write() -> None:
    """A send may hang for longer than the session: a store that is marked complete up to its offset would never read what a
    successor wrote before it.
    """
    harness = Harness()
    await harness.delivery.deliver(harness.batch("a"))
    await settle()
    await harness.journal.acknowledge()
    harness.group.member = False
    await harness.journal.acknowledge()
    assert harness.journal.done[-1] == "acknowledged changelog a"
    harness.group.generation += 1  # the group's answer: the partition was reassigned
    await asyncio.sleep(0.2)
    assert harness.journal.done[-1] == "acknowledged changelog a"
    assert (harness.late("held"), harness.late("dropped")) == (1, 1)


@pytest.mark.parametrize("moment", ["before outputs", "before changelog", "before store"])
async def test_a_batch_of_a_lost_partition_is_dropped_at_any_step(moment: str) -> None:
    """It is neither persisted nor acknowledged: the new owner fetches it again. It is abandoned: a rebalance that waited for its
    acknowledgement would stall the worker for ever.
    """
    harness = Harness()
    delivery, journal = harness.delivery, harness.journal
    batch = harness.batch("a")
    if moment == "before outputs":
        harness.group.generation = 2
    await delivery.deliver(batch)
    if moment == "before changelog":
        harness.group.generation = 2
    await journal.acknowledge()
    harness.group.generation = 2
    await journal.acknowledge()
    assert not any(step.startswith(("persist", "ack a")) for step in journal.done)
    assert harness.group.abandoned == [batch.event.message]
    assert ("send outputs a" in journal.done) == (moment != "before outputs")
    assert ("send changelog a" in journal.done) == (moment == "before store")


async def test_a_store_that_cannot_be_written_crashes_the_app_and_acknowledges_nothing() -> None:
    """After a restart the batch is fetched again."""
    harness = Harness()

    def full(_: int) -> None:
        raise OSError("no space left on device")

    await harness.delivery.deliver(harness.batch("a", full))
    task = harness.delivery._last[3]
    await harness.journal.acknowledge()
    await harness.journal.acknowledge()
    with pytest.raises(OSError, match="no space"):
        await task
    assert [str(error) for error in harness.crashes] == ["no space left on device"]
    assert "ack a" not in harness.journal.done
