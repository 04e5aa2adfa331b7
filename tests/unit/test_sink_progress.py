"""What a sink says while it loads."""

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from stream.services import sinks


async def test_a_first_load_says_how_far_it_has_come(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Again and again until everything is read, and again where a partition is read anew later."""
    monkeypatch.setattr(sinks, "_PROGRESS_S", 0.005)
    caplog.set_level(logging.INFO, "isthmus")
    share, ready = 0.25, asyncio.Event()
    follower: Any = SimpleNamespace(ready=ready, progress=lambda: share)

    async def said(text: str) -> None:
        caplog.clear()
        async with asyncio.timeout(60):
            while text not in caplog.text:
                await asyncio.sleep(0.001)

    saying = asyncio.create_task(sinks.say_progress(follower))
    await said("25 % of the topic is read")
    share = 0.5
    await said("50 % of the topic is read")
    ready.set()
    await asyncio.sleep(0)
    ready.clear()
    await said("50 % of the topic is read")
    saying.cancel()
