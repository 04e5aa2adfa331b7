"""Markdown tables that are readable as plain text."""

from collections.abc import Sequence


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Returns the lines of a table with columns of equal width; the first row is the header.

    >>> aligned([["a", "bc"], ["def", ""]])
    ['| a   | bc |', '| --- | -- |', '| def |    |']
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in table]
    return [lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:]]
