"""`isthmus sink`: lists brought into other systems."""

from typing import Annotated

import typer

from stream.cli.options import Bootstrap

app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)
MetricsPort = Annotated[int | None, typer.Option(help="Prometheus port, 0 chooses one; default: the setting of the sink")]


@app.callback()
def sink() -> None:
    """Bring users' lists into other systems."""


@app.command()
def postgres(bootstrap: Bootstrap = None, metrics_port: MetricsPort = None) -> None:
    """Keep each user's latest list in a PostgreSQL database.

    Creates and migrates its tables. Deletes erased users. Processes with the same settings share the partitions.
    The database is setting postgres.dsn, best given as the variable ISTHMUS_POSTGRES__DSN.

    Example: isthmus sink postgres --bootstrap localhost:9092
    """
    _run("postgres", bootstrap, metrics_port)


@app.command()
def webhook(bootstrap: Bootstrap = None, metrics_port: MetricsPort = None) -> None:
    """Post each user's new list to an endpoint, in signed batches (Standard Webhooks).

    Lists that the endpoint does not accept within webhook.give_up_s become dead letters. Erasures are retried until it accepts
    them. Processes with the same settings share the partitions. Endpoint and secrets are the settings webhook.url and
    webhook.secrets, best given as variables.

    Example: isthmus sink webhook --bootstrap localhost:9092
    """
    _run("webhook", bootstrap, metrics_port)


def _run(name: str, bootstrap: str | None, metrics_port: int | None) -> None:
    import logging

    from stream.services.startup import log_to_stderr, starting

    log_to_stderr()
    with starting(logging.getLogger("isthmus").info, "loading libraries") as startup:
        from stream.cli.settings_overrides import settings_with
        from stream.services.sinks import run_postgres_sink, run_webhook_sink
        from stream.settings import with_changes

        run = run_postgres_sink if name == "postgres" else run_webhook_sink
        run(with_changes(settings_with(bootstrap), name, metrics_port=metrics_port), startup)
