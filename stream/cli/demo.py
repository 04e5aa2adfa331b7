"""`isthmus demo`: the whole system with live synthetic users."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stream.services.demo.stats import DemoStats
    from stream.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def demo(
    seconds: Annotated[float | None, typer.Option(help="end by itself after so long, with a summary", min=1)] = None,
    kafka: Annotated[bool, typer.Option(help="on a real local broker, with encoder, two workers and trainer as processes")] = False,
    bootstrap: Annotated[str | None, typer.Option(help="with --kafka: this broker instead of one of our own")] = None,
    summary: Annotated[Path | None, typer.Option(help="write the summary as JSON")] = None,
    data: Annotated[Path | None, typer.Option(help="without --kafka: keep log, tables and models here")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of the users; default: others each time")] = None,
    metrics_port: Annotated[int, typer.Option(help="Prometheus port; 0 chooses a free one")] = 0,
) -> None:
    """Clicks and calls of synthetic users in, recommendations out, a model trained on their purchases and swapped in while it runs.

    The users are invented and do not react to what is recommended. Ctrl-C ends it with a summary.

    Example: isthmus demo --seconds 90
    """
    import tempfile

    import msgspec

    from stream.cli.settings_overrides import settings_with, with_changes
    from stream.cli.text_model import with_stand_in
    from stream.errors import IsthmusError
    from stream.services.demo.stats import DemoStats
    from stream.services.demo.terminal import print_summary
    from stream.services.running import one_thread_each

    if bootstrap is not None and not kafka:
        raise IsthmusError("--bootstrap goes with --kafka")
    if data is not None and kafka:
        raise IsthmusError("--data goes without --kafka: the broker keeps its own log")
    one_thread_each()
    settings = with_changes(settings_with(dev=True), "worker", metrics_port=metrics_port)
    tally = DemoStats()
    with tempfile.TemporaryDirectory(prefix="isthmus-demo-") as temporary:
        folder = Path(temporary) if data is None else data.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        settings = with_stand_in(settings, _words_of_the_world(), folder / "text-model")
        import uvloop

        uvloop.run(
            _run(settings, folder, tally, kafka=kafka, bootstrap=bootstrap, persist=data is not None, seconds=seconds, seed=seed)
        )
    print_summary(tally)
    if summary is not None:
        summary.write_bytes(msgspec.json.format(msgspec.json.encode(tally.summary())))


async def _run(
    settings: Settings,
    folder: Path,
    tally: DemoStats,
    *,
    kafka: bool,
    bootstrap: str | None,
    persist: bool,
    seconds: float | None,
    seed: int | None,
) -> None:
    from stream.kafka.app import stop_on_signals
    from stream.services.demo.context import DemoContext
    from stream.services.demo.terminal import TerminalView

    stop = stop_on_signals()
    if seconds is not None:
        asyncio.get_running_loop().call_later(seconds, stop.set)
    with TerminalView(tally) as view:
        stage = DemoContext(settings, folder, tally, stop, view.refresh, seconds, seed)
        if kafka:
            from stream.services.demo.deployment import run_on_kafka

            await run_on_kafka(stage, bootstrap)
        else:
            from stream.services.demo.embedded import run_embedded

            await run_embedded(stage, persist=persist)


def _words_of_the_world() -> set[str]:
    from training.datasets.synthetic.catalogue import items
    from training.datasets.synthetic.sessions import all_tags

    return {*(item.name for item in items()), *(item.text or "" for item in items()), *all_tags()}
