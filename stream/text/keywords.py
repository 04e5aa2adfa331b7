"""Keywords: which words and word pairs of a versioned list a call contains, and how such a list is built.

A list holds no numbers and no names, and a word or pair enters it only if at least 20 users used it. This keeps a caller's own
words out of the profile topics; it is a heuristic, not a proof.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Final

import regex

from stream.core import limits
from stream.text.ascii_words import ascii_candidates
from stream.text.names import Names
from stream.text.stop_words import language_of, stop_words
from stream.text.words import words

RULE: Final = 2
"""The rule for words that new lists are built and looked up by. Part of a text model and of its hash.

1: ASCII letters. 2: Unicode's words, folded (`stream.text.words`).
"""
RULES: Final = (1, 2)
MIN_USERS: Final = 20
MOST: Final = limits.KEYWORDS  # per encoded call

_MEANS_NOTHING: Final = regex.compile(r"\p{N}|^[^\p{L}]*$|^.$(?<![\p{Script=Han}\p{Script=Hangul}])")
_UNSPLIT: Final = regex.compile(r"\p{Line_Break=Complex_Context}")
"""Thai, Lao, Khmer, Burmese and their like: no space separates the words, and no rule without a dictionary finds them."""
_SAMPLED_USERS: Final = 1_000
"""Users from whose texts the usual language is found; it is assumed for users with too little text to detect theirs."""
_CASED: Final = regex.compile(r"[\p{Lu}\p{Ll}]")


class Keywords:
    """A list of words and pairs; `find` returns those in a text.

    Attributes:
        listed: The words and pairs, sorted.
        rule: The rule for words that they were built by, and that texts are read by.
    """

    def __init__(self, keywords: Iterable[str], rule: int = RULE) -> None:
        self.listed = tuple(sorted(set(keywords) - {""}))
        self.rule = rule
        self._known = frozenset(keyword for keyword in self.listed if len(keyword) <= limits.TAG_CHARACTERS)
        self._first = frozenset(keyword.split(" ")[0] for keyword in self._known if " " in keyword)
        self._begin = self._first | self._known

    def find(self, texts: Iterable[str]) -> tuple[str, ...]:
        """The listed words and pairs in the texts, in order of first mention, at most 64."""
        found: dict[str, None] = {}
        find = self._find if self.rule > 1 else self._find_ascii
        for text in texts:
            find(text, found)
            if len(found) >= MOST:
                return tuple(found)[:MOST]
        return tuple(found)

    def _find(self, text: str, found: dict[str, None]) -> None:
        spoken = words(text)
        if self._begin.isdisjoint(spoken):
            return
        known, first = self._known, self._first
        former = ""
        for word in spoken:
            if word in known:
                found[word] = None
            if former in first and (pair := f"{former} {word}") in known:
                found[pair] = None
            former = word

    def _find_ascii(self, text: str, found: dict[str, None]) -> None:
        for candidate in ascii_candidates(text):
            if candidate in self._known:
                found[candidate] = None


def candidates(spoken: Iterable[str], stop: frozenset[str]) -> list[str]:
    """The words of a text that could be keywords, each followed by the pair it ends: two such words side by side in one clause."""
    found = []
    former = ""
    for word in spoken:
        if word in stop or _MEANS_NOTHING.search(word) or _UNSPLIT.search(word):
            former = ""
            continue
        found += [word, f"{former} {word}"] if former else [word]
        former = word
    return [candidate for candidate in found if len(candidate) <= limits.TAG_CHARACTERS]


def keywords_of(texts_by_user: Mapping[str, Sequence[str]], min_users: int = MIN_USERS, excluded: Iterable[str] = ()) -> Keywords:
    """Builds a list from transcripts: words and pairs that at least `min_users` users used, without names (`stream.text.names`).

    Args:
        texts_by_user: What each user's calls say, in one language per user.
        min_users: So many users must have used a keyword.
        excluded: Words to leave out, names for instance.
    """
    sample = islice(texts_by_user.values(), _SAMPLED_USERS)
    usual = language_of(word for texts in sample for text in texts for word in words(text))
    users: Counter[str] = Counter()
    names = Names()
    for texts in texts_by_user.values():
        spoken = [words(text) for text in texts]
        language = language_of((word for text in spoken for word in text), otherwise=usual)
        stop = stop_words(language)
        users.update({candidate for text in spoken for candidate in candidates(text, stop)})
        names.add_user(texts, language)
    left_out = {word for text in excluded for word in words(text)}
    return Keywords(
        candidate
        for candidate, count in users.items()
        if count >= min_users and not any(word in left_out or names.is_name(word, count) for word in candidate.split(" "))
    )


def standing_in(texts: Iterable[str]) -> Keywords:
    """A list for the time before there are transcripts: the words of the catalogue and of the tags."""
    spoken = [words(text.replace("_", " ")) for text in texts]
    return Keywords(candidate for text in spoken for candidate in candidates(text, stop_words(language_of(text))))


def remarks(texts_by_user: Mapping[str, Sequence[str]], keywords: Keywords) -> list[str]:
    """What the rules cannot do for these texts, to be shown to the person who builds the list."""
    caseless = sum(not _CASED.search(keyword) for keyword in keywords.listed)
    unsplit = sum(any(_UNSPLIT.search(text) for text in texts) for texts in texts_by_user.values())
    found = []
    if caseless:
        found.append(f"{caseless} keywords are in a script without capital letters, where names are not recognised: read them")
    if unsplit:
        found.append(
            f"{unsplit} users' calls hold Thai, Lao, Khmer or Burmese text, whose words are not found: no keywords from it"
        )
    return found
