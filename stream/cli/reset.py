"""`isthmus reset`: forget all states and read the inputs again."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from stream.cli.options import Bootstrap

if TYPE_CHECKING:
    from stream.services.reset.reset import Reset

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def reset(
    to_time: Annotated[
        str | None,
        typer.Option(help="read what Kafka received since 2h, 7d ago, or an RFC 3339 time; default: from the inputs' beginning"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would be done, change nothing")] = False,
    lose_history: Annotated[
        bool, typer.Option("--lose-history", help="go on although users lose what the inputs no longer hold")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask for confirmation")] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Forget all users' states and read the inputs again, from their beginning or from a time on.

    Stop all workers and encoders first, on all machines, and start them afterwards. The command deletes the states (by tombstones
    in the changelog, which stores on other machines follow), this machine's stores, and the lists and training examples that the
    inputs do not give again; it sets the offsets of workers and encoders. Encoded calls are passed over: the encoder makes them
    again. Erased users stay erased, and models stay.

    What users have from before is lost, and so is what nobody has read yet: --dry-run counts both, and only --lose-history goes
    on. Erasures are always read from their beginning. A run that was interrupted is run again, and goes on; until it has ended,
    no worker or encoder starts.

    Example: isthmus reset --dry-run
    """
    from stream.services.startup import starting

    def say(line: str) -> None:
        typer.echo(f"isthmus: {line}", err=True)

    with starting(say, "loading libraries") as startup:
        from stream.cli.settings_overrides import settings_with
        from stream.cli.times import parse_moment_ms
        from stream.errors import IsthmusError
        from stream.services.audience import cleaning_up_at_signals
        from stream.services.reset.reset import open_reset

        settings = settings_with(bootstrap)
        now_ms = time.time_ns() // 1_000_000
        since_ms = None if to_time is None else parse_moment_ms(to_time, now_ms)
        if since_ms is not None and since_ms > now_ms:
            raise IsthmusError("--to-time must not lie in the future")
        with cleaning_up_at_signals(), open_reset(settings, since_ms, startup.step) as found:
            startup.end()  # nothing is said while somebody is asked
            for line in _plan(found):
                typer.echo(line)
            if dry_run:
                for one in found.members():
                    typer.echo(f"not now: {one} lives")
                return
            _require_consent(found, lose_history=lose_history, yes=yes)
            with starting(say, "looking for living workers and encoders") as running:
                found.run(running.step)
    typer.echo("done: start the encoders and workers; lists and examples change while they read the inputs again")


def _plan(found: Reset) -> list[str]:
    from stream.services.reset.reset import groups_of
    from stream.services.reset.verdict import LOSSES, inputs_of

    counts, target, settings = found.counts, found.target, found.settings
    where = "their beginning"
    if target.since_ms is not None:
        where = f"what Kafka received from {_time(target.since_ms)} on, and erasures from their beginning"
    lines = [f"the application {settings.application} reads {', '.join(inputs_of(target))} again from {where}"]
    if found.interrupted is not None:
        lines.append(f"this goes on with the reset that began at {_time(found.interrupted.began_at)} and did not end")
    lines += [
        f"states     of {counts.users} users are deleted; {counts.markers} erasure markers stay",
        f"lists      {counts.lists_gone} of {counts.lists} are deleted; the others stay until workers replace them",
        f"examples   {counts.examples_gone} of {counts.examples} are deleted; workers send those that the inputs give",
        f"offsets    of {' and '.join(groups_of(settings))} are set; {settings.topics.encoded_calls} is passed over to its end",
        f"stores     in {settings.worker_state_dir} are deleted; those of other machines follow by themselves",
    ]
    lost = counts.losers
    kinds = ", ".join(f"{lost[one]} {text}" for one, text in LOSSES.items())
    lines.append(f"lost       {lost['any']} users have something from before that: {kinds}")
    if counts.unread:
        which = "which no worker or encoder has read, or whose states are lost"
        lines.append(f"unread     {counts.unread} records from before that, {which}, are passed over")
    if counts.unreadable:
        lines.append(f"           and {counts.unreadable} states cannot be read, so that it is not known what they lose")
    return lines


def _require_consent(found: Reset, *, lose_history: bool, yes: bool) -> None:
    from stream.errors import IsthmusError

    if found.counts.are_any_lost and not lose_history:
        what = "what nobody has read yet" if found.counts.unread else "what the inputs no longer hold"
        raise IsthmusError(f"users would lose {what}: nothing is changed. --lose-history goes on")
    if yes:
        return
    if not sys.stdin.isatty():
        raise IsthmusError("nobody can be asked here: nothing is changed. --yes goes on without asking")
    typer.confirm("go on?", abort=True)


def _time(at_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at_ms / 1_000, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
