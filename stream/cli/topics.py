"""`isthmus topics`: create or check all topics."""

from typing import Annotated

import typer

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def topics(
    bootstrap: Annotated[str | None, typer.Option(help="host:port of a broker; default: setting kafka.bootstrap")] = None,
    check: Annotated[bool, typer.Option(help="only check, create nothing")] = False,
    dev: Annotated[bool, typer.Option(help="one broker: replication 1")] = False,
) -> None:
    """Create the topics that are missing and check the others; exit code 2 where one does not fit.

    Example: isthmus topics --bootstrap localhost:9092 --dev
    """
    from stream.cli.settings_overrides import settings_with
    from stream.kafka.cluster.topics import create_or_check

    settings = settings_with(bootstrap, dev=dev)
    for line in create_or_check(settings.kafka.bootstrap, settings.topics, dev=settings.kafka.dev, create=not check):
        typer.echo(line)
