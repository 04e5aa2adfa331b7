"""Writes a call: who says what, given what the user has in mind. What is said after a sale comes apart from what came before.

Both speakers use varied wording, some small talk, and a recogniser's errors: words misheard, lost and filled in.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from training.synthetic import phrases
from training.synthetic.catalogue import item_of
from training.synthetic.chance import Chance

Spoken = tuple[Literal["customer", "agent"], str]
Piece = str | tuple[str, ...]

SPECIFIC: Final = 0.62  # of the calls about an item hold a phrase that tells it from the topic's other item
_ERRORS: Final = 0.25  # of the sentences have one recognition error
_ALTERNATIVES: Final = re.compile(r"\[([^]]*)]")


@dataclass(frozen=True, slots=True)
class Call:
    """`before` and `after` the moment of the sale; without a sale nothing comes after."""

    before: tuple[Spoken, ...]
    after: tuple[Spoken, ...] = ()


def write_call(chance: Chance, focus: int | None, sold: Sequence[int] = (), chatter: int = 6) -> Call:
    """A call by a user who thinks of item `focus` (None: other business), with up to `chatter` sentences of small talk.

    `sold` are the items that the agent sells in it; they are named only in `after`.
    """
    before: list[Spoken] = [("agent", _say(chance, phrases.GREETINGS)), ("customer", _say(chance, phrases.OPENERS))]
    before += [("customer", line) for line in _need(chance, focus)]
    before.append(("agent", _say(chance, phrases.QUESTIONS)))
    for _ in range(chance.below(chatter + 1)):
        small_talk = chance.happens(0.6)
        line = _say(chance, phrases.SMALL_TALK if small_talk else phrases.EXPLANATIONS)
        speaker: Literal["customer", "agent"] = "customer" if small_talk and chance.happens(0.5) else "agent"
        before.insert(2 + chance.below(len(before) - 1), (speaker, line))
    if not sold:
        return Call((*_misheard(chance, before), ("customer", _say(chance, phrases.CLOSINGS))))
    before += [("agent", _say(chance, phrases.BEFORE_SALE[:1])), ("customer", _say(chance, phrases.BEFORE_SALE[1:2]))]
    after: list[Spoken] = [("agent", _say(chance, phrases.AFTER_SALE[:1], item_of(sold[0]).name.lower()))]
    after += [("agent", _say(chance, phrases.AFTER_SALE[3:], item_of(item).name.lower())) for item in sold[1:]]
    after += [("customer", _say(chance, phrases.AFTER_SALE[2:3])), ("agent", _say(chance, phrases.CLOSINGS[:1]))]
    return Call(tuple(_misheard(chance, before)), tuple(after))


def _need(chance: Chance, focus: int | None) -> list[str]:
    if focus is None:
        return [_say(chance, phrases.SERVICE)]
    lines = [_say(chance, phrases.TOPICS[item_of(focus).topic])]
    if chance.happens(SPECIFIC):
        lines.insert(chance.below(2), _say(chance, phrases.ITEMS[focus]))
    if chance.happens(0.1):
        lines.append(_say(chance, phrases.SERVICE))
    return lines


def _say(chance: Chance, templates: Sequence[str], name: str = "") -> str:
    """One of the templates with its alternatives chosen."""
    return _writer(templates[chance.below(len(templates))])(chance).replace("{name}", name)


@cache
def _writer(template: str) -> Callable[[Chance], str]:
    """A template as a function of chance; parsed once."""
    parts = _ALTERNATIVES.split(template)
    pieces: list[Piece] = [part if place % 2 == 0 else tuple(part.split("|")) for place, part in enumerate(parts)]

    def write(chance: Chance) -> str:
        text = "".join([piece if isinstance(piece, str) else piece[chance.below(len(piece))] for piece in pieces])
        return " ".join(text.split())

    return write


def _misheard(chance: Chance, spoken: Sequence[Spoken]) -> list[Spoken]:
    return [(speaker, _with_error(chance, line) if chance.happens(_ERRORS) else line) for speaker, line in spoken]


def _with_error(chance: Chance, line: str) -> str:
    words = line.split()
    place = chance.below(len(words))
    kind = chance.uniform()
    if kind < 0.5:
        words = [phrases.MISHEARD.get(word, word) for word in words]
    elif kind < 0.7:
        del words[place]
    else:
        words.insert(place, chance.one_of(phrases.FILLERS))
    return " ".join(words) or "mm"
