"""How a process ends whose app crashed: with the error that crashed it, even if stopping fails too."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from stream.errors import IsthmusError
from stream.kafka.app import run_until_stopped


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
