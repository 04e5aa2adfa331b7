"""Background tasks of long-running processes: an error neither ends the process nor ends the task for good."""

import asyncio

import pytest

from stream.health import Health
from stream.services.process import background


async def test_a_background_task_that_fails_begins_again_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    """The process is not ready meanwhile, and ready again once the task has worked for a while."""
    health, runs, works = Health(), 0, asyncio.Event()

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs < 3:
            raise ValueError("a bug")
        works.set()
        await asyncio.Event().wait()

    async with background("reports", work, health, again_s=0.05):
        assert Health.wrong(health.ready) == []
        async with asyncio.timeout(60):
            while not Health.wrong(health.ready):
                await asyncio.sleep(0.001)
            assert Health.wrong(health.ready) == ["reports: ended with ValueError: see the log"]
            await works.wait()
            while Health.wrong(health.ready):
                await asyncio.sleep(0.001)
    assert caplog.text.count("reports ended with an error; it begins again in 0.05 s") == 2
    assert "ValueError: a bug" in caplog.text


async def test_a_background_task_ends_with_its_context() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with background("reports", work, Health()):
        await asyncio.sleep(0)
    async with asyncio.timeout(60):
        await ended.wait()
