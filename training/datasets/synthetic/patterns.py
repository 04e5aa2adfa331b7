"""Which interactions stand before a purchase, and in which order: draws of event type, counts and order from the calibration.

A pattern is a word of S (session) and C (conversation), the oldest first, at most 10.
"""

from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise
from typing import Final

import numpy as np

from training.datasets.synthetic import calibration as facts
from training.datasets.synthetic.chance import Chance, Cumulative, cumulative

SESSION, CONVERSATION, BOTH = range(3)  # places in facts.TYPES
_LETTERS: Final = "SC"
MOST: Final = 10

# How an order of given counts is weighted: fitted to the facts' shares of first and last, and mean switches, of type both.
_FIRST_IS_SESSION: Final = 2.0
_LAST_IS_SESSION: Final = 0.65
_SWITCH: Final = 1.0

_EVENTS: Final = cumulative(facts.EVENTS_PER_USER)


def _single(shares: Sequence[float]) -> Cumulative:
    """Counts 1 to 10 of an event with one modality only."""
    return cumulative((*shares[:6], *(shares[6] * part for part in facts.TAIL_7_TO_10)))


_SINGLE: Final = (_single(facts.SESSIONS_PER_SESSION_EVENT), _single(facts.CONVERSATIONS_PER_CONVERSATION_EVENT))


def event_count(chance: Chance) -> int:
    """How many purchase events a user has: 1 to 7."""
    return 1 + chance.pick(_EVENTS)


def first_type(chance: Chance, moment: float) -> int:
    """Type of a user's first event, at `moment` (0 to 1 of the whole period): shares drift over the deciles."""
    return chance.pick(_first_types()[min(int(moment * 10), 9)])


def next_type(chance: Chance, last: int) -> int:
    return chance.pick(_NEXT[last])


_NEXT: Final = tuple(cumulative(row) for row in facts.NEXT_TYPE)


@cache
def _first_types() -> tuple[Cumulative, ...]:
    """Shares of first events, so that all events, those after a user's first included, have the facts' shares."""
    later = 1 - facts.USERS / facts.PURCHASE_EVENTS
    shares = []
    for decile in facts.TYPE_SHARES_BY_DECILE:
        total = np.array(decile) / sum(decile)
        following = total @ np.array(facts.NEXT_TYPE)
        shares.append(cumulative(np.maximum((total - later * following) / (1 - later), 0.01).tolist()))
    return tuple(shares)


def draw_pattern(chance: Chance, event_type: int) -> str:
    """The interactions before an event of this type."""
    if event_type != BOTH:
        return _LETTERS[event_type] * (1 + chance.pick(_SINGLE[event_type]))
    place = chance.pick(_both_counts())
    conversations, sessions = _cells()[place]
    orders, shares = _orders(conversations, sessions)
    return orders[chance.pick(shares)]


@cache
def _cells() -> tuple[tuple[int, int], ...]:
    return tuple((conversations, sessions) for conversations in range(1, 8) for sessions in range(1, MOST))


@cache
def _both_counts() -> Cumulative:
    """Shares of (conversations, sessions) of type both; cells above 10 interactions go to the largest that fits."""
    grid = np.zeros((8, MOST))
    rows = [(1.0,), (1.0,), (1.0,), facts.BOTH_TAIL_CONVERSATIONS]
    columns = [(1.0,), (1.0,), (1.0,), (1.0,), facts.BOTH_TAIL_SESSIONS]
    for row, row_parts in enumerate(rows):
        for column, column_parts in enumerate(columns):
            for more_calls, row_part in enumerate(row_parts):
                for more_sessions, column_part in enumerate(column_parts):
                    calls = row + 1 + more_calls
                    sessions = min(column + 1 + more_sessions, MOST - calls)
                    grid[calls, sessions] += facts.BOTH_COUNTS[row][column] * row_part * column_part
    return cumulative([float(grid[cell]) for cell in _cells()])


@cache
def _orders(conversations: int, sessions: int) -> tuple[tuple[str, ...], Cumulative]:
    """The orders of so many conversations and sessions with their shares: as published, or weighted by form."""
    length = conversations + sessions
    words = [
        "".join("C" if place in places else "S" for place in range(length)) for places in combinations(range(length), conversations)
    ]
    published = {word: facts.BOTH_PATTERNS[word] for word in words if word in facts.BOTH_PATTERNS}
    if not published:
        return tuple(words), cumulative([_weight(word) for word in words])
    exact = conversations <= 3 and sessions <= 4
    cell = facts.BOTH_COUNTS[conversations - 1][sessions - 1] if exact else sum(published.values()) * 2
    others = [word for word in words if word not in published]
    rest, weights = max(cell - sum(published.values()), 0.0), {word: _weight(word) for word in others}
    total = sum(weights.values()) or 1.0
    return tuple(words), cumulative([published.get(word, rest * weights.get(word, 0.0) / total) for word in words])


def _weight(word: str) -> float:
    switches = sum(one != other for one, other in pairwise(word))
    first = _FIRST_IS_SESSION if word[0] == "S" else 1.0
    last = _LAST_IS_SESSION if word[-1] == "S" else 1.0
    return first * last * _SWITCH**switches
