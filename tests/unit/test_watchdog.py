"""What a worker says while its broker is away, and what becomes of batches of a topic that was recreated."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from stream.health import Health
from stream.kafka.agents.stateless_agent import StatelessAgent
from stream.kafka.agents.watchdog import Watchdog
from stream.metrics import Metrics


class App:
    """As much of an app as a watch and an agent look at; `messages` are unacknowledged."""

    rebalancing_count = 1
    rebalancing = False

    def __init__(self, messages: list[Any]) -> None:
        self.messages = messages
        self.member = True
        self.consumer = SimpleNamespace(is_member=lambda: self.member, abandon=self.messages.remove)
        self.on_partitions_revoked = SimpleNamespace(connect=lambda _: None)

    def timer(self, _: float) -> Any:
        return lambda look: look


class Recreated:
    """A view in which every topic is another one than it was."""

    async def epochs(self, names: list[str]) -> dict[str, int]:
        return dict.fromkeys(names, 2)


def watch_of(app: App, health: Health) -> Watchdog:
    return Watchdog(app, Recreated(), {"clicks": 1}, Metrics(), health)  # type: ignore[arg-type]


def test_a_worker_whose_heartbeats_are_not_answered_is_not_ready() -> None:
    """Its partitions stay assigned, and its lag stands still: nothing else would tell."""
    app, health = App([]), Health()
    watch_of(app, health)
    assert Health.wrong(health.ready) == []
    app.member = False
    (problem,) = Health.wrong(health.ready)
    assert problem.startswith("group: the broker has not answered a heartbeat")


@pytest.mark.parametrize("agent", ["encoder", "worker"])
async def test_a_batch_of_a_recreated_topic_is_waited_for_no_longer(agent: str) -> None:
    """Else the app, which is to be renewed, would never end."""
    from stream.kafka.agents.profile_agent import ProfileAgent

    tp = ("clicks", 0)
    message = SimpleNamespace(tp=tp, topic="clicks", partition=0, value=[SimpleNamespace(offset=0)])
    app = App([message])
    watch = watch_of(app, Health())
    watch._next[tp] = 5
    delivery: Any = SimpleNamespace(is_current=lambda _: True)
    if agent == "worker":
        profiles = ProfileAgent.__new__(ProfileAgent)
        profiles._app, profiles._watch, profiles._delivery = app, watch, delivery
        assert not await profiles._may_handle(message)
    else:
        await StatelessAgent(app, watch, delivery, lambda _: []).run(Stream([SimpleNamespace(message=message)]))
    assert app.messages == []
    assert watch.renew.is_set()


class Stream:
    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def noack(self) -> "Stream":
        return self

    async def events(self) -> AsyncIterator[Any]:
        for event in self._events:
            await asyncio.sleep(0)
            yield event
