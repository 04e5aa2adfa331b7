"""Tags and keywords as one text: states and examples are read and written many times faster with one string than with a hundred."""

from collections.abc import Iterable
from typing import Final

SEPARATOR: Final = "\x1f"
"""Precedes each tag or keyword of a text (ASCII's unit separator); no tag or keyword may contain it."""


def join_tokens(tokens: Iterable[str]) -> str:
    r"""One text of the tokens.

    >>> join_tokens(["car", "dog"])
    '\x1fcar\x1fdog'
    """
    return "".join([SEPARATOR + token for token in tokens])


def split_tokens(text: str) -> tuple[str, ...]:
    """The tokens of a text: the inverse of `join_tokens`."""
    return tuple(text.split(SEPARATOR)[1:])
