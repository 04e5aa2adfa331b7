"""`isthmus worker`: one profile worker of a deployment."""

from typing import Annotated

import typer

from stream.cli.options import Bootstrap

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def worker(
    bootstrap: Bootstrap = None,
    name: Annotated[str | None, typer.Option(help="stable name; default: setting worker.name")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Prometheus port, 0 chooses one; default: setting worker.metrics_port")
    ] = None,
) -> None:
    """Fold the input topics into users' states, and publish recommendations, training examples and dead letters.

    Workers with different names share the partitions. On SIGTERM, a worker finishes and commits the batches in flight.

    Example: isthmus worker --bootstrap localhost:9092 --name shop-worker-1
    """
    import logging

    from stream.services.startup import log_to_stderr, starting

    log_to_stderr()
    with starting(logging.getLogger("isthmus").info, "loading libraries") as startup:
        from stream.cli.settings_overrides import settings_with
        from stream.services.worker import run_worker
        from stream.settings import with_changes

        run_worker(with_changes(settings_with(bootstrap), "worker", name=name, metrics_port=metrics_port), startup)
