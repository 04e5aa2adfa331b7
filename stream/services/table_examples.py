"""Tables in the paper's layout as training examples, encoded with a text model, for training and the benchmark."""

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


def examples_from_tables(
    settings: Settings, folder: Path, purchase_events: int | None = None
) -> tuple[list[TrainingExample], list[str]]:
    """Returns the newest examples, encoded with the settings' or the packaged text model, and the item ids in the tables' order."""
    from stream.services.text_models import folder_of
    from training.datasets.tables.reader import read_tables

    tables = read_tables(folder)
    return encode_tables(settings, folder, tables, folder_of(settings), purchase_events), list(tables.items)


def encode_tables(
    settings: Settings, folder: Path, tables: Tables, text_model: Path, purchase_events: int | None = None
) -> list[TrainingExample]:
    """Returns the newest examples of the tables in `folder`, their transcripts encoded with a text model.

    Raises:
        IsthmusError: a row or a conversation cannot be used; the message names the folder.
    """
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
