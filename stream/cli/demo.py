"""`isthmus demo`: the whole system with live synthetic users."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def demo(
    seconds: Annotated[float | None, typer.Option(help="end after this many seconds, with a summary", min=1)] = None,
    kafka: Annotated[
        bool, typer.Option(help="run on a local Kafka broker, with encoder, two workers and trainer as processes")
    ] = False,
    bootstrap: Annotated[str | None, typer.Option(help="with --kafka: use this broker instead of a local one")] = None,
    summary: Annotated[Path | None, typer.Option(help="write the summary as JSON")] = None,
    data: Annotated[Path | None, typer.Option(help="without --kafka: keep log, tables and models in this folder")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="seed of the users; default: random")] = None,
    port: Annotated[int, typer.Option(help="port of the API and its pages; 0 chooses a free one", min=0, max=65_535)] = 0,
    metrics_port: Annotated[int, typer.Option(help="Prometheus port; 0 chooses a free one")] = 0,
) -> None:
    """Run the whole system with live synthetic users; a model is trained on their purchases and swapped in meanwhile.

    The users are invented and do not react to recommendations. Ctrl-C ends the demo with a summary.

    Example: isthmus demo --seconds 90
    """
    from stream.errors import IsthmusError
    from stream.services.demo.kafka_setup import set_up_kafka
    from stream.services.startup import starting

    if bootstrap is not None and not kafka:
        raise IsthmusError("--bootstrap goes with --kafka")
    if data is not None and kafka:
        raise IsthmusError("--data goes without --kafka: the broker keeps its own log")
    with starting(lambda line: print(f"isthmus demo: {line}", flush=True), "loading libraries") as startup:
        if kafka and bootstrap is None:
            set_up_kafka(startup)
        from stream.cli.settings_overrides import settings_with
        from stream.services.demo.run import DemoOptions, run_demo
        from stream.settings import with_changes

        settings = with_changes(settings_with(dev=True), "worker", metrics_port=metrics_port)
        settings = with_changes(settings, "api", port=port)
        run_demo(settings, DemoOptions(seconds, kafka, bootstrap, summary, data, seed), startup)
