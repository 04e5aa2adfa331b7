"""The first rule for words, kept for text models made before Unicode's words: ASCII letters only, without English stop words.

A new text model never uses it; `tests/compatibility` holds what it found.
"""

import re
from typing import Final

from stream.text.stop_words import ENGLISH

_CLAUSE: Final = re.compile(r"[.,;:!?]")
_WORD: Final = re.compile(r"[a-z][a-z'-]+")


def ascii_candidates(text: str) -> list[str]:
    """The content words of a text, each followed by the pair it ends: two content words side by side in one clause."""
    candidates = []
    for clause in _CLAUSE.split(text.lower()):
        former = ""
        for word in _WORD.findall(clause):
            if word in ENGLISH:
                former = ""
                continue
            candidates.append(word)
            if former:
                candidates.append(f"{former} {word}")
            former = word
    return candidates
