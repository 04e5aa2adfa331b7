"""Background tasks of long-running processes: an error neither ends the process nor ends the task for good."""

import asyncio

import pytest

from stream.health import Health
from stream.services.process import background, running


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


async def test_work_that_a_library_cancels_is_an_error() -> None:
    """Not an end in order: nobody would start the process again."""

    async def work() -> None:
        inner = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        inner.cancel()
        await inner

    stop = asyncio.Event()
    with pytest.raises(RuntimeError, match="was cancelled by what it awaited"):
        async with running([work()], stop), asyncio.timeout(60):
            await stop.wait()


async def test_work_ends_with_its_context() -> None:
    """Cancelled by it, which is no error."""
    async with running([asyncio.sleep(60)], asyncio.Event()):
        await asyncio.sleep(0)
