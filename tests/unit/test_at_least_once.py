"""At least once: the order in which a batch becomes durable, and what is held back or dropped before it is sent."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace

import pytest

from stream.core.outputs import Output
from stream.kafka.delivery.at_least_once import AtLeastOnce, ProcessedBatch
from stream.kafka.faust.batch_consumer import Emission
from stream.metrics import Metrics


class Group:
    """As much of a consumer as the guard asks."""

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
    """Everything that was done, in order; sends are acknowledged when `acknowledge` is called."""

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


class Setting:
    """An at-least-once delivery over fakes."""

    def __init__(self) -> None:
        self.group, self.journal, self.metrics = Group(), Journal(), Metrics()
        app = SimpleNamespace(consumer=self.group, crash=self._crash)
        self.delivery = AtLeastOnce(app, self.journal, self.metrics)
        self.crashes: list[Exception] = []

    async def _crash(self, error: Exception) -> None:
        self.crashes.append(error)

    def work(self, name: str, persist: Callable[[int], None] | None = None) -> ProcessedBatch:
        message = SimpleNamespace(generation_id=1, partition=3, tp=("clicks", 3))
        event = SimpleNamespace(message=message, ack=lambda: self.journal.done.append(f"ack {name}"))
        record = [Output(b"k", b"v")]
        note = persist or (lambda offset: self.journal.done.append(f"persist {name} at {offset}"))
        return ProcessedBatch(event, [Emission(f"outputs {name}", record)], Emission(f"changelog {name}", record), note)

    def late(self, outcome: str) -> float:
        return self.metrics.total("late_batches", outcome)


async def test_outputs_changelog_store_and_offset_become_durable_in_this_order() -> None:
    """Each only after the former is acknowledged."""
    setting = Setting()
    await setting.delivery.deliver(setting.work("a"))
    await settle()
    assert setting.journal.done == ["send outputs a"]
    await setting.journal.acknowledge()
    assert setting.journal.done[1:] == ["acknowledged outputs a", "send changelog a"]
    await setting.journal.acknowledge()
    assert setting.journal.done[3:] == ["acknowledged changelog a", "persist a at 7", "ack a"]


async def test_a_batch_is_finished_after_the_one_before_it_though_its_outputs_are_sent_at_once() -> None:
    """Of one partition number."""
    setting = Setting()
    await setting.delivery.deliver(setting.work("a"))
    await setting.delivery.deliver(setting.work("b"))
    for _ in range(4):
        await setting.journal.acknowledge()
    done = setting.journal.done
    assert done[:2] == ["send outputs a", "send outputs b"]
    assert done.index("send changelog b") > done.index("ack a")
    assert done[-1] == "ack b"


async def test_nothing_is_sent_without_a_recent_heartbeat_until_the_group_has_answered() -> None:
    """Held, then sent, and counted."""
    setting = Setting()
    setting.group.member = False
    delivering = asyncio.create_task(setting.delivery.deliver(setting.work("a")))
    await settle()
    assert setting.journal.done == []
    setting.group.member = True
    await delivering
    assert setting.journal.done == ["send outputs a"]
    assert (setting.late("held"), setting.late("dropped")) == (1, 0)


async def test_the_store_waits_for_the_group_too_once_the_changelog_has_the_batch() -> None:
    """A send may have hung for longer than the session: a store that called itself complete up to its offset would skip all that
    a successor wrote before it.
    """
    setting = Setting()
    await setting.delivery.deliver(setting.work("a"))
    await settle()
    await setting.journal.acknowledge()
    setting.group.member = False
    await setting.journal.acknowledge()
    assert setting.journal.done[-1] == "acknowledged changelog a"
    setting.group.generation += 1  # the group's answer: the partition is another's
    await asyncio.sleep(0.2)
    assert setting.journal.done[-1] == "acknowledged changelog a"
    assert (setting.late("held"), setting.late("dropped")) == (1, 1)


@pytest.mark.parametrize("moment", ["before outputs", "before changelog", "before store"])
async def test_a_batch_of_a_lost_partition_is_dropped_wherever_it_stands(moment: str) -> None:
    """It is never persisted nor acknowledged: whoever holds the partition now gets it again. Nor is it waited for: a rebalance
    that waited for its acknowledgement would stall the worker for ever.
    """
    setting = Setting()
    delivery, journal = setting.delivery, setting.journal
    work = setting.work("a")
    if moment == "before outputs":
        setting.group.generation = 2
    await delivery.deliver(work)
    if moment == "before changelog":
        setting.group.generation = 2
    await journal.acknowledge()
    setting.group.generation = 2
    await journal.acknowledge()
    assert not any(step.startswith(("persist", "ack a")) for step in journal.done)
    assert setting.group.abandoned == [work.event.message]
    assert ("send outputs a" in journal.done) == (moment != "before outputs")
    assert ("send changelog a" in journal.done) == (moment == "before store")


async def test_a_store_that_cannot_be_written_crashes_the_app_and_acknowledges_nothing() -> None:
    """A restart delivers again."""
    setting = Setting()

    def full(_: int) -> None:
        raise OSError("no space left on device")

    await setting.delivery.deliver(setting.work("a", full))
    task = setting.delivery._last[3]
    await setting.journal.acknowledge()
    await setting.journal.acknowledge()
    with pytest.raises(OSError, match="no space"):
        await task
    assert [str(error) for error in setting.crashes] == ["no space left on device"]
    assert "ack a" not in setting.journal.done
