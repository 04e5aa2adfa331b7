"""`isthmus erase`: erase users."""

from __future__ import annotations

import asyncio
import time
from typing import Annotated
from uuid import uuid4

import typer

from stream.cli.options import Bootstrap

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def erase(
    users: Annotated[list[str], typer.Argument(help="user ids")],
    at: Annotated[
        str | None,
        typer.Option(help="erase what happened up to 2h, 7d ago, or an RFC 3339 time; default: now, by Kafka's clock"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask for confirmation")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Erase users: a worker removes state and list, and ignores events up to that time from then on.

    This command removes all training examples of the users first, also those that no state knows. A worker makes those of later
    purchases again, as far as its state knows these.

    Each run is a new request: without --at, it erases also what came since an earlier one.

    It cannot be undone. The raw events remain in the input topics, and those that could not be used in the dead letters, until
    their retention ends: `isthmus topics` sets it.

    Example: isthmus erase c-17 c-18 --yes
    """
    import msgspec

    from stream.cli.settings_overrides import settings_with
    from stream.cli.times import parse_moment_ms
    from stream.core import limits
    from stream.core.event_times import rule_of
    from stream.core.events import INPUTS, NATIVE_FORMAT_HEADER, Erasure
    from stream.errors import IsthmusError
    from stream.kafka.cluster.example_erasure import erase_examples
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.producer import InputRecord, produce
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.topics import require_one_count

    settings = settings_with(bootstrap)
    now_ms = time.time_ns() // 1_000_000
    until_ms = None if at is None else parse_moment_ms(at, now_ms)  # None: this machine's clock has no say
    if until_ms is not None and until_ms > now_ms:
        raise IsthmusError("--at must not lie in the future: what has not happened yet cannot be erased")
    earliest = settings.times.earliest_of("erasures")
    rule = rule_of(next(row for row in INPUTS if row.role == "erasures"), earliest=earliest)
    if until_ms is not None and rule.is_too_early(until_ms):  # workers refuse it, after the examples are gone
        raise IsthmusError(f"--at must not lie before {earliest:%Y-%m-%d} (setting times.erasures_earliest), nor in January 1970")
    for user in users:
        if not 1 <= len(user.encode()) <= limits.USER_ID_BYTES:
            raise IsthmusError(f"a user id has 1 to {limits.USER_ID_BYTES} bytes")
    if not yes:
        typer.confirm(f"erase {len(users)} users for good?", abort=True)
    require_access(Process.ERASE, settings)
    require_one_count(settings.kafka.bootstrap, settings.topics)
    removed = erase_examples(settings.kafka.bootstrap, settings.topics.training_examples, set(users), typer.echo)
    made = [InputRecord("erasures", user, msgspec.json.encode(Erasure(user, until_ms, str(uuid4())))) for user in users]
    sent = asyncio.run(
        produce(settings.kafka.bootstrap, made, settings.topics.model_dump(), lambda _: None, ((NATIVE_FORMAT_HEADER, b"1"),))
    )
    typer.echo(f"{sent} erasures sent, {removed} training examples removed")
