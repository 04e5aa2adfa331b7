"""The demo as a whole: its options, its folder, the way to run the parts, and the summary."""

from __future__ import annotations

import asyncio
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from stream.services.demo.live_users import make_live_world
from stream.services.text_models import with_stand_in, words_of_the_synthetic_world
from stream.services.threads import limit_threads

if TYPE_CHECKING:
    from concurrent.futures import Future

    from stream.services.demo.stats import DemoStats
    from stream.services.startup import Startup
    from stream.settings import Settings
    from training.datasets.synthetic.world import World


PLACEMENTS: Final = ("home", "shop", "agent")
"""Where lists are shown: to the synthetic users, in the shop, and on the page of agents."""


class DemoOptions(NamedTuple):
    """What one call of the demo was asked for.

    Attributes:
        seconds: How long it runs; None: until a signal.
        kafka: Whether to run on a broker, in several processes.
        bootstrap: The broker to use; None starts a local one.
        summary: The file that gets the summary as JSON.
        data: Without Kafka, the folder that keeps log, tables and models; None: a temporary one.
        seed: The seed of the users; None: others each time.
    """

    seconds: float | None
    kafka: bool
    bootstrap: str | None
    summary: Path | None
    data: Path | None
    seed: int | None


def run_demo(settings: Settings, options: DemoOptions, startup: Startup) -> None:
    """Runs the demo until it ends by time or signal, and prints and writes the summary.

    `startup` reports the steps until the first recommendation.
    """
    import msgspec
    import uvloop

    from stream.services.demo.stats import DemoStats
    from stream.services.demo.terminal import print_summary

    limit_threads()
    stats = DemoStats(started=startup.started)
    startup.step("preparing the text model")
    with ThreadPoolExecutor(1) as pool, tempfile.TemporaryDirectory(prefix="isthmus-demo-") as temporary:
        world = pool.submit(make_live_world)
        folder = Path(temporary) if options.data is None else options.data.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        settings = _as_shown(with_stand_in(settings, words_of_the_synthetic_world(), folder / "text-model"))
        uvloop.run(_run(settings, options, folder, stats, world, startup))
    print_summary(stats)
    if options.summary is not None:
        options.summary.write_bytes(msgspec.json.format(msgspec.json.encode(stats.summary())))


def _as_shown(settings: Settings) -> Settings:
    """Declares the pages' placements, and explains lists on the page of agents.

    States store positions of placements, so those that are declared stay where they are.
    """
    from stream.core import limits
    from stream.settings import with_changes

    names = tuple(dict.fromkeys((*settings.feedback.placements, *PLACEMENTS)))
    settings = with_changes(settings, "step", explain=True)
    return with_changes(settings, "feedback", placements=names[: limits.PLACEMENTS])


async def _run(
    settings: Settings, options: DemoOptions, folder: Path, stats: DemoStats, world: Future[World], startup: Startup
) -> None:
    startup.step("loading the streaming libraries")
    from stream.services.demo.context import DemoContext
    from stream.services.demo.terminal import TerminalView
    from stream.services.process import stop_on_signals

    stop = stop_on_signals()
    if options.seconds is not None:
        asyncio.get_running_loop().call_later(options.seconds, stop.set)
    with TerminalView(stats) as view:
        startup.say_through(view.say)
        context = DemoContext(settings, folder, stats, stop, view.refresh, view.say, options.seconds, options.seed, world, startup)
        startup.watch(context.step)
        if options.kafka:
            from stream.services.demo.deployment import run_on_kafka

            await run_on_kafka(context, options.bootstrap)
        else:
            from stream.services.demo.embedded import run_embedded

            await run_embedded(context, persist=options.data is not None)
