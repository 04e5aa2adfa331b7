"""Keywords: which words and word pairs of a versioned list a call contains, and how such a list is built.

A list holds no numbers and no names, and a word or pair enters it only if at least 20 users used it. This keeps a caller's own
words out of the profile topics; it is a heuristic, not a proof.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

MIN_USERS: Final = 20
MOST: Final = 64  # per encoded call
_CLAUSE: Final = re.compile(r"[.,;:!?]")
_WORD: Final = re.compile(r"[a-z][a-z'-]+")
_CAPITALISED: Final = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+")
_STOP: Final = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "here",
        "him",
        "his",
        "how",
        "i",
        "i'd",
        "i'll",
        "i'm",
        "i've",
        "if",
        "in",
        "into",
        "is",
        "it",
        "it's",
        "its",
        "just",
        "let",
        "like",
        "me",
        "more",
        "my",
        "no",
        "not",
        "of",
        "ok",
        "okay",
        "on",
        "one",
        "or",
        "our",
        "out",
        "please",
        "she",
        "so",
        "some",
        "thank",
        "thanks",
        "that",
        "that's",
        "the",
        "their",
        "them",
        "then",
        "there",
        "they",
        "this",
        "to",
        "up",
        "us",
        "was",
        "we",
        "we'd",
        "we'll",
        "well",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "will",
        "with",
        "would",
        "yeah",
        "yes",
        "you",
        "you'd",
        "you're",
        "your",
    ]
)


class Keywords:
    """A list of words and pairs; `find` returns those in a text."""

    def __init__(self, keywords: Iterable[str]) -> None:
        self.listed = tuple(sorted(set(keywords)))
        self._known = frozenset(self.listed)

    def find(self, texts: Iterable[str]) -> tuple[str, ...]:
        """The listed words and pairs in the texts, in order of first mention, at most 64."""
        found: dict[str, None] = {}
        for text in texts:
            for candidate in candidates(text):
                if candidate in self._known:
                    found[candidate] = None
                    if len(found) == MOST:
                        return tuple(found)
        return tuple(found)


def candidates(text: str) -> list[str]:
    """The content words of a text, each followed by the pair it ends: two content words side by side in one clause."""
    found = []
    for clause in _CLAUSE.split(text.lower()):
        former = ""
        for word in _WORD.findall(clause):
            if word in _STOP:
                former = ""
                continue
            found.append(word)
            if former:
                found.append(f"{former} {word}")
            former = word
    return found


def keywords_of(texts_by_user: Mapping[str, Iterable[str]], min_users: int = MIN_USERS) -> Keywords:
    """Builds a list from transcripts: words and pairs that at least `min_users` users used, without names (words that are mostly
    capitalised within a sentence).
    """
    users: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for texts in texts_by_user.values():
        said: set[str] = set()
        capitalised: set[str] = set()
        for text in texts:
            said.update(candidates(text))
            capitalised.update(name.lower() for name in _CAPITALISED.findall(text))
        users.update(said)
        names.update(capitalised)
    return Keywords(
        word for word, count in users.items() if count >= min_users and all(2 * names[part] < count for part in word.split(" "))
    )


def standing_in(texts: Iterable[str]) -> Keywords:
    """A list for the time before there are transcripts: the words of the catalogue and of the tags."""
    return Keywords(word for text in texts for word in candidates(text.replace("_", " ")))
