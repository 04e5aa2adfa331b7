"""Writes a call, given what the user has in mind. What is said after a sale is kept apart from what was said before.

Both speakers vary their wording and make small talk; a simulated speech recogniser mishears, loses and inserts words.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from training.datasets.synthetic import phrases
from training.datasets.synthetic.catalogue import item_of
from training.datasets.synthetic.random_draws import RandomDraws

Line = tuple[Literal["customer", "agent"], str]
Piece = str | tuple[str, ...]

SPECIFIC: Final = 0.62  # share of calls about an item with a phrase that distinguishes it from the topic's other item
_CHATTER: Final = 6  # at most so many sentences of small talk in a call
OPTIONAL: Final = 0.5  # share of a short call's optional sentences that are spoken
_ERRORS: Final = 0.25  # share of sentences with a recognition error
_ALTERNATIVES: Final = re.compile(r"\[([^]]*)]")


@dataclass(frozen=True, slots=True)
class Call:
    """The lines before and after the moment of the sale; `after` is empty without a sale."""

    before: tuple[Line, ...]
    after: tuple[Line, ...] = ()


def write_call(draws: RandomDraws, focus: int | None, sold: Sequence[int] = ()) -> Call:
    """Returns a call by a user who has item `focus` in mind (None: other business). It seldom has more than 16 sentences.

    `sold` are the items that the agent sells in the call; they are named only in `after`.
    """
    before: list[Line] = [("agent", _say(draws, phrases.GREETINGS)), ("customer", _say(draws, phrases.OPENERS))]
    before += [("customer", line) for line in _need(draws, focus)]
    if draws.happens(0.1):
        before.append(("customer", _say(draws, phrases.SERVICE)))
    before.append(("agent", _say(draws, phrases.QUESTIONS)))
    for _ in range(draws.below(_CHATTER + 1)):
        before.insert(2 + draws.below(len(before) - 1), _small_talk(draws))
    if not sold:
        return Call((*_misheard(draws, before), ("customer", _say(draws, phrases.CLOSINGS))))
    before += _agreement(draws)
    after: list[Line] = [("agent", _say(draws, phrases.AFTER_SALE[:1], _name(sold[0])))]
    after += [("agent", _say(draws, phrases.AFTER_SALE[3:], _name(item))) for item in sold[1:]]
    after += [("customer", _say(draws, phrases.AFTER_SALE[2:3])), ("agent", _say(draws, phrases.CLOSINGS[:1]))]
    return Call(tuple(_misheard(draws, before)), tuple(after))


def write_short_call(draws: RandomDraws, focus: int | None, sold: Sequence[int] = ()) -> Call:
    """Returns a call as `write_call` does, in 3 to 8 sentences: half of the optional ones are left out."""
    before: list[Line] = [("agent", _say(draws, phrases.GREETINGS))]
    if draws.happens(OPTIONAL):
        before.append(("customer", _say(draws, phrases.OPENERS)))
    before += [("customer", line) for line in _need(draws, focus)]
    if sold:
        before += _agreement(draws)
        bought = " and ".join(_name(item) for item in sold)
        after: list[Line] = [("agent", _say(draws, phrases.AFTER_SALE[:1], bought))]
        if draws.happens(OPTIONAL):
            after.append(("customer", _say(draws, phrases.AFTER_SALE[2:3])))
        return Call(tuple(_misheard(draws, before)), tuple(after))
    before.append(("agent", _say(draws, phrases.QUESTIONS)))
    if draws.happens(OPTIONAL):
        before.append(_small_talk(draws))
    if draws.happens(OPTIONAL):
        before.append(("customer", _say(draws, phrases.CLOSINGS)))
    return Call(tuple(_misheard(draws, before)))


def _agreement(draws: RandomDraws) -> list[Line]:
    """Returns the last lines before a sale, which name no item."""
    return [("agent", _say(draws, phrases.BEFORE_SALE[:1])), ("customer", _say(draws, phrases.BEFORE_SALE[1:2]))]


def _small_talk(draws: RandomDraws) -> Line:
    """Returns a line of either speaker; two in five are an agent's explanations."""
    if not draws.happens(0.6):
        return "agent", _say(draws, phrases.EXPLANATIONS)
    if draws.happens(0.5):
        return "customer", _say(draws, phrases.CUSTOMER_TALK)
    return "agent", _say(draws, phrases.AGENT_TALK)


def _name(item: int) -> str:
    return item_of(item).name.lower()


def _need(draws: RandomDraws, focus: int | None) -> list[str]:
    if focus is None:
        return [_say(draws, phrases.SERVICE)]
    lines = [_say(draws, phrases.TOPICS[item_of(focus).topic])]
    if draws.happens(SPECIFIC):
        lines.insert(draws.below(2), _say(draws, phrases.ITEMS[focus]))
    return lines


def _say(draws: RandomDraws, templates: Sequence[str], name: str = "") -> str:
    """Returns one of the templates with its alternatives chosen."""
    return _writer(templates[draws.below(len(templates))])(draws).replace("{name}", name)


@cache
def _writer(template: str) -> Callable[[RandomDraws], str]:
    """Returns a function that writes the template; parsing is cached."""
    parts = _ALTERNATIVES.split(template)
    pieces: list[Piece] = [part if index % 2 == 0 else tuple(part.split("|")) for index, part in enumerate(parts)]

    def write(draws: RandomDraws) -> str:
        text = "".join([piece if isinstance(piece, str) else piece[draws.below(len(piece))] for piece in pieces])
        return " ".join(text.split())

    return write


def _misheard(draws: RandomDraws, lines: Sequence[Line]) -> list[Line]:
    return [(speaker, _with_error(draws, line) if draws.happens(_ERRORS) else line) for speaker, line in lines]


def _with_error(draws: RandomDraws, line: str) -> str:
    words = line.split()
    index = draws.below(len(words))
    kind = draws.uniform()
    if kind < 0.5:
        words = [phrases.MISHEARD.get(word, word) for word in words]
    elif kind < 0.7:
        del words[index]
    else:
        words.insert(index, draws.one_of(phrases.FILLERS))
    return " ".join(words) or "mm"
