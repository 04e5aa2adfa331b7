"""A worker's health while its broker is away, and batches of a topic that was recreated."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from stream.core.events import Source
from stream.health import Health
from stream.kafka.agents.stateless_agent import StatelessAgent, StatelessContext
from stream.kafka.agents.watchdog import Supervision, Watchdog
from stream.kafka.cluster.corrupt_batches import CorruptBatch, Skip, StoppedPartitions
from stream.kafka.cluster.topics import TopicShape
from stream.kafka.cluster.view import Offsets
from stream.kafka.delivery.committed_marks import CommittedMarks
from stream.metrics import Metrics


class App:
    """The part of an app that watchdog and agents use; `messages` are unacknowledged."""

    rebalancing_count = 1
    rebalancing = False
    conf = SimpleNamespace(topic_partitions=2)

    def __init__(self, messages: list[Any]) -> None:
        self.messages = messages
        self.member = True
        self.consumer: Any = SimpleNamespace(is_answered=lambda: self.member, abandon=self.messages.remove)
        self.on_partitions_revoked = SimpleNamespace(connect=lambda _: None)

    def timer(self, _: float) -> Any:
        return lambda observe: observe


class Recreated:
    """A view in which every topic was recreated."""

    async def shapes(self, names: list[str]) -> dict[str, TopicShape]:
        return dict.fromkeys(names, TopicShape(epoch=2, partitions=2))


WATERMARKS: Any = SimpleNamespace(is_doubtful=lambda _: False, boundaries=lambda _: (), advance=lambda *_: None)


def make_watchdog(app: App, health: Health) -> Watchdog:
    return Watchdog(app, Recreated(), {"clicks": 1}, Metrics(), WATERMARKS, Supervision(health=health))  # type: ignore[arg-type]


def test_a_worker_whose_heartbeats_are_not_answered_is_not_ready() -> None:
    """Its partitions stay assigned and its lag does not change, so nothing else would show it."""
    app, health = App([]), Health()
    make_watchdog(app, health)
    assert Health.wrong(health.ready) == []
    app.member = False
    (problem,) = Health.wrong(health.ready)
    assert problem.startswith("group: the broker does not answer heartbeats")


@pytest.mark.parametrize("agent", ["encoder", "worker"])
async def test_a_batch_of_a_recreated_topic_is_abandoned(agent: str) -> None:
    """Otherwise the app, which has to be renewed, would never end."""
    from stream.kafka.agents.profile_agent import ProfileAgent

    tp = ("clicks", 0)
    message = SimpleNamespace(tp=tp, topic="clicks", partition=0, value=[SimpleNamespace(offset=0)])
    app = App([message])
    watchdog = make_watchdog(app, Health())
    watchdog._next_offsets[tp] = 5
    delivery: Any = SimpleNamespace(is_current=lambda _: True)
    if agent == "worker":
        profiles = ProfileAgent.__new__(ProfileAgent)
        profiles._app, profiles._watchdog, profiles._delivery = app, watchdog, delivery
        assert not await profiles._may_handle(message)
    else:
        context = StatelessContext(
            topic="clicks",
            source=Source.CALL,
            epochs={"clicks": 1},
            process=lambda _: [],
            metrics=Metrics(),
            output="out",
            watermark_of=lambda _: None,
        )
        stateless = StatelessAgent(app, context, watchdog, WATERMARKS, delivery, CommittedMarks(1))
        await stateless.run(Stream([SimpleNamespace(message=message)]))
    assert app.messages == []
    assert watchdog.renew.is_set()


class OneStopped:
    """A view of two partitions with work, one of which stopped at a corrupt batch; `allowed` is what may be skipped."""

    count = 2

    def __init__(self) -> None:
        self.allowed: dict[tuple[str, int], Skip] = {}

    async def shapes(self, names: list[str]) -> dict[str, TopicShape]:
        return dict.fromkeys(names, TopicShape(epoch=1, partitions=self.count))

    async def offsets(self, partitions: list[tuple[str, int]]) -> Offsets:
        ends = dict.fromkeys(partitions, 9)
        return Offsets(dict.fromkeys(partitions, 3), ends, ends)

    async def skips(self, partitions: Any, epochs: Any) -> dict[tuple[str, int], Skip]:
        del partitions, epochs
        return self.allowed


async def test_a_partition_that_stopped_is_told_retried_and_not_taken_for_stalled() -> None:
    """A restart would not help it, and would take the other partitions' work away: /livez says nothing of it."""
    app, health, view, stopped = App([]), Health(), OneStopped(), StoppedPartitions()
    retried: list[set[tuple[str, int]]] = []

    async def positions(tps: Sequence[TP]) -> dict[TP, int]:
        return dict.fromkeys(tps, 3)

    async def retry(partitions: set[tuple[str, int]]) -> None:
        retried.append(partitions)

    tps = [TP("clicks", 0), TP("clicks", 1)]
    app.consumer = SimpleNamespace(
        is_answered=lambda: True,
        assignment=lambda: tps,
        _unacked_messages=[],
        _committed_offset=dict.fromkeys(tps, 3),
        positions=positions,
        retry=retry,
    )
    supervision = Supervision(health=health, stalled_s=0, stopped=stopped)
    watchdog = Watchdog(app, view, {"clicks": 1}, Metrics(), WATERMARKS, supervision)  # type: ignore[arg-type]
    assert stopped.skip_to(CorruptBatch("clicks", 1, 3, 5)) is None
    await watchdog._observe()
    await watchdog._observe()
    assert retried == [{("clicks", 1)}] * 2
    (not_live,) = Health.wrong(health.live)
    assert "clicks-0" in not_live
    assert "clicks-1" not in not_live
    (not_ready,) = Health.wrong(health.ready)
    assert "damaged: clicks-1: the checksum of the batch at offset 3 fails" in not_ready
    view.allowed = {("clicks", 1): Skip(1, 3, 4)}
    await watchdog._observe()
    assert stopped.skip_to(CorruptBatch("clicks", 1, 3, 5)) == 5
    assert Health.wrong(health.ready) == []


