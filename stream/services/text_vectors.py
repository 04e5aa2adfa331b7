"""What a training needs of a text model: the vectors of the items' texts and of the tags."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from stream.core.ranking import Rows
    from training.text_vectors import TextVectors


def text_vectors(folder: Path, items: Mapping[str, str]) -> TextVectors:
    """Loads a text model and encodes the items' texts.

    Raises:
        IsthmusError: the folder is no text model.
    """
    from stream.text.item_texts import item_vectors, spaced
    from stream.text.model import TextModel
    from training.text_vectors import TextVectors

    model = TextModel(folder)

    def encode(tags: Sequence[str]) -> Rows:
        return model.encode([spaced(tag) for tag in tags])

    return TextVectors(model.hash, item_vectors(model, items), encode)


def texts_of_tables(names: Mapping[str, str], texts: Mapping[str, str]) -> dict[str, str]:
    """Returns what is encoded of each item of a data set, by its name and description. A name that is only the id says nothing."""
    from stream.text.item_texts import item_text

    return {item: item_text("" if name == item else name, texts.get(item)) for item, name in names.items()}
