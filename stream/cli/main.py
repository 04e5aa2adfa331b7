"""`isthmus`: a table of commands whose modules are imported when they are called, so that `--help` stays fast."""

import importlib
import sys
from typing import Final

import click
import typer
from typer.main import get_command

from stream.errors import IsthmusError

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("stream.cli.demo", "The whole system with live synthetic users; no Kafka needed."),
    "topics": ("stream.cli.topics", "Create or check all topics."),
    "train": ("stream.cli.train", "Train a model; promote it if it passes the gate; --every 15m."),
    "models": ("stream.cli.models", "The registry: list, show, promote, rollback."),
    "encoder": ("stream.cli.encoder", "Run one encoder: transcripts in, vectors and keywords out."),
    "replay": ("stream.cli.replay", "Tables through Kafka, encoder and worker; train and measure."),
    "dataset": ("stream.cli.dataset", "Data sets in the paper's layout: the synthetic world."),
    "text-model": ("stream.cli.text_model", "Import a sentence encoder; build a keyword list."),
    "worker": ("stream.cli.worker", "Run one profile worker: events in, recommendations out."),
}


class LazyGroup(click.Group):
    """Knows its commands by name; imports a module when its command is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        app: typer.Typer = importlib.import_module(COMMANDS[cmd_name][0]).app
        return get_command(app)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="isthmus")
def cli() -> None:
    """Isthmus: website clicks and call transcripts in, recommendations out.

    Settings come from isthmus.toml and ISTHMUS_* variables: `isthmus settings` prints them.

    Example: isthmus demo --seconds 90
    """


def main() -> None:
    try:
        cli()
    except IsthmusError as error:
        click.echo(f"isthmus: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
