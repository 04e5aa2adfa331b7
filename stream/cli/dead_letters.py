"""`isthmus dead-letters`: events that could not be used, and their replay once the cause is fixed."""

from __future__ import annotations

import time
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from stream.cli.options import Bootstrap

if TYPE_CHECKING:
    from stream.core.outputs import DeadLetter
    from stream.kafka.cluster.dead_letter_replay import DeadLetterFilter

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)
REFUSED: Final = 3

ByReason = Annotated[str | None, typer.Option("--reason", help="only this reason: mapping, invalid, poison ...")]
ByTopic = Annotated[str | None, typer.Option("--topic", help="only this origin topic")]
Since = Annotated[str | None, typer.Option(help="only events that reached the broker since 2h, 30m, 7d ago, or an RFC 3339 time")]
Until = Annotated[str | None, typer.Option(help="only events that reached the broker before this time, as in --since")]


@app.command("list")
def list_(
    reason: ByReason = None,
    topic: ByTopic = None,
    since: Since = None,
    until: Until = None,
    json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """List dead letters with time, reason, coordinates and error, without keys and originals, which are personal data.

    Example: isthmus dead-letters list --reason mapping --since 2h
    """
    import msgspec

    from stream.cli.settings_overrides import settings_with
    from stream.kafka.cluster.dead_letter_replay import coordinates_text, read_dead_letters, read_replayed
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.topic_reader import open_topic_reader

    settings = settings_with(bootstrap)
    require_access(Process.DEAD_LETTERS, settings)
    counts = Counter[str]()
    with open_topic_reader(settings.kafka.bootstrap) as found:
        replayed = read_replayed(found, settings.topics.replayed)
        for letter in read_dead_letters(found, settings.topics.dead_letters, _wanted(reason, topic, since, until)):
            counts[letter.reason] += 1
            again = coordinates_text(letter).encode() in replayed
            if json:
                row: dict[str, object] = {
                    "coordinates": coordinates_text(letter),
                    "occurred_at": _time(letter.occurred_at),
                    "reason": letter.reason,
                }
                row |= {"error": letter.error, "original_bytes": letter.original_bytes, "replayed": again}
                typer.echo(msgspec.json.encode(row).decode())
            else:
                mark = "replayed  " if again else ""
                typer.echo(f"{_time(letter.occurred_at)}  {letter.reason:<15}  {coordinates_text(letter)}  {mark}{letter.error}")
    by_reason = ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"
    typer.echo(f"{counts.total()} dead letters: {by_reason}", err=True)


@app.command()
def show(
    coordinates: Annotated[str, typer.Argument(help="topic/epoch/partition/offset, as list prints it")], bootstrap: Bootstrap = None
) -> None:
    """Show one dead letter with its original, which is personal data. A transcript is read from its topic, while that keeps it.

    Example: isthmus dead-letters show web-clicks/4611686018427387904/3/17
    """
    from stream.cli.settings_overrides import settings_with
    from stream.errors import IsthmusError
    from stream.kafka.cluster.dead_letter_replay import original_of, read_dead_letters
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.topic_reader import open_topic_reader

    settings = settings_with(bootstrap)
    require_access(Process.DEAD_LETTERS, settings)
    with open_topic_reader(settings.kafka.bootstrap) as found:
        letter = next(iter(list(read_dead_letters(found, settings.topics.dead_letters, _wanted(coordinates=[coordinates])))), None)
        if letter is None:
            raise IsthmusError(f"no dead letter has the coordinates {coordinates}: `isthmus dead-letters list` prints them")
        original = original_of(found, letter, _epochs(settings.kafka.bootstrap, letter))
    typer.echo(
        f"reason   {letter.reason}\nerror    {letter.error}\nat       {_time(letter.occurred_at)}\nbytes    {letter.original_bytes}"
    )
    if isinstance(original, str):
        typer.echo(f"original {original}")
        if letter.original is not None:
            typer.echo(_text(letter.original))
        return
    typer.echo(f"key      {_text(original.key)}")
    for name, value in original.headers:
        typer.echo(f"header   {name}: {_text(value)}")
    typer.echo(f"\n{_text(original.value)}")


@app.command()
def replay(
    coordinates: Annotated[list[str] | None, typer.Argument(help="topic/epoch/partition/offset of single dead letters")] = None,
    reason: ByReason = None,
    topic: ByTopic = None,
    since: Since = None,
    until: Until = None,
    every: Annotated[bool, typer.Option("--all", help="all dead letters, without any filter")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be done, send nothing")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Send originals to their topics again, each once: what was replayed is recorded, and skipped the next time.

    Key and headers stay; the header isthmus_replayed_from names the dead letter, isthmus_first_origin the original, by which an
    event without an id is recognised that was applied too, and isthmus_first_received_at the original's Kafka timestamp: an erasure
    without a time reaches no further. An event that fails again becomes a new dead letter. Run one replay at a time. Exit code 3:
    some were refused (the reason is printed), the others are replayed.

    Example: isthmus dead-letters replay --reason mapping --since 2h --dry-run
    """
    from stream.cli.settings_overrides import settings_with
    from stream.errors import IsthmusError
    from stream.kafka.cluster.dead_letter_replay import DeadLetterReplay, read_dead_letters
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.topic_reader import open_topic_reader

    if not (every or coordinates or reason or topic or since or until):
        raise IsthmusError("choose dead letters by coordinates, --reason, --topic, --since, --until, or --all")
    settings = settings_with(bootstrap)
    require_access(Process.DEAD_LETTERS, settings)
    with open_topic_reader(settings.kafka.bootstrap) as found:
        letters = list(read_dead_letters(found, settings.topics.dead_letters, _wanted(reason, topic, since, until, coordinates)))
        typer.echo(f"{len(letters)} dead letters match", err=True)
        work = DeadLetterReplay(settings.kafka.bootstrap, found, settings.topics, lambda name, what: typer.echo(f"{name}  {what}"))
        counts = work.run(letters, time.time_ns() // 1_000_000, dry=dry_run)
    typer.echo(", ".join(f"{what}: {count}" for what, count in counts.items()) + (" (dry run)" if dry_run else ""), err=True)
    if counts["refused"]:
        raise typer.Exit(REFUSED)


def _wanted(
    reason: str | None = None,
    topic: str | None = None,
    since: str | None = None,
    until: str | None = None,
    coordinates: list[str] | None = None,
) -> DeadLetterFilter:
    from stream.cli.times import parse_moment_ms
    from stream.core.events import Reason
    from stream.errors import IsthmusError
    from stream.kafka.cluster.dead_letter_replay import DeadLetterFilter

    if reason is not None and reason not in list(Reason):
        raise IsthmusError(f"{reason!r} is not a reason: choose one of {', '.join(Reason)}")
    now_ms = time.time_ns() // 1_000_000
    start, end = (None if text is None else parse_moment_ms(text, now_ms) for text in (since, until))
    return DeadLetterFilter(reason, topic, start, end, None if not coordinates else frozenset(coordinates))


def _epochs(bootstrap: str, letter: DeadLetter) -> dict[str, int]:
    from stream.errors import IsthmusError
    from stream.kafka.cluster.topics import topic_epochs

    try:
        return topic_epochs(bootstrap, [letter.origin.topic])
    except IsthmusError:
        return {}


def _time(at_ms: int) -> str:
    """The number itself for a timestamp whose year no date has."""
    try:
        return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except (OverflowError, ValueError):
        return str(at_ms)


def _text(value: Any) -> str:
    """A value framed for a schema registry is shown in base64."""
    from base64 import b64encode

    from stream.core.framing import looks_framed, schema_id_of

    if value is None:
        return "-"
    content = bytes(value)
    if looks_framed(content):
        return f"schema {schema_id_of(content)}, in base64 with its frame: {b64encode(content).decode()}"
    return content.decode(errors="replace")
