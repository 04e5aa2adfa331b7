"""The context of a demo, for both ways to run it: where it runs, for how long, its statistics and its view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path

    from stream.services.demo.stats import DemoStats
    from stream.services.startup import Startup
    from stream.settings import Settings
    from training.datasets.synthetic.world import World

MIN_JUDGED: Final = 50  # the gate's fresh purchases: a quarter of a deployment's, so that something is promoted within the minute


@dataclass(frozen=True)
class DemoContext:
    """What both ways to run the demo need.

    Attributes:
        settings: The settings of all parts.
        folder: The folder for all files.
        stats: What the demo has seen so far.
        stop: Ends the demo when set.
        show: Refreshes the view.
        say: Prints a line.
        seconds: How long the demo runs; None: until a signal.
        seed: The seed of the users; None: others each time.
        world: The users' world, made in a thread.
        startup: Reports the steps until the first recommendation.
    """

    settings: Settings
    folder: Path
    stats: DemoStats
    stop: asyncio.Event
    show: Callable[[], None]
    say: Callable[[str], None]
    seconds: float | None
    seed: int | None
    world: Future[World]
    startup: Startup

    def step(self) -> str | None:
        """The step of the start; None after the first recommendation."""
        if self.stats.first_recommendation_s is not None:
            return None
        if not self.world.done():
            return "making the users' world"
        return "waiting for the first recommendation" if self.stats.sent else "starting the parts"
