"""`isthmus encoder`: the process that turns transcripts into vectors and keywords."""

from typing import Annotated

import typer

from stream.cli.options import Bootstrap

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def encoder(
    bootstrap: Bootstrap = None,
    name: Annotated[str | None, typer.Option(help="stable name; default: setting encoder.name")] = None,
    metrics_port: Annotated[
        int | None, typer.Option(help="Prometheus port, 0 chooses one; default: setting encoder.metrics_port")
    ] = None,
) -> None:
    """Encode call transcripts into vectors and keywords. Text does not leave this process.

    Several encoders with different names share the partitions. On SIGTERM, batches in flight are finished and committed.

    Example: isthmus encoder --bootstrap localhost:9092
    """
    import logging

    from stream.services.startup import log_to_stderr, starting

    log_to_stderr()
    with starting(logging.getLogger("isthmus").info, "loading libraries") as startup:
        from stream.cli.settings_overrides import settings_with
        from stream.services.encoder import run_encoder
        from stream.settings import with_changes

        run_encoder(with_changes(settings_with(bootstrap), "encoder", name=name, metrics_port=metrics_port), startup)
