"""`isthmus train`: one training run, or one per interval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from models.systems import DEFAULT, SYSTEMS
from stream.cli.options import Bootstrap

app = typer.Typer(add_completion=False, rich_markup_mode=None)
REFUSED = 3


@app.command()
def train(
    bootstrap: Bootstrap = None,
    examples: Annotated[Path | None, typer.Option(help="train on a file of examples instead of the topic")] = None,
    data: Annotated[Path | None, typer.Option(help="train on tables in the paper's layout instead of the topic")] = None,
    items: Annotated[str | None, typer.Option(help="with --examples: item ids, comma-separated; default: those bought")] = None,
    every: Annotated[str | None, typer.Option(help="train every 15m, 1h, 30s ... on what has arrived since")] = None,
    system: Annotated[str, typer.Option(help=f"one of {', '.join(SYSTEMS)}")] = DEFAULT,
    seed: Annotated[int | None, typer.Option(min=0, help="default: setting training.seed")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="keep checkpoints in this folder, and continue an interrupted run from them"),
    ] = None,
    min_judged: Annotated[
        int | None, typer.Option(help="fresh purchases that the gate needs; default: setting training.min_judged")
    ] = None,
    announce_file: Annotated[
        Path | None, typer.Option(help="append announcements to this file instead of the models topic")
    ] = None,
) -> None:
    """Train a system, register the version, and promote it if it passes the gate.

    With --data and without the setting encoder.text_model, the keyword list is built from the training part's calls. The name of
    the resulting text model is printed: the encoder must use the same one when the trained model is served.

    With `torchrun -m stream.cli.main train ...` several processes train one model.

    Exit codes: 0 promoted (or --every was ended by a signal), 3 refused by the gate (the reason is printed), 2 wrong use or
    surroundings (what to do is printed), 1 a bug. If anything fails, the champion stays in place.

    Example: isthmus train --bootstrap localhost:9092 --every 15m
    """
    import logging
    import os

    from stream.cli.times import parse_interval_s
    from stream.services.startup import log_to_stderr, starting

    _check_options(system, resume=resume, every=every, examples=examples, data=data, items=items)
    every_s = None if every is None else parse_interval_s(every)
    log_to_stderr()
    say = logging.getLogger("isthmus").info if os.environ.get("RANK", "0") == "0" else _say_nothing  # one of torchrun's processes
    with starting(say, "loading libraries") as startup:
        from stream.cli.settings_overrides import settings_with
        from stream.services.trainer import TrainerOptions, train_and_announce, train_periodically
        from stream.settings import with_changes

        settings = with_changes(settings_with(bootstrap), "training", seed=seed, min_judged=min_judged)
        listed = None if items is None else [item for text in items.split(",") if (item := text.strip())]
        options = TrainerOptions(
            system=system, examples=examples, data=data, items=listed, resume=resume, announce_file=announce_file
        )
        if every_s is not None:
            train_periodically(settings, options, every_s, typer.echo, startup)
            return
        result = train_and_announce(settings, options, typer.echo, startup)
    if result is not None:
        typer.echo(result.reason)
        if result.announcement is None:
            raise typer.Exit(REFUSED)


def _check_options(
    system: str, *, resume: Path | None, every: str | None, examples: Path | None, data: Path | None, items: str | None
) -> None:
    """Raises IsthmusError where options exclude each other."""
    from stream.errors import IsthmusError

    if system not in SYSTEMS:
        raise IsthmusError(f"no system is called {system!r}: choose one of {', '.join(SYSTEMS)}")
    if resume is not None and every is not None:
        raise IsthmusError("--resume continues one run, --every starts a run per interval: leave one of them out")
    if examples is not None and data is not None:
        raise IsthmusError("--examples and --data both say what to train on: leave one of them out")
    if items is not None and examples is None:
        raise IsthmusError("--items goes with --examples: tables and topics name their items themselves")


def _say_nothing(line: str) -> None:
    del line
