"""The paper's split by time: the last 10 % of the purchase events test, the last 10 % of the rest validation."""

from collections.abc import Sequence
from typing import Final, TypeVar

MIN_EXAMPLES: Final = 50
"""Fewer are not trained on."""

Row = TypeVar("Row")


def split(rows: Sequence[Row], share: float = 0.1) -> tuple[Sequence[Row], Sequence[Row], Sequence[Row]]:
    """(train, validation, test) of rows in order of time.

    >>> [len(part) for part in split(range(100))]
    [81, 9, 10]
    """
    test = len(rows) - round(len(rows) * share)
    validation = test - round(test * share)
    return rows[:validation], rows[validation:test], rows[test:]
