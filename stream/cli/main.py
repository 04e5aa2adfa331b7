"""`isthmus`: a table of commands. A command's module is imported when it is called, so that the command line starts fast."""

import importlib
import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command

from stream.errors import IsthmusError
from stream.services.threads import set_thread_variable

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("stream.cli.demo", "The whole system with live synthetic users; no Kafka needed."),
    "doctor": ("stream.cli.doctor", "Say what is wrong, and what to do."),
    "topics": ("stream.cli.topics", "Create or check all topics; give up a damaged batch."),
    "train": ("stream.cli.train", "Train a model; promote it if it passes the gate; --every 15m."),
    "models": ("stream.cli.models", "The registry: list, show, promote, roll back, announce."),
    "encoder": ("stream.cli.encoder", "Run one encoder: transcripts in, vectors and keywords out."),
    "replay": ("stream.cli.replay", "Stream tables through Kafka, encoder and worker; train and evaluate."),
    "dead-letters": ("stream.cli.dead_letters", "Events that could not be used: list, show, replay."),
    "erase": ("stream.cli.erase", "Erase users."),
    "reset": ("stream.cli.reset", "Forget all states and read the inputs again."),
    "backfill": ("stream.cli.backfill", "A new application beside the running one, and the switch to it."),
    "settings": ("stream.cli.settings", "Print all settings with their origin; secrets hidden."),
    "benchmark": ("stream.cli.benchmark", "Train and compare systems on a data set, as in the paper."),
    "dataset": ("stream.cli.dataset", "Data sets in the paper's layout: check, describe, import, synthesize."),
    "text-model": ("stream.cli.text_model", "Import a sentence encoder; build a keyword list."),
    "api": ("stream.cli.api", "Run one replica of the API: lists, profiles and events over HTTP."),
    "sink": ("stream.cli.sink", "Bring lists into other systems: a PostgreSQL database, a webhook."),
    "audience": ("stream.cli.audience", "Score all users for an item; list the best."),
    "keys": ("stream.cli.keys", "API keys: make, list, rotate, revoke."),
    "worker": ("stream.cli.worker", "Run one profile worker: events in, recommendations out."),
}

SERVICES: Final = {"worker", "encoder", "api", "sink"}
ONE_THREAD: Final = {"worker", "encoder", "demo"}
"""Commands whose numeric libraries use one thread, which must be set before any of them is imported."""


class LazyGroup(TyperGroup):
    """Knows its commands by name, and imports a module when its command is called or its help is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in ONE_THREAD:
            set_thread_variable()
        module, text = COMMANDS[cmd_name]
        command = get_command(importlib.import_module(module).app)
        command.short_help = text
        return command

    def invoke(self, ctx: Any) -> Any:
        """Turns an OSError that names a file into a message for the user. In a long-running service it may be a bug, so there the
        traceback is kept.
        """
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.filename is None or ctx.invoked_subcommand in SERVICES:
                raise
            raise IsthmusError(
                f"{error.filename} cannot be used ({error.strerror}): check the name, and that it may be read and written"
            ) from None


app = typer.Typer(
    cls=LazyGroup,
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"isthmus {version('isthmus')}")
        raise typer.Exit


@app.callback()
def isthmus(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version and exit."),
) -> None:
    """Isthmus: website clicks and call transcripts in, recommendations out.

    Settings come from isthmus.toml and ISTHMUS_* variables: `isthmus settings` prints them.

    Example: isthmus demo --seconds 90
    """
    del version


def main() -> None:
    try:
        app()
    except IsthmusError as error:
        typer.echo(f"isthmus: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
