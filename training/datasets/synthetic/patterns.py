"""Which interactions precede a purchase, and in which order: event type, counts and order are drawn from the calibration.

A pattern is a string of S (session) and C (conversation), the oldest first, at most 10 long.
"""

from collections.abc import Sequence
from functools import cache
from itertools import combinations, pairwise
from typing import Final

import numpy as np

from training.datasets.synthetic import calibration
from training.datasets.synthetic.random_draws import Cumulative, RandomDraws, cumulative

SESSION, CONVERSATION, BOTH = range(3)  # indices in calibration.TYPES
_LETTERS: Final = "SC"
MOST: Final = 10

# Weights of an order with given counts, fitted to the published shares of first and last and the mean switches of type both.
_FIRST_IS_SESSION: Final = 2.0
_LAST_IS_SESSION: Final = 0.65
_SWITCH: Final = 1.0

_EVENTS: Final = cumulative(calibration.EVENTS_PER_USER)


def _single(shares: Sequence[float]) -> Cumulative:
    """Returns the shares of 1 to 10 interactions of an event with one modality."""
    return cumulative((*shares[:6], *(shares[6] * part for part in calibration.TAIL_7_TO_10)))


_SINGLE: Final = (_single(calibration.SESSIONS_PER_SESSION_EVENT), _single(calibration.CONVERSATIONS_PER_CONVERSATION_EVENT))


def event_count(draws: RandomDraws) -> int:
    """Draws how many purchase events a user has: 1 to 7."""
    return 1 + draws.pick(_EVENTS)


def first_type(draws: RandomDraws, moment: float) -> int:
    """Draws the type of a user's first event at `moment` (0 to 1 of the whole period); shares drift over the deciles."""
    return draws.pick(_first_types()[min(int(moment * 10), 9)])


def next_type(draws: RandomDraws, last: int) -> int:
    return draws.pick(_NEXT[last])


_NEXT: Final = tuple(cumulative(row) for row in calibration.NEXT_TYPE)


@cache
def _first_types() -> tuple[Cumulative, ...]:
    """Returns the shares of first events that give all events, later ones included, the published shares."""
    later = 1 - calibration.USERS / calibration.PURCHASE_EVENTS
    shares = []
    for decile in calibration.TYPE_SHARES_BY_DECILE:
        total = np.array(decile) / sum(decile)
        following = total @ np.array(calibration.NEXT_TYPE)
        shares.append(cumulative(np.maximum((total - later * following) / (1 - later), 0.01).tolist()))
    return tuple(shares)


def draw_pattern(draws: RandomDraws, event_type: int) -> str:
    """Draws the interactions before an event of this type."""
    if event_type != BOTH:
        return _LETTERS[event_type] * (1 + draws.pick(_SINGLE[event_type]))
    conversations, sessions = _cells()[draws.pick(_both_counts())]
    orders, shares = _orders(conversations, sessions)
    return orders[draws.pick(shares)]


@cache
def _cells() -> tuple[tuple[int, int], ...]:
    return tuple((conversations, sessions) for conversations in range(1, 8) for sessions in range(1, MOST))


@cache
def _both_counts() -> Cumulative:
    """Returns the shares of (conversations, sessions) of type both; cells above 10 interactions count for the largest that fits."""
    grid = np.zeros((8, MOST))
    rows = [(1.0,), (1.0,), (1.0,), calibration.BOTH_TAIL_CONVERSATIONS]
    columns = [(1.0,), (1.0,), (1.0,), (1.0,), calibration.BOTH_TAIL_SESSIONS]
    for row, row_parts in enumerate(rows):
        for column, column_parts in enumerate(columns):
            for more_calls, row_part in enumerate(row_parts):
                for more_sessions, column_part in enumerate(column_parts):
                    calls = row + 1 + more_calls
                    sessions = min(column + 1 + more_sessions, MOST - calls)
                    grid[calls, sessions] += calibration.BOTH_COUNTS[row][column] * row_part * column_part
    return cumulative([float(grid[cell]) for cell in _cells()])


@cache
def _orders(conversations: int, sessions: int) -> tuple[tuple[str, ...], Cumulative]:
    """Returns the orders of so many conversations and sessions with their shares, as published or weighted."""
    length = conversations + sessions
    words = [
        "".join("C" if index in indices else "S" for index in range(length))
        for indices in combinations(range(length), conversations)
    ]
    published = {word: calibration.BOTH_PATTERNS[word] for word in words if word in calibration.BOTH_PATTERNS}
    if not published:
        return tuple(words), cumulative([_weight(word) for word in words])
    exact = conversations <= 3 and sessions <= 4
    cell = calibration.BOTH_COUNTS[conversations - 1][sessions - 1] if exact else sum(published.values()) * 2
    others = [word for word in words if word not in published]
    rest, weights = max(cell - sum(published.values()), 0.0), {word: _weight(word) for word in others}
    total = sum(weights.values()) or 1.0
    return tuple(words), cumulative([published.get(word, rest * weights.get(word, 0.0) / total) for word in words])


def _weight(word: str) -> float:
    switches = sum(one != other for one, other in pairwise(word))
    first = _FIRST_IS_SESSION if word[0] == "S" else 1.0
    last = _LAST_IS_SESSION if word[-1] == "S" else 1.0
    return first * last * _SWITCH**switches
