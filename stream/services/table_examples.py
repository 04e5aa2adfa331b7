"""Tables in the paper's layout as training examples, encoded with a text model: what training, `replay` and the benchmark share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stream.errors import IsthmusError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stream.core.outputs import TrainingExample
    from stream.core.records import Batch, PlainRecord
    from stream.settings import Settings
    from training.datasets.tables.reader import Tables


def load_tables(folder: Path) -> Tables:
    from training.datasets.tables.reader import TableError, read_tables

    try:
        return read_tables(folder)
    except TableError as error:
        raise IsthmusError(str(error)) from None


def examples_from_tables(
    settings: Settings, folder: Path, purchase_events: int | None = None
) -> tuple[list[TrainingExample], list[str]]:
    """The newest examples, of the text model that the settings name or the packaged one, and the item ids in the tables' order."""
    from stream.cli.text_model import folder_of

    tables = load_tables(folder)
    return examples_with(settings, folder, tables, folder_of(settings), purchase_events), list(tables.items)


def examples_with(
    settings: Settings, folder: Path, tables: Tables, text_model: Path, purchase_events: int | None = None
) -> list[TrainingExample]:
    """The newest examples of tables that were read from `folder`, transcripts encoded with a text model."""
    from stream.core.records import PlainRecord
    from stream.services.progress_bar import progress_bar
    from stream.text.encode_stage import encode_batch
    from stream.text.model import TextModel
    from training.datasets.examples_from_tables import examples_of
    from training.datasets.tables.reader import TableError

    own = settings.encoder
    texts = bool(tables.conversations)
    model = (
        TextModel(text_model, batch_sentences=own.batch_sentences, threads=own.threads, cached_sentences=own.cached_sentences)
        if texts
        else None
    )

    def encode(batch: Batch) -> Sequence[PlainRecord]:
        assert model is not None
        encoded = encode_batch(batch, model)
        if encoded.dead_letters:
            raise IsthmusError(f"{folder}: a conversation cannot be encoded: {(encoded.dead_letters[0].value or b'').decode()}")
        pairs = zip(encoded.calls, encoded.timestamps, strict=True)
        return [PlainRecord(offset, at_ms, call.key, call.value) for offset, (call, at_ms) in enumerate(pairs)]

    try:
        with progress_bar("purchase events encoded", purchase_events or len(tables.purchases), every=100) as show:
            return examples_of(tables, encode, purchase_events, progress=show)
    except TableError as error:
        raise IsthmusError(f"{folder}: {error}") from None
