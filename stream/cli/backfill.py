"""`isthmus backfill`: a new application beside the running one, and the switch to it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stream.cli.options import Bootstrap

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)
Name = Annotated[str, typer.Argument(help="name of the new application")]


@app.command()
def start(
    name: Name,
    data: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="folder of events of the past: clicks.ndjson and so on"),
    ] = None,
    past_markers: Annotated[
        bool, typer.Option("--past-markers", help="go on although events are older than erasure markers are kept")
    ] = False,
    leave_out_unnamed: Annotated[
        bool,
        typer.Option("--leave-out-unnamed", help="leave events without event_id that the inputs may hold to these"),
    ] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Prepare a new application beside the running one: its topics, the erasure markers, and the past from files.

    The new application reads the same inputs and writes to topics of its own, so that nobody notices it before the switch. Its
    workers and encoders are started as usual, with the variables that this command prints.

    With --data, a worker and an encoder of this command first fold the events in the files. Each line of clicks.ndjson,
    transcripts.ndjson, purchases.ndjson, eligibility.ndjson, erasures.ndjson or feedback.ndjson is an event with our own field
    names. One that the inputs hold too counts once, by its event_id; clicks and purchases without any that the inputs may hold,
    because they happened up to step.allowed_lateness_s before these begin, or later, are refused, or left out.

    A run that was interrupted is run again, and goes on.

    Example: isthmus backfill start shop-2 --data past
    """
    from stream.services.startup import starting

    with starting(_say, "loading libraries") as startup:
        from stream.cli.settings_overrides import settings_with
        from stream.services.audience import cleaning_up_at_signals
        from stream.services.backfill.start import start_backfill
        from stream.services.backfill.successor import variables_of

        settings = settings_with(bootstrap)
        with cleaning_up_at_signals():
            new = start_backfill(settings, name, data, startup.step, past_markers=past_markers, leave_out_unnamed=leave_out_unnamed)
    typer.echo(f"{name} is ready to read the inputs. Start its encoders and workers beside those of {settings.application}, with:")
    for variable, value in variables_of(settings, new).items():
        typer.echo(f"  {variable}={value}")
    typer.echo(f"When they have caught up, stop those of {settings.application} and run `isthmus backfill switch {name}`")


@app.command()
def switch(
    name: Name,
    lose_history: Annotated[
        bool, typer.Option("--lose-history", help="go on although users lose events that have left the inputs, or have some twice")
    ] = False,
    bootstrap: Bootstrap = None,
) -> None:
    """Check that the new application may replace the running one, and say what consumers read from now on.

    Stop the running application's workers and encoders first; those of the new one go on. Over all users, no list may have older
    applied offsets than the one it replaces, and nothing may be lost that has left the inputs; erasures that came since the
    backfill began are compared, and carried over where they have left their topic.

    Example: isthmus backfill switch shop-2
    """
    from stream.services.startup import starting

    with starting(_say, "loading libraries") as startup:
        from stream.cli.settings_overrides import settings_with
        from stream.services.audience import cleaning_up_at_signals
        from stream.services.backfill import switch as switching
        from stream.services.backfill.successor import outputs_of

        settings = settings_with(bootstrap)
        with cleaning_up_at_signals():
            done = switching.switch(settings, name, startup.step, lose_history=lose_history)
    typer.echo(f"checked {done.users} users: no list has older applied offsets than the one it replaces")
    if done.lost:
        typer.echo(f"{done.lost} users lose what {settings.application} knows of them and the inputs no longer hold")
    typer.echo("consumers read from now on:")
    for former, new in outputs_of(settings, done.new):
        typer.echo(f"  {new}  instead of  {former}")
    typer.echo(f"start API, sinks and trainers with ISTHMUS_APPLICATION={name}; leave those of {settings.application} stopped")


def _say(line: str) -> None:
    typer.echo(f"isthmus: {line}", err=True)
