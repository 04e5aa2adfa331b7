"""Which text model a process uses, and the provisional keyword list until there are transcripts to build one from."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Final

from stream.errors import IsthmusError
from stream.settings import with_changes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from stream.core.events import Rejection, UserEvent
    from stream.core.records import Record
    from stream.settings import Settings
    from stream.text.keywords import Keywords
    from training.datasets.tables.reader import Tables

RECENT_CLICKS: Final = 10_000  # per partition: enough to meet every tag that is not rare


def default_folder(cache_dir: Path) -> Path:
    """Where set-up puts the packaged text model."""
    return cache_dir / "text-model"


def folder_of(settings: Settings) -> Path:
    """The text model that the settings name, or the packaged one."""
    return settings.encoder.text_model or default_folder(settings.cache_dir)


def with_stand_in(settings: Settings, texts: Iterable[str], folder: Path) -> Settings:
    """Returns settings that name a text model. Unless they do already, it is written into `folder`, see `write_stand_in`."""
    if settings.encoder.text_model is not None:
        return settings
    write_stand_in(default_folder(settings.cache_dir), texts, folder)
    return with_changes(settings, "encoder", text_model=folder)


def write_stand_in(source: Path, texts: Iterable[str], folder: Path) -> None:
    """Writes a text model into `folder`: the encoder of `source`, and the words of `texts` as keywords."""
    from stream.text.keywords import standing_in
    from stream.text.model import with_keywords

    with_keywords(source, folder, standing_in(texts))


def keywords_from_transcripts(path: Path, min_users: int, exclude: Path | None, say: Callable[[str], None]) -> Keywords:
    """Builds a keyword list from transcript events (JSON lines) or a folder of tables; tells what the rules could not do for them.

    Args:
        path: The transcripts.
        min_users: So many users must have used a keyword.
        exclude: A file of words to leave out, one or more a line.
        say: Receives a remark.

    Raises:
        IsthmusError: a file cannot be read, or the tables hold no transcripts.
    """
    from stream.text.keywords import keywords_of, remarks

    try:
        excluded = exclude.read_text(encoding="utf-8-sig").splitlines() if exclude else ()
    except (OSError, UnicodeDecodeError) as error:
        raise IsthmusError(f"{exclude}: {error}") from None
    texts = _texts_of_tables(path) if path.is_dir() else _texts_of_events(path)
    keywords = keywords_of(texts, min_users, excluded)
    for remark in remarks(texts, keywords):
        say(remark)
    return keywords


def _texts_of_tables(folder: Path) -> dict[str, list[str]]:
    from training.datasets.tables.reader import read_tables

    tables = read_tables(folder)
    if tables.encoded is not None:
        raise IsthmusError(f"{folder} has no transcripts: its calls come with keywords or vectors already")
    texts: dict[str, list[str]] = {}
    for row in tables.interactions:
        if row.conversation_id is not None:
            texts.setdefault(row.user_id, []).extend(text for _, text in tables.conversations[row.conversation_id])
    return texts


def _texts_of_events(file: Path) -> dict[str, list[str]]:
    from stream.core.events import Rejection
    from stream.core.parsing import parse_transcript

    texts: dict[str, list[str]] = {}
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise IsthmusError(f"{file}: {error}") from None
    for number, line in enumerate(lines, start=1):
        transcript = parse_transcript(line)
        if isinstance(transcript, Rejection):
            raise IsthmusError(f"{file}, line {number}: {transcript.error}")
        texts.setdefault(transcript.user_id, []).extend(sentence.text for sentence in transcript.sentences)
    return texts


def words_of_tables(tables: Tables) -> set[str]:
    """The names of the items and the tags of the sessions."""
    tags = {tag for clicks in tables.sessions.values() for click in clicks for tag in click}
    return {*tables.items.values(), *tags}


def words_on_kafka(settings: Settings, say: Callable[[str], None]) -> set[str]:
    """The names and texts of the catalogue's items, and the tags of the newest clicks; `say` receives how many cannot be used."""
    from stream.core.catalogue_records import ItemTable
    from stream.core.events import Click
    from stream.formats.topic_decoder import fetch_schemas
    from stream.kafka.cluster.compacted_topic import CompactedTopic
    from stream.kafka.cluster.topic_reader import newest_records
    from stream.services.process import item_format

    bootstrap, topics = settings.kafka.bootstrap, settings.topics
    table = ItemTable(item_format(settings))
    with closing(CompactedTopic(bootstrap, topics.items)) as catalogue:
        records = list(catalogue.new_records()[0])
        fetch_schemas(table.form.to_json, records)
        rejected = table.apply(records)
    items = table.items.values()
    read = _clicks(settings, newest_records(bootstrap, topics.clicks, RECENT_CLICKS))
    clicks = [click for click in read if isinstance(click, Click)]
    for topic, count in ((topics.items, len(rejected)), (topics.clicks, len(read) - len(clicks))):
        if count:
            say(f"{count} records of {topic} cannot be used and are left out: see `isthmus dead-letters list`")
    tags = {tag for click in clicks for tag in click.tags}
    return {*(item.name for item in items), *(item.text or "" for item in items), *tags}


def _clicks(settings: Settings, records: Sequence[Record]) -> list[UserEvent | Rejection]:
    """What a worker reads in records of `web-clicks`."""
    from stream.core.events import Source
    from stream.core.parsing import parse
    from stream.core.records import is_native
    from stream.formats.topic_decoder import fetch_schemas
    from stream.services.process import step_config

    config, source = step_config(settings), Source.CLICK
    mapper, to_json, unit = config.mappers.get(source), config.decoders.get(source), settings.times.unit_of("clicks")
    fetch_schemas(to_json, records)
    return [
        parse(source, record.value) if is_native(record.headers) else parse(source, record.value, mapper, unit, to_json)
        for record in records
    ]


def words_of_the_synthetic_world() -> set[str]:
    from training.datasets.synthetic.catalogue import items
    from training.datasets.synthetic.sessions import all_tags

    return {*(item.name for item in items()), *(item.text or "" for item in items()), *all_tags()}
