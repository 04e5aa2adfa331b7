"""Stop words per language, and which language a text is written in, judged by them. Needed only where a keyword list is built.

English has a short list of our own: that of the `stop-words` package holds words that customers mean ("home", "bill", "order").
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Final

from stop_words import LANGUAGE_MAPPING, get_stop_words

from stream.text.words import words

ENGLISH: Final = frozenset(
    """
    a about after all also am an and any are as at be because been before but by can could did do does for from had has have he
    her here him his how i i'd i'll i'm i've if in into is it it's its just let like me more my no not of ok okay on one or our
    out please she so some thank thanks that that's the their them then there they this to up us was we we'd we'll well were
    what when where which who will with would yeah yes you you'd you're your
    """.split()  # noqa: SIM905  (a column of a hundred words is no easier to read)
)
_DISTINCT: Final = 3
_SHARE: Final = 0.15
"""Fewer stop words are no sign of a language: in "car insurance", "car" is no French conjunction."""


def language_of(spoken: Iterable[str], otherwise: str = "en") -> str:
    """Returns the language (ISO 639-1) whose stop words are the most frequent among folded words, or `otherwise` if they are few.

    >>> language_of(words("Ich hätte gern die Kündigung der Police")), language_of(["flood"])
    ('de', 'en')
    """
    frequency = Counter(spoken)
    hits: dict[str, list[str]] = {}
    for word in frequency.keys() & _languages().keys():
        for language in _languages()[word]:
            hits.setdefault(language, []).append(word)
    likely = {
        language: sum(frequency[word] / len(_languages()[word]) for word in listed)  # a word of few languages says more
        for language, listed in hits.items()
        if len(listed) >= _DISTINCT and sum(frequency[word] for word in listed) >= _SHARE * frequency.total()
    }
    return max(likely, key=lambda language: (likely[language], language), default=otherwise)


def stop_words(language: str) -> frozenset[str]:
    """Returns the folded stop words of a language; none if it is unknown."""
    return _lists().get(language, frozenset())


@cache
def _lists() -> Mapping[str, frozenset[str]]:
    packaged = {
        language: frozenset(words(listed)[0] for listed in get_stop_words(language) if len(words(listed)) == 1)
        for language in LANGUAGE_MAPPING
    }
    return {**packaged, "en": ENGLISH}


@cache
def _languages() -> Mapping[str, tuple[str, ...]]:
    """The languages in whose list a word is."""
    languages: dict[str, tuple[str, ...]] = {}
    for language, listed in _lists().items():
        for word in listed:
            languages[word] = (*languages.get(word, ()), language)
    return languages
