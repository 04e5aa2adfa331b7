"""`isthmus doctor`: what is wrong, and what to do."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final

import typer

from stream.cli.options import Bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream.services.doctor.findings import Finding

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class Examined(StrEnum):
    """Processes that run with these settings, by the names of their commands."""

    WORKER = "worker"
    ENCODER = "encoder"
    TRAIN = "train"
    API = "api"
    POSTGRES = "sink-postgres"
    WEBHOOK = "sink-webhook"


_DEFAULT: Final = (Examined.WORKER, Examined.ENCODER, Examined.TRAIN, Examined.API)


@app.command()
def doctor(
    processes: Annotated[
        list[Examined] | None, typer.Argument(help="processes that run with these settings; default: worker encoder train api")
    ] = None,
    bootstrap: Bootstrap = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, with each partition's offsets")] = False,
) -> None:
    """Say what is wrong, and what to do: settings, broker, security, ACLs, topics, formats, partitions, offsets, registry, model,
    text model, disk, clock.

    It only reads: it creates nothing and joins no group. Exit code 1 if a check failed, 0 if none did; warnings are none.

    Example: isthmus doctor worker encoder
    """
    from stream.services.startup import starting

    with starting(lambda line: typer.echo(f"isthmus: {line}", err=True), "loading libraries") as startup:
        from stream.services.doctor.findings import document, has_failed, table

        findings = _findings(processes, bootstrap, startup.step)
    typer.echo(document(findings) if as_json else table(findings))
    if has_failed(findings):
        raise typer.Exit(1)


def _findings(processes: list[Examined] | None, bootstrap: str | None, step: Callable[[str], None]) -> list[Finding]:
    import os

    from stream.cli.settings_overrides import settings_with
    from stream.errors import IsthmusError
    from stream.kafka.cluster.rights import Process
    from stream.services.doctor.examination import examine
    from stream.services.doctor.findings import failed
    from stream.settings import variables
    from stream.variables import unread_variables

    chosen = [Process(name.replace("-", " ")) for name in processes or _DEFAULT]
    try:
        settings = settings_with(bootstrap)
    except IsthmusError as error:
        return [failed("settings", str(error))]
    return examine(settings, chosen, unread_variables(os.environ, variables()), step)