class OneOpen(OneStopped):
    """A view of one partition in which another producer's transaction is open from offset 3 on."""

    stable = 3

    async def offsets(self, partitions: list[tuple[str, int]]) -> Offsets:
        return Offsets(*(dict.fromkeys(partitions, offset) for offset in (3, 9, self.stable)))


async def test_an_open_transaction_of_another_producer_is_told_and_not_taken_for_a_stall(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody can read past it, so a restart would not help. Once it ends, what it held up is work."""
    app, health, view = App([]), Health(), OneOpen()

    async def positions(tps: Sequence[TP]) -> dict[TP, int]:
        return dict.fromkeys(tps, 3)

    tp = TP("clicks", 0)
    app.consumer = SimpleNamespace(
        is_answered=lambda: True, assignment=lambda: [tp], _unacked_messages=[], _committed_offset={tp: 3}, positions=positions
    )
    supervision = Supervision(health=health, stalled_s=0)
    watchdog = Watchdog(app, view, {"clicks": 1}, Metrics(), WATERMARKS, supervision)  # type: ignore[arg-type]
    await watchdog._observe()
    await watchdog._observe()
    assert Health.wrong(health.live) == []
    (line,) = [record.getMessage() for record in caplog.records if "transaction" in record.getMessage()]
    assert line.startswith("clicks-0: a producer's transaction is open at offset 3")
    view.stable = 9
    await watchdog._observe()
    await watchdog._observe()
    (not_live,) = Health.wrong(health.live)
    assert "clicks-0" in not_live


async def test_partitions_with_work_count_as_behind_while_the_consumer_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread may be stuck, and nothing else would show it: a restart helps."""
    app, health, tp = App([]), Health(), TP("clicks", 0)

    async def positions(_: Sequence[TP]) -> dict[TP, int]:
        await asyncio.Event().wait()
        return {}

    app.consumer = SimpleNamespace(
        is_answered=lambda: True, assignment=lambda: [tp], _unacked_messages=[], _committed_offset={tp: 3}, positions=positions
    )
    monkeypatch.setattr("stream.kafka.agents.watchdog._POSITION_TIMEOUT_S", 0.01)
    watchdog = Watchdog(app, OneStopped(), {"clicks": 1}, Metrics(), WATERMARKS, Supervision(health=health, stalled_s=0))  # type: ignore[arg-type]
    await watchdog._observe()
    await watchdog._observe()
    (not_live,) = Health.wrong(health.live)
    assert "clicks-0" in not_live


class Grown(OneStopped):
    """A view in which somebody adds partitions to a topic."""


async def test_a_process_ends_when_partitions_are_added_to_its_input() -> None:
    """Nobody reads them: what producers send there, erasures too, would be missing without a word."""
    app, view = App([]), Grown()
    crashes: list[Exception] = []

    async def crash(error: Exception) -> None:
        crashes.append(error)

    app.crash = crash  # type: ignore[attr-defined]

    async def positions(_: Sequence[TP]) -> dict[TP, int]:
        return {}

    app.consumer = SimpleNamespace(assignment=list, _unacked_messages=[], positions=positions)
    watchdog = Watchdog(app, view, {"erasures": 1}, Metrics(), WATERMARKS, Supervision())  # type: ignore[arg-type]
    await watchdog._observe()
    assert crashes == []
    view.count = 4
    await watchdog._observe()
    (error,) = crashes
    assert str(error).startswith("erasures has 4 partitions now, not 2: nobody reads")


class Stream:
    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def noack(self) -> "Stream":
        return self

    async def events(self) -> AsyncIterator[Any]:
        for event in self._events:
            await asyncio.sleep(0)
            yield event
