"""`isthmus keys`: who may use the API."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.options import Bootstrap

if TYPE_CHECKING:
    from stream.api.api_keys import ApiKey
    from stream.settings import Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None, help="API keys: make, list, rotate, revoke.", no_args_is_help=True)


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="who will use it")],
    scopes: Annotated[
        list[str],
        typer.Option(
            "--scope", help="read, write, feedback, erase, tokens, admin (everything), or public (stands in a page); several times"
        ),
    ],
    expires: Annotated[str | None, typer.Option(help="ends after: 12h, 90d; default: never")] = None,
    bootstrap: Bootstrap = None,
) -> None:
    """Make a key and print it, once: only its hash is kept.

    Example: isthmus keys make website --scope read --scope write
    """
    from stream.api.api_keys import Scope, make_api_key
    from stream.cli.settings_overrides import settings_with
    from stream.errors import IsthmusError

    settings = settings_with(bootstrap)
    try:
        wanted = [Scope(scope) for scope in scopes]
    except ValueError:
        raise IsthmusError(f"a scope is one of {', '.join(Scope)}") from None
    if Scope.PUBLIC in wanted and len(wanted) > 1:
        raise IsthmusError("a key in a page may have no other scope than public: make two keys")
    now = time.time_ns() // 1_000_000
    secret, key = make_api_key(name, wanted, now, _ends(expires, now))
    _send(settings, key.key_id, key)
    typer.echo(secret)


@app.command(name="list")
def list_(bootstrap: Bootstrap = None) -> None:
    """List the keys: id, name, scopes, when it was made and when it ends.

    Example: isthmus keys list
    """
    from stream.cli.settings_overrides import settings_with

    for key in _known(settings_with(bootstrap)):
        typer.echo(f"{key.key_id}  {key.name}  {','.join(key.scopes)}  made {_day(key.created_at)}  ends {_day(key.expires_at)}")


@app.command()
def rotate(
    key_id: Annotated[str, typer.Argument(help="id of the key to replace")],
    grace: Annotated[str, typer.Option(help="how long the old key goes on working")] = "24h",
    bootstrap: Bootstrap = None,
) -> None:
    """Make a key with the same name and scopes and print it; the old one ends after a grace period.

    Example: isthmus keys rotate 4f1d2c3b4a596877 --grace 1h
    """
    import msgspec

    from stream.api.api_keys import make_api_key
    from stream.cli.settings_overrides import settings_with

    settings = settings_with(bootstrap)
    old, now = _found(settings, key_id), time.time_ns() // 1_000_000
    lifetime = None if old.expires_at is None else now + old.expires_at - old.created_at
    secret, key = make_api_key(old.name, old.scopes, now, lifetime)
    ends = _ends(grace, now)
    _send(settings, key.key_id, key)
    _send(settings, old.key_id, msgspec.structs.replace(old, expires_at=min(ends or now, old.expires_at or (ends or now))))
    typer.echo(secret)


@app.command()
def revoke(
    key_ids: Annotated[list[str], typer.Argument(help="ids of keys")],
    bootstrap: Bootstrap = None,
) -> None:
    """Revoke keys: within 10 seconds no replica accepts them.

    Example: isthmus keys revoke 4f1d2c3b4a596877
    """
    from stream.cli.settings_overrides import settings_with

    settings = settings_with(bootstrap)
    for key_id in key_ids:
        _found(settings, key_id)
        _send(settings, key_id, None)
    typer.echo(f"{len(key_ids)} keys revoked")


def _known(settings: Settings) -> list[ApiKey]:
    """The keys of the topic, oldest first."""
    import msgspec

    from stream.api.api_keys import decode_api_key
    from stream.kafka.cluster.compacted_topic import CompactedTopic
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.rights import Process

    require_access(Process.KEYS, settings)
    topic = CompactedTopic(settings.kafka.bootstrap, settings.topics.api_keys)
    keys = []
    try:
        topic.read_on()
        for value in topic.values.values():
            try:
                keys.append(decode_api_key(value))
            except msgspec.MsgspecError:
                typer.echo("a key of a later version is left out", err=True)
    finally:
        topic.close()
    return sorted(keys, key=lambda key: key.created_at)


def _found(settings: Settings, key_id: str) -> ApiKey:
    from stream.errors import IsthmusError

    for key in _known(settings):
        if key.key_id == key_id:
            return key
    raise IsthmusError(f"no key has the id {key_id}: `isthmus keys list` shows them")


def _send(settings: Settings, key_id: str, key: ApiKey | None) -> None:
    from stream.api.api_keys import encode_api_key
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.producer import InputRecord, produce
    from stream.kafka.cluster.rights import Process

    require_access(Process.KEYS, settings)
    event = InputRecord("api_keys", key_id, None if key is None else encode_api_key(key))
    asyncio.run(produce(settings.kafka.bootstrap, [event], settings.topics.model_dump(), lambda _: None))


def _ends(after: str | None, now_ms: int) -> int | None:
    from stream.errors import IsthmusError

    if after is None:
        return None
    hours = {"h": 1, "d": 24}.get(after[-1:])
    if hours is None or not after[:-1].isdigit() or int(after[:-1]) < 1:
        raise IsthmusError(f"{after!r} is no duration such as 12h or 90d")
    return now_ms + int(after[:-1]) * hours * 3_600_000


def _day(at_ms: int | None) -> str:
    from datetime import UTC, datetime

    return "never" if at_ms is None else datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M")
