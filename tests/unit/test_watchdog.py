"""A worker's health while its broker is away, and batches of a topic that was recreated."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from stream.core.events import Source
from stream.health import Health
from stream.kafka.agents.stateless_agent import StatelessAgent
from stream.kafka.agents.watchdog import Watchdog
from stream.metrics import Metrics


class App:
    """The part of an app that watchdog and agents use; `messages` are unacknowledged."""

    rebalancing_count = 1
    rebalancing = False

    def __init__(self, messages: list[Any]) -> None:
        self.messages = messages
        self.member = True
        self.consumer = SimpleNamespace(is_answered=lambda: self.member, abandon=self.messages.remove)
        self.on_partitions_revoked = SimpleNamespace(connect=lambda _: None)

    def timer(self, _: float) -> Any:
        return lambda observe: observe


class Recreated:
    """A view in which every topic was recreated."""

    async def epochs(self, names: list[str]) -> dict[str, int]:
        return dict.fromkeys(names, 2)


def make_watchdog(app: App, health: Health) -> Watchdog:
    return Watchdog(app, Recreated(), {"clicks": 1}, Metrics(), health)  # type: ignore[arg-type]


def test_a_worker_whose_heartbeats_are_not_answered_is_not_ready() -> None:
    """Its partitions stay assigned and its lag stands still, so nothing else would show it."""
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
        await StatelessAgent(app, Source.CALL, lambda _: [], watchdog, delivery).run(Stream([SimpleNamespace(message=message)]))
    assert app.messages == []
    assert watchdog.renew.is_set()


class Stream:
    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def noack(self) -> "Stream":
        return self

    async def events(self) -> AsyncIterator[Any]:
        for event in self._events:
            await asyncio.sleep(0)
            yield event
