"""The vectors of tags and items' texts, by the text model that encoded the examples' calls."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from stream.core.ranking import Rows


class TextVectors(NamedTuple):
    """What a training knows of texts.

    Attributes:
        text_model: Hash of the text model.
        items: Item -> the vector of its text, (width,). Items without one are not in it.
        encode: Returns the vectors of tags, (n,) -> (n, width).
    """

    text_model: str
    items: Mapping[str, Rows]
    encode: Callable[[Sequence[str]], Rows]
