"""The words of a text in any language, by Unicode's rules (UAX #29), folded so that one word has one spelling.

A call's text is compared with a keyword list word by word, so a change here needs a new `stream.text.keywords.RULE`. No language is
known here: stop words and names matter only where a list is built.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import chain, takewhile
from typing import Final

import regex

_APOSTROPHE: Final = re.compile("[\u2018\u2019\u201b\u02bc\u00b4]")
_IGNORABLE: Final = regex.compile(r"\p{Default_Ignorable_Code_Point}+")
_ELISION: Final = re.compile(
    r"'(?:(?<=\b[cdjlmnst]')|(?<=\b(?:qu|un|gl)')|(?<=\b(?:all)')|(?<=\b(?:dall|dell|coll|nell|sull|quel)')"
    r"|(?<=\b(?:quest|quell|jusqu)')|(?<=\b(?:lorsqu|puisqu|quoiqu)'))(?=\w\w)"
)
"""The apostrophe after an article or pronoun in French, Italian and Catalan: "l'assurance" holds the word "assurance"."""

_BEYOND: Final = re.compile("[^\\0-\u00ac\u00ae-\u02bb\u0370-\u0482\u048a-\u052f\u1e00-\u1fff\u2010-\u2017\u201c-\u2026]")
"""A character beyond plain Latin, Greek, Cyrillic and their punctuation, where `_SIMPLE` might be wrong."""
_SIMPLE: Final = re.compile(r"\w+(?:[':.\u00b7](?<=[^\W\d_].)(?=[^\W\d_])\w+)*|[.,;:!?]")
_FULL: Final = regex.compile(r"\p{Script=Han}+|\b\w(?:\B.)*+|\p{Terminal_Punctuation}", regex.WORD)
_HAN: Final = regex.compile(r"\p{Script=Han}")
_FIRST_HAN: Final = "\u2e80"
_BETWEEN: Final = "\u2e3c"
"""A full stop of shorthand, which no other character becomes."""
_START: Final = re.compile("[\\0-\x7f]|[^\\W\u0e00-\uabff\ud7a4-\U0010ffff]")
"""What a text begins with whose chunks may be looked up: no mark, which after a space would belong to the space."""
_KNOWN: Final[dict[str, tuple[str, ...]]] = {}
"""The words of what stood between two spaces: by the full rules they take four to eight times as long as plain ones."""
_MOST_KNOWN: Final = 1 << 15  # about 10 MB
_LONGEST_KNOWN: Final = 32  # characters; a script without spaces would keep whole sentences


def words(text: str) -> list[str]:
    """Returns the folded words of a text in order, numbers included, with what separates two clauses as a separate item.

    Runs of Chinese characters become overlapping pairs, since no space separates their words.

    >>> words("It's the KÜNDIGUNG, a-z")
    ["it's", 'the', 'kündigung', ',', 'a', 'z']
    >>> words("l'assurance"), words("自動車")
    (['l', 'assurance'], ['', '自動', '', '動車', ''])
    """
    if text.isascii():
        return _simple_words(text.lower())
    if not _BEYOND.search(text):
        folded = unicodedata.normalize("NFKC", text).casefold()
        if not _BEYOND.search(folded):
            return _simple_words(folded)
    return _known_words(text.split(" ")) if _START.match(text) and _BETWEEN not in text else _full_words(text)


def _known_words(chunks: Sequence[str]) -> list[str]:
    """The words of a text beyond plain Latin, Greek and Cyrillic: no rule reaches over a space, so most are looked up."""
    found = list(map(_KNOWN.get, chunks))
    if None in found:
        learned = _learn([chunk for chunk, known in zip(chunks, found, strict=True) if known is None])
        found = [learned[chunk] if known is None else known for chunk, known in zip(chunks, found, strict=True)]
    return list(chain.from_iterable(found))  # type: ignore[arg-type]


def _learn(chunks: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The words of each chunk, by the full rules over all of them at once: one call each would cost four times as much."""
    unique = list(dict.fromkeys(chunks))
    found = iter(_full_words(f" {_BETWEEN} ".join(["", *unique]))[1:])
    learned = {chunk: tuple(takewhile(_BETWEEN.__ne__, found)) for chunk in unique}
    if len(_KNOWN) > _MOST_KNOWN:
        _KNOWN.clear()
    _KNOWN.update((chunk, known) for chunk, known in learned.items() if len(chunk) <= _LONGEST_KNOWN)
    return learned


def _full_words(text: str) -> list[str]:
    """The words by Unicode's rules."""
    folded = unicodedata.normalize("NFKC", normalize(text).casefold().replace("i\u0307", "i"))  # the Turkish capital I
    if "'" in folded:
        folded = _ELISION.sub("' ", folded)
    return _pairs_for_han(_FULL.findall(folded))


def _simple_words(folded: str) -> list[str]:
    if "'" in folded:
        folded = _ELISION.sub("' ", folded)
    return _SIMPLE.findall(folded)


def normalize(text: str) -> str:
    """Returns a text in normalization form NFKC, with one kind of apostrophe and without invisible characters."""
    text = _APOSTROPHE.sub("'", text).replace("\u200b", " ")  # NFKC takes an acute accent apart; a zero-width space separates words
    visible: str = _IGNORABLE.sub("", unicodedata.normalize("NFKC", text))
    return visible


def _pairs_for_han(found: list[str]) -> list[str]:
    """Replaces each run of Chinese characters by its pairs; the empty text between them keeps them from being a phrase."""
    if not any(word >= _FIRST_HAN and _HAN.match(word) for word in found):
        return found
    pairs: list[str] = []
    for word in found:
        if word >= _FIRST_HAN and _HAN.match(word):
            for start in range(max(1, len(word) - 1)):
                pairs += ("", word[start : start + 2])
            pairs.append("")
        else:
            pairs.append(word)
    return pairs
