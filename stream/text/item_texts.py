"""The text by which an item is known, and its vector."""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import regex

from stream.core.ranking import Rows

_CHARACTERS: Final = 4_000  # longest text that is read: far more than an encoder's 256 tokens
_JOINED: Final = regex.compile(r"[_\-]+|(?<=\p{Ll})(?=\p{Lu})")
"""Where words meet in identifiers, as in `call_back` or `BuyTicket`: a text model knows the words, not what they make."""


class SentenceEncoder(Protocol):
    """A loaded text model."""

    def encode(self, sentences: Sequence[str]) -> Rows: ...


def spaced(text: str) -> str:
    """Returns a text whose words are apart.

    >>> spaced("RideSharing_GetRide"), spaced("pets-cover")
    ('Ride Sharing Get Ride', 'pets cover')
    """
    return " ".join(_JOINED.sub(" ", text).split())


def item_text(name: str, text: str | None = None) -> str:
    """Returns what is encoded of an item; "" where it says nothing."""
    described = f"{spaced(name)}. {text.strip()}" if text and text.strip() else spaced(name)
    return described[:_CHARACTERS].strip()


def item_vectors(model: SentenceEncoder, texts: Mapping[str, str]) -> dict[str, Rows]:
    """Returns the vectors of the items that have a text."""
    said = {item: text for item, text in texts.items() if text}
    return dict(zip(said, model.encode(list(said.values())), strict=True)) if said else {}
