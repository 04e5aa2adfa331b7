"""What both ways to run the demo are given: where it runs, for how long, who counts and who shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from pathlib import Path

    from stream.services.demo.stats import DemoStats
    from stream.settings import Settings

MIN_JUDGED: Final = 50  # the gate's fresh purchases: a quarter of a deployment's, so that something is promoted within the minute


@dataclass(frozen=True)
class DemoContext:
    """`folder` holds all files; `stop` ends the demo; `show` refreshes the view; `seconds` is None where nobody has set an end."""

    settings: Settings
    folder: Path
    tally: DemoStats
    stop: asyncio.Event
    show: Callable[[], None]
    seconds: float | None
    seed: int | None
