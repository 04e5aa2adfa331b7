"""How an app is wired, and how a process ends whose app crashed."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stream.core.events import Source
from stream.core.step import StepConfig
from stream.errors import IsthmusError
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.agents.stateless_agent import StatelessContext
from stream.kafka.agents.watchdog import Supervision
from stream.kafka.app import add_profile_agent, add_stateless_agent, make_app, run_until_stopped
from stream.kafka.embedded.log import forget, open_log
from stream.kafka.faust.batch_transport import FetchPolicy
from stream.metrics import Metrics
from stream.settings import TopicSettings


class App:
    """An app that crashes at once, or not at all, and whose `stop` raises."""

    def __init__(self, crash_reason: Exception | None, stopping: BaseException) -> None:
        self.crash_reason = crash_reason
        self._stopping = stopping
        self._crashed = asyncio.Event()
        self.tables = SimpleNamespace(delivery=SimpleNamespace(close=asyncio.Event().wait))

    def finalize(self) -> None:
        pass

    async def start(self) -> None:
        if self.crash_reason is not None:
            self._crashed.set()

    async def stop(self) -> None:
        raise self._stopping


@pytest.mark.parametrize("stopping", [asyncio.CancelledError(), OSError("the commit failed")])
async def test_after_a_crash_the_crash_is_raised_not_the_error_of_stopping(stopping: BaseException) -> None:
    crashed: Any = App(IsthmusError("half of the topic is broken"), stopping)
    with pytest.raises(IsthmusError, match="half of the topic"):
        await run_until_stopped(crashed, asyncio.Event())


async def test_without_a_crash_the_error_of_stopping_is_raised() -> None:
    stop = asyncio.Event()
    stop.set()
    app: Any = App(None, OSError("the disk is full"))
    with pytest.raises(OSError, match="disk"):
        await run_until_stopped(app, stop)


@pytest.mark.parametrize("agent", ["profiles", "stateless"])
async def test_an_apps_bounds_reach_its_consumer_and_its_delivery_reaches_recovery(agent: str, tmp_path: Path) -> None:
    """Faust makes consumer and table manager itself, so nothing else would notice a setting that is not passed on."""
    open_log("wired")
    app = make_app("wired", "embedded://wired", data=tmp_path, partitions=1)
    supervision = Supervision(recreated=frozenset({"web-clicks"}))
    sources, epochs, metrics = {"web-clicks": Source.CLICK}, {"web-clicks": 1}, Metrics()
    if agent == "profiles":
        context = ProfileContext(
            sources=sources,
            epochs=epochs,
            served=ServedModel(),
            step=StepConfig(partitions=1),
            topics=TopicSettings(partitions=1),
            metrics=metrics,
            in_flight=3,
        )
        add_profile_agent(app, context, supervision=supervision)
    else:
        stateless = StatelessContext(
            topic="web-clicks",
            source=Source.CLICK,
            epochs=epochs,
            process=lambda _: [],
            metrics=metrics,
            output="out",
            watermark_of=lambda _: None,
            in_flight=3,
        )
        add_stateless_agent(app, stateless, supervision=supervision)
    assert app.consumer.transport.fetch_policy == FetchPolicy(in_flight=3, recreated=frozenset({"web-clicks"}))
    assert app.tables.delivery is not None
    assert (app.tables.table is not None) == (agent == "profiles")
    forget("wired")
