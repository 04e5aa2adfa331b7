"""Table files: CSV or CSV.gz, in one piece or split over numbered files, read row by row.

A fault is a `Problem` with file, row and reason; the caller decides whether it is raised or collected. Nothing here knows what a
table means.
"""

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Final, NamedTuple, TextIO

from stream.errors import IsthmusError

UNREADABLE: Final = (csv.Error, UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error)
"""Raised by reading a file that is not a table, was cut short or is broken."""


class TableError(IsthmusError):
    """A table that cannot be used: file, row and reason."""


class Problem(NamedTuple):
    """A fault in a table.

    Attributes:
        location: file or folder.
        row: numbered as in a spreadsheet, where the header is row 1; None where the fault is not in a single row.
        reason: what is wrong.
    """

    location: str
    row: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.location}: {self.reason}" if self.row is None else f"{self.location}, row {self.row}: {self.reason}"


Report = Callable[[Problem], None]


def stop_at(problem: Problem) -> None:
    """Stops reading at the first fault.

    Raises:
        TableError: always.
    """
    raise TableError(str(problem))


def ident(text: str) -> str:
    """Returns an id as text; the paper's authors wrote some as floats.

    >>> ident("3596.0"), ident("s1.0"), ident("")
    ('3596', 's1.0', '')
    """
    digits = text.removesuffix(".0")
    return digits if digits.isdigit() else text


def whole(text: str) -> int | None:
    """Returns a non-negative whole number of at most 18 digits, or None for any other text.

    >>> whole("7"), whole("7.0"), whole("-1"), whole("seven")
    (7, 7, None, None)
    """
    digits = text.removesuffix(".0")
    return int(digits) if len(digits) <= 18 and digits.isascii() and digits.isdigit() else None


def files_of(folder: Path, table: str, report: Report) -> list[Path]:
    """Returns the files of a table in order: `table.csv`, `table.csv.gz`, or `table_1.csv` ... here or in a folder `table`.

    Returns an empty list where there is no such table, and reports gaps in the numbers.
    """
    for name in (f"{table}.csv", f"{table}.csv.gz"):
        if (folder / name).is_file():
            return [folder / name]
    pattern = re.compile(rf"{re.escape(table)}_(\d+)\.csv(\.gz)?")
    folders = [candidate for candidate in (folder, folder / table) if candidate.is_dir()]
    numbered = sorted(
        (int(match[1]), path) for candidate in folders for path in candidate.iterdir() if (match := pattern.fullmatch(path.name))
    )
    numbers = [number for number, _ in numbered]
    for missing in sorted({*range(1, max(numbers, default=0))} - {*numbers}):
        report(Problem(str(folder / table), None, f"file {table}_{missing} is missing, although there is {table}_{numbers[-1]}"))
    for number in sorted({number for number in numbers if numbers.count(number) > 1}):
        report(Problem(str(folder / table), None, f"file {table}_{number} exists twice"))
    return [path for _, path in numbered]


def rows_of(
    folder: Path, table: str, columns: tuple[str, ...], report: Report, *, optional: bool = False
) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Yields (file, row number, values of `columns`) of all rows. Reports missing files and columns, and incomplete rows."""
    files = files_of(folder, table, report)
    if not files and not optional:
        report(Problem(str(folder), None, f"has neither {table}.csv nor {table}.csv.gz (nor numbered files {table}_1.csv ...)"))
    for path in files:
        yield from rows_of_file(path, columns, report)


def opened(path: Path) -> TextIO:
    """Opens a file as UTF-8 text, with or without a byte order mark (Excel writes one)."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def header_of(path: Path, report: Report) -> list[str] | None:
    """Returns the names of a file's columns; None where it cannot be read, which is reported."""
    try:
        with opened(path) as file:
            return next(csv.reader(file), [])
    except UNREADABLE as error:
        report(Problem(str(path), 1, f"cannot be read ({error})"))
        return None


def rows_of_file(path: Path, columns: tuple[str, ...], report: Report) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Yields what `rows_of` does, for one file."""
    name, row = str(path), 1
    try:
        with opened(path) as file:
            reader = csv.reader(file)
            header = next(reader, [])
            missing = [column for column in columns if column not in header]
            for column in missing:
                report(Problem(name, 1, f"column {column} is missing"))
            if missing:
                return
            chosen, width = itemgetter(*(header.index(column) for column in columns)), len(header)
            for row, values in enumerate(reader, start=2):
                if len(values) == width:
                    yield name, row, chosen(values)
                elif values:
                    report(Problem(name, row, f"has {len(values)} values, the header {width} columns"))
    except UNREADABLE as error:
        report(Problem(name, row + 1, f"cannot be read ({error})"))
