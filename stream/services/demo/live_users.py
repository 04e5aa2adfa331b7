"""Live synthetic users: their events are sent when they are due, in simulated time that runs faster than the clock."""

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


def make_live_world() -> World:
    """Returns the users' world. It takes a second, so it is made in a thread while the libraries load."""
    import numpy as np

    from training.datasets.synthetic.world import make_world

    return make_world(np.random.default_rng(WORLD_SEED))


async def send_live(
    send: Callable[[Sequence[LiveEvent]], Awaitable[None]],
    world: World,
    stats: DemoStats,
    stop: asyncio.Event,
    seconds: float | None,
    seed: int | None,
) -> None:
    """Sends until `stop` is set. `send` takes the events that are due, in order; each call is completed and counted."""
    import numpy as np

    from training.datasets.synthetic.live import Rates, start_for, stream_events, wall_s

    rates = Rates(broken_every=BROKEN_EVERY)
    start_ms = start_for(time.time_ns() // 1_000_000, (seconds or ENDLESS_S) + 60.0, rates.speed)
    started = time.monotonic()
    due: list[LiveEvent] = []
    for event in stream_events(world, np.random.default_rng(seed), start_ms, rates=rates):
        while wall_s(event, start_ms, rates) > time.monotonic() - started:
            await _flush(send, due, stats)
            if stop.is_set():
                return
            await asyncio.sleep(TICK_S)
        due.append(event)
        if len(due) >= 500:
            await _flush(send, due, stats)


async def _flush(send: Callable[[Sequence[LiveEvent]], Awaitable[None]], due: list[LiveEvent], stats: DemoStats) -> None:
    if due:
        await send(due)
        stats.sent += len(due)
        stats.planted += sum(bool(event.planted) for event in due)
        due.clear()
