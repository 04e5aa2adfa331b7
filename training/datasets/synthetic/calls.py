"""Writes a call: who says what, given what the user has in mind. What is said after a sale comes apart from what came before.

Both speakers use varied wording, some small talk, and a recogniser's errors: words misheard, lost and filled in.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from training.datasets.synthetic import phrases
from training.datasets.synthetic.catalogue import item_of
from training.datasets.synthetic.chance import Chance

Spoken = tuple[Literal["customer", "agent"], str]
Piece = str | tuple[str, ...]

SPECIFIC: Final = 0.62  # of the calls about an item hold a phrase that tells it from the topic's other item
_CHATTER: Final = 6  # most sentences of small talk in a call
SPARED: Final = 0.5  # of the sentences that a short call can do without
_ERRORS: Final = 0.25  # of the sentences have one recognition error
_ALTERNATIVES: Final = re.compile(r"\[([^]]*)]")


@dataclass(frozen=True, slots=True)
class Call:
    """`before` and `after` the moment of the sale; without a sale nothing comes after."""

    before: tuple[Spoken, ...]
    after: tuple[Spoken, ...] = ()


def write_call(chance: Chance, focus: int | None, sold: Sequence[int] = ()) -> Call:
    """A call by a user who thinks of item `focus` (None: other business), with some small talk. Seldom more than 16 sentences.

    `sold` are the items that the agent sells in it; they are named only in `after`.
    """
    before: list[Spoken] = [("agent", _say(chance, phrases.GREETINGS)), ("customer", _say(chance, phrases.OPENERS))]
    before += [("customer", line) for line in _need(chance, focus)]
    if chance.happens(0.1):
        before.append(("customer", _say(chance, phrases.SERVICE)))
    before.append(("agent", _say(chance, phrases.QUESTIONS)))
    for _ in range(chance.below(_CHATTER + 1)):
        before.insert(2 + chance.below(len(before) - 1), _small_talk(chance))
    if not sold:
        return Call((*_misheard(chance, before), ("customer", _say(chance, phrases.CLOSINGS))))
    before += _agreement(chance)
    after: list[Spoken] = [("agent", _say(chance, phrases.AFTER_SALE[:1], _name(sold[0])))]
    after += [("agent", _say(chance, phrases.AFTER_SALE[3:], _name(item))) for item in sold[1:]]
    after += [("customer", _say(chance, phrases.AFTER_SALE[2:3])), ("agent", _say(chance, phrases.CLOSINGS[:1]))]
    return Call(tuple(_misheard(chance, before)), tuple(after))


def write_short_call(chance: Chance, focus: int | None, sold: Sequence[int] = ()) -> Call:
    """As `write_call`, in 3 to 8 sentences: half of what can be done without is left out."""
    before: list[Spoken] = [("agent", _say(chance, phrases.GREETINGS))]
    if chance.happens(SPARED):
        before.append(("customer", _say(chance, phrases.OPENERS)))
    before += [("customer", line) for line in _need(chance, focus)]
    if sold:
        before += _agreement(chance)
        bought = " and ".join(_name(item) for item in sold)
        after: list[Spoken] = [("agent", _say(chance, phrases.AFTER_SALE[:1], bought))]
        if chance.happens(SPARED):
            after.append(("customer", _say(chance, phrases.AFTER_SALE[2:3])))
        return Call(tuple(_misheard(chance, before)), tuple(after))
    before.append(("agent", _say(chance, phrases.QUESTIONS)))
    if chance.happens(SPARED):
        before.append(_small_talk(chance))
    if chance.happens(SPARED):
        before.append(("customer", _say(chance, phrases.CLOSINGS)))
    return Call(tuple(_misheard(chance, before)))


def _agreement(chance: Chance) -> list[Spoken]:
    """The last words before a sale: they name nothing."""
    return [("agent", _say(chance, phrases.BEFORE_SALE[:1])), ("customer", _say(chance, phrases.BEFORE_SALE[1:2]))]


def _small_talk(chance: Chance) -> Spoken:
    """Of either speaker; two in five are an agent's explanations."""
    if not chance.happens(0.6):
        return "agent", _say(chance, phrases.EXPLANATIONS)
    if chance.happens(0.5):
        return "customer", _say(chance, phrases.CUSTOMER_TALK)
    return "agent", _say(chance, phrases.AGENT_TALK)


def _name(item: int) -> str:
    return item_of(item).name.lower()


def _need(chance: Chance, focus: int | None) -> list[str]:
    if focus is None:
        return [_say(chance, phrases.SERVICE)]
    lines = [_say(chance, phrases.TOPICS[item_of(focus).topic])]
    if chance.happens(SPECIFIC):
        lines.insert(chance.below(2), _say(chance, phrases.ITEMS[focus]))
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
