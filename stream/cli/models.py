"""`isthmus models`: list, show, promote, roll back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from stream.settings import Settings
    from training.registry import Registry

app = typer.Typer(add_completion=False, no_args_is_help=True)
Bootstrap = Annotated[str | None, typer.Option(help="host:port of a broker; default: setting kafka.bootstrap")]
NoAnnounce = Annotated[bool, typer.Option("--no-announce", help="change the registry only; workers are not told")]


def _registry() -> tuple[Settings, Registry]:
    from stream.cli.common import settings_with
    from training.registry import Registry

    settings = settings_with()
    return settings, Registry(settings.registry.uri, settings.registry.folder)


@app.command("list")
def list_() -> None:
    """All versions, newest first: kind, roles, MAP@3 on fresh events, the gate's words.

    Example: isthmus models list
    """
    _, registry = _registry()
    for found in registry.versions():
        map3 = found.metrics.get("map3_union")
        measured = "" if map3 is None else f"MAP@3 {map3:.3f}"
        typer.echo(f"{found.version:>4}  {found.kind:<15} {','.join(found.roles) or '-':<20} {measured:<12} {found.reason}")


@app.command()
def show(version: str) -> None:
    """One version: folder, hash, metrics.

    Example: isthmus models show 3
    """
    from stream.errors import IsthmusError
    from training.registry import RegistryError

    _, registry = _registry()
    try:
        found = registry.get(version)
    except RegistryError as error:
        raise IsthmusError(str(error)) from None
    for name, value in (found._asdict() | {"metrics": ""}).items():
        typer.echo(f"{name:<8} {value}")
    for name, number in sorted(found.metrics.items()):
        typer.echo(f"  {name:<22} {number:.4f}")


@app.command()
def promote(version: str, bootstrap: Bootstrap = None, no_announce: NoAnnounce = False) -> None:
    """Make a version champion by hand, past the gate, and tell the workers.

    Example: isthmus models promote 3
    """
    from stream.errors import IsthmusError
    from training.registry import RegistryError

    settings, registry = _registry()
    try:
        found = registry.promote(version)
    except RegistryError as error:
        raise IsthmusError(str(error)) from None
    if not no_announce:
        _tell(settings, bootstrap, found)
    typer.echo(f"version {version} is champion")


@app.command()
def rollback(bootstrap: Bootstrap = None, no_announce: NoAnnounce = False) -> None:
    """Make the former champion champion again, and tell the workers.

    Example: isthmus models rollback
    """
    from stream.errors import IsthmusError

    settings, registry = _registry()
    previous = registry.holder("previous")
    if previous is None:
        raise IsthmusError("there is no former champion to go back to: `isthmus models list` shows the versions")
    found = registry.promote(previous.version)
    if not no_announce:
        _tell(settings, bootstrap, found)
    typer.echo(f"version {found.version} is champion again")


def _tell(settings: Settings, bootstrap: str | None, found: object) -> None:
    from stream.errors import IsthmusError
    from training.example_topic import TopicError, announce
    from training.run import announcement_of

    try:
        announce(bootstrap or settings.kafka.bootstrap, settings.topics.models, announcement_of(found))  # type: ignore[arg-type]
    except TopicError as error:
        raise IsthmusError(f"{error}; the registry is changed, the workers are not told") from None
