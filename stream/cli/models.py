"""`isthmus models`: list, show, promote, roll back, announce."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.options import Bootstrap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.reliability import Reliability
    from stream.settings import Settings
    from training.registry import ModelVersion, Registry

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


class RoleName(StrEnum):
    """`stream.core.outputs.Role` as typer reads it."""

    champion = "champion"
    challenger = "challenger"
    shadow = "shadow"


NoAnnounce = Annotated[bool, typer.Option("--no-announce", help="change the registry only, announce nothing")]


def _registry() -> tuple[Settings, Registry]:
    from stream.cli.settings_overrides import settings_with
    from training.registry import Registry

    settings = settings_with()
    return settings, Registry(settings.registry.uri, settings.registry_folder, settings.application)


@app.command("list")
def list_() -> None:
    """All versions, newest first: kind, roles, MAP@3 on fresh events, the gate's reason.

    Example: isthmus models list
    """
    _, registry = _registry()
    versions = registry.versions()
    if not versions:
        typer.echo("no versions yet: `isthmus train` makes the first")
    for found in versions:
        map3 = found.metrics.get("map3_union")
        measured = "" if map3 is None else f"MAP@3 {map3:.3f}"
        typer.echo(f"{found.version:>4}  {found.kind:<15} {','.join(found.roles) or '-':<20} {measured:<12} {found.reason}")


@app.command()
def show(version: str) -> None:
    """One version: folder, hash, metrics, and how true its probabilities are.

    Example: isthmus models show 3
    """
    from models.artifact import ModelRefused, read_manifest

    _, registry = _registry()
    found = registry.get(version)
    for name, value in (found._asdict() | {"metrics": ""}).items():
        typer.echo(f"{name:<8} {value}")
    for name, number in sorted(found.metrics.items()):
        typer.echo(f"  {name:<22} {number:.4f}")
    try:
        manifest, _ = read_manifest(found.uri, found.sha256, registry.trust)
    except ModelRefused as refused:
        typer.echo(f"its folder cannot be read: {refused}", err=True)
        return
    for line in _reliability(manifest.reliability):
        typer.echo(line)


def _reliability(found: Reliability | None) -> Iterator[str]:
    """The reliability curve as a table; nothing of a version without one."""
    if found is None:
        return
    yield "of the first three items of each list, on fresh events:"
    yield "  probability     bought      pairs"
    for one in found.bins:
        yield f"  {one.predicted:>11.4f} {one.bought:>10.4f} {one.pairs:>10}"


@app.command()
def promote(
    version: str,
    role: Annotated[RoleName, typer.Option(help="the role it gets")] = RoleName.champion,
    bootstrap: Bootstrap = None,
    no_announce: NoAnnounce = False,
) -> None:
    """Give a version a role by hand, without the gate, and announce it.

    Example: isthmus models promote 3
    """
    settings, registry = _registry()
    found = registry.promote(version, role.value)
    typer.echo(f"version {version} is {role.value}")
    if not no_announce:
        _announce_version(settings, bootstrap, found, role)


@app.command()
def rollback(bootstrap: Bootstrap = None, no_announce: NoAnnounce = False) -> None:
    """Restore the previous champion, and announce it.

    Example: isthmus models rollback
    """
    settings, registry = _registry()
    found = registry.rollback()
    typer.echo(f"version {found.version} is champion again")
    if not no_announce:
        _announce_version(settings, bootstrap, found)


@app.command()
def announce(bootstrap: Bootstrap = None) -> None:
    """Announce the champion to the workers, after an announcement that failed.

    Example: isthmus models announce
    """
    from stream.errors import IsthmusError

    settings, registry = _registry()
    found = registry.version_in_role("champion")
    if found is None:
        raise IsthmusError("there is no champion yet: `isthmus train` makes one")
    _announce_version(settings, bootstrap, found)
    typer.echo(f"version {found.version} is announced as champion")


def _announce_version(settings: Settings, bootstrap: str | None, version: ModelVersion, role: RoleName = RoleName.champion) -> None:
    from stream.errors import IsthmusError
    from stream.kafka.cluster.compacted_topic import announce
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.rights import Process
    from stream.services.model_trust import outgoing
    from stream.services.trainer import not_announced
    from stream.settings import with_changes
    from training.training_run import announcement_of

    settings = with_changes(settings, "kafka", bootstrap=bootstrap)
    try:
        require_access(Process.MODELS, settings)
        announce(settings.kafka.bootstrap, settings.topics.models, outgoing(settings, announcement_of(version, role.value)))
    except IsthmusError as error:
        raise IsthmusError(not_announced(error)) from None
