"""Which words people write as names: with a capital letter within a sentence. Scripts without capital letters show no names.

German writes every noun like that. There a word counts as a noun if a determiner often stands right before it ("meine Kündigung",
but not "Frau Müller").
"""

from collections import Counter
from collections.abc import Iterable
from typing import Final

import regex

from stream.text.words import normalize, words

_MENTION: Final = regex.compile(r"(?<![\p{L}\p{M}'])([\p{L}\p{M}']*[\p{Ll}\p{M}]|,)\s+(\p{Lu}[\w'-]*)")
_NOUN_SHARE: Final = 0.25
"""Share of the users who capitalise a noun that are seen to write a determiner before it, at least."""
_STEMS: Final = ("ein", "kein", "mein", "dein", "sein", "ihr", "unser", "dies", "jed", "welch")
_ENDINGS: Final = ("", "e", "en", "em", "er", "es")
_DETERMINERS: Final = {
    *("der", "die", "das", "den", "dem", "des", "im", "ins", "am", "ans", "beim", "vom", "zum", "zur"),
    *(stem + ending for stem in _STEMS for ending in _ENDINGS),
}


class Names:
    """Counts the users who wrote a word as a name."""

    def __init__(self) -> None:
        self._capitalised: Counter[str] = Counter()
        self._nouns: Counter[str] = Counter()

    def add_user(self, texts: Iterable[str], language: str) -> None:
        """Counts what one user wrote."""
        capitalised, nouns = set[str](), set[str]()
        for text in texts:
            for before, mention in _MENTION.findall(normalize(text), overlapped=True):
                if mention.upper() == mention:
                    continue  # an abbreviation
                parts = words(mention)
                capitalised.update(parts)
                if language == "de" and before.casefold() in _DETERMINERS:
                    nouns.update(parts)
        self._capitalised.update(capitalised)
        self._nouns.update(nouns)

    def is_name(self, word: str, users: int) -> bool:
        """Whether at least half of the `users` of a word wrote it as a name."""
        capitalised = self._capitalised[word]
        return 2 * capitalised >= users and self._nouns[word] < _NOUN_SHARE * capitalised
