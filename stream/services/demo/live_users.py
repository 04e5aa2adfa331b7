"""The live synthetic users: events sent when they are due, in simulated time that runs faster than the clock."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from stream.services.demo.stats import DemoStats
    from training.datasets.synthetic.live import LiveEvent
    from training.datasets.synthetic.world import World

BROKEN_EVERY: Final = 5_000
TICK_S: Final = 0.05
WORLD_SEED: Final = 7  # tastes stay the same over restarts with --data; the users are new ones
ENDLESS_S: Final = 86_400.0


async def make_live_world() -> World:
    """The users' world, made in a thread of its own: it takes a second."""
    import numpy as np

    from training.datasets.synthetic.world import make_world

    return await asyncio.to_thread(make_world, np.random.default_rng(WORLD_SEED))


async def send_live(
    send: Callable[[Sequence[LiveEvent]], Awaitable[None]],
    world: Awaitable[World],
    tally: DemoStats,
    seconds: float | None,
    seed: int | None,
) -> None:
    """Sends until it is cancelled; `send` takes what is due, in order."""
    import numpy as np

    from training.datasets.synthetic.live import Rates, start_for, stream_events, wall_s

    made = await world
    rates = Rates(broken_every=BROKEN_EVERY)
    start_ms = start_for(time.time_ns() // 1_000_000, (seconds or ENDLESS_S) + 60.0, rates.speed)
    started = time.monotonic()
    due: list[LiveEvent] = []
    for event in stream_events(made, np.random.default_rng(seed), start_ms, rates=rates):
        while wall_s(event, start_ms, rates) > time.monotonic() - started:
            await _flush(send, due, tally)
            await asyncio.sleep(TICK_S)
        due.append(event)
        if len(due) >= 500:
            await _flush(send, due, tally)


async def _flush(send: Callable[[Sequence[LiveEvent]], Awaitable[None]], due: list[LiveEvent], tally: DemoStats) -> None:
    if due:
        await send(due)
        tally.sent += len(due)
        tally.planted += sum(bool(event.planted) for event in due)
        due.clear()
