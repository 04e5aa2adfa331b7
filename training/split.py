"""The paper's split by time: the last 10 % of the purchase events for test, the last 10 % of the rest for validation."""

from collections.abc import Sequence
from typing import Final, TypeVar

MIN_EXAMPLES: Final = 50
"""Training needs at least so many."""

Element = TypeVar("Element")


def split(rows: Sequence[Element], share: float = 0.1) -> tuple[Sequence[Element], Sequence[Element], Sequence[Element]]:
    """Returns (training, validation, test) of rows in order of time.

    >>> [len(part) for part in split(range(100))]
    [81, 9, 10]
    """
    test = len(rows) - round(len(rows) * share)
    validation = test - round(test * share)
    return rows[:validation], rows[validation:test], rows[test:]
