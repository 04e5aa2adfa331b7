"""Conversations of the tables: their text, or what the paper's authors published instead: keywords and sentence vectors.

The published vectors are 768 numbers a sentence in 107 files of 2 GB, so they are summed by conversation as they are read. Nothing
here encodes text.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stream.core import limits
from stream.core.tokens import SEPARATOR
from training.datasets.tables.files import Problem, Report, files_of, header_of, ident, rows_of, rows_of_file, whole

TEXT: Final = "data_conversations_text"
KEYWORD: Final = "data_conversations_keyword"
EMBEDDING: Final = "data_conversations_embedding"
SPEAKERS: Final = {"user": "customer", "customer": "customer", "agent": "agent"}
_KEY: Final = ("conversation_id", "sentence_number", "sentence_speaker")

Vector = NDArray[np.float32]


class EncodedConversation(NamedTuple):
    """A conversation without its words: how many sentences, the sum of their vectors (width,) and its distinct keywords."""

    sentences: int
    vector_sum: Vector
    keywords: tuple[str, ...]


class EncodedConversations(NamedTuple):
    """By conversation id. `text_model` names what made them; vectors of one name only may be compared."""

    text_model: str
    width: int
    by_id: dict[str, EncodedConversation]


def read_text(folder: Path, report: Report) -> dict[str, list[tuple[str, str]]]:
    """(speaker, sentence) in order, by conversation id; empty where there is no such table."""
    found = _sentences(folder, TEXT, "sentence", report)
    for name, said in found.items():
        if not any(sentence.strip() for _, sentence in said):
            report(Problem(str(folder / TEXT), None, f"conversation {name} has no text"))
    return found


def read_encoded(folder: Path, report: Report) -> EncodedConversations | None:
    """Keywords and sentence vectors, whichever are there; None where neither is."""
    keywords, counts = _keywords(folder, report)
    files = files_of(folder, EMBEDDING, report)
    if not files:
        if not counts:
            return None
        nothing = np.zeros(1, dtype=np.float32)
        return EncodedConversations(
            "tables-keyword", 1, {name: EncodedConversation(counts[name], nothing, said) for name, said in keywords.items()}
        )
    sums: dict[str, Vector] = {}
    numbers: dict[str, set[int]] = {}
    for path in files:
        _add_vectors(path, sums, numbers, report)
    by_id = {name: EncodedConversation(len(numbers[name]), total, keywords.get(name, ())) for name, total in sums.items()}
    width = max((len(total) for total in sums.values()), default=0)
    for name in keywords.keys() - by_id.keys():
        report(Problem(str(folder / EMBEDDING), None, f"conversation {name} of {KEYWORD} has no vectors"))
    return EncodedConversations(f"tables-embedding-{width}", width, by_id)


def _sentences(folder: Path, table: str, column: str, report: Report) -> dict[str, list[tuple[str, str]]]:
    """(speaker, the column) of each sentence in order, by conversation id; empty where there is no such table."""
    found: dict[str, dict[int, tuple[str, str]]] = {}
    for place, row, (name, number, speaker, value) in rows_of(folder, table, (*_KEY, column), report, optional=True):
        counted = _sentence_number(place, row, number, speaker, report)
        if counted is None:
            continue
        said = found.setdefault(ident(name), {})
        if counted in said:
            report(Problem(place, row, f"sentence_number {number} stands twice for conversation_id {name}"))
        said[counted] = (speaker, value)
    return {name: [said[number] for number in sorted(said)] for name, said in found.items()}


def _sentence_number(place: str, row: int, number: str, speaker: str, report: Report) -> int | None:
    counted = whole(number)
    if counted is None:
        report(Problem(place, row, f"sentence_number {number!r} is no whole number"))
    if speaker not in SPEAKERS:
        report(Problem(place, row, f"sentence_speaker is {speaker!r}, not user or agent"))
    return counted if speaker in SPEAKERS else None


def _keywords(folder: Path, report: Report) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """Distinct keywords in the order of first mention, and the number of sentences, by conversation."""
    found = _sentences(folder, KEYWORD, "keywords", report)
    distinct = {name: _distinct(keywords for _, keywords in said) for name, said in found.items()}
    for name, words in distinct.items():
        if any(len(word) > limits.TAG_CHARACTERS or SEPARATOR in word for word in words):
            told = f"a keyword of conversation {name} is longer than {limits.TAG_CHARACTERS} characters, or holds U+001F"
            report(Problem(str(folder / KEYWORD), None, told))
    return distinct, {name: len(said) for name, said in found.items()}


def _distinct(lists: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ident(word.strip()) for text in lists for word in text.split(",") if word.strip()))


def _add_vectors(path: Path, sums: dict[str, Vector], numbers: dict[str, set[int]], report: Report) -> None:
    """Adds one file's vectors to the sums, row by row (measured: as fast as pyarrow's reader, for numbers in text are the cost)."""
    columns = _embedding_columns(path, report)
    if not columns:
        return
    for place, row, (name, number, speaker, *values) in rows_of_file(path, (*_KEY, *columns), report):
        counted, vector = _sentence_number(place, row, number, speaker, report), _vector(values)
        said = numbers.setdefault(ident(name), set())
        if vector is None:
            report(Problem(place, row, "a number of the embedding is missing, not finite or no number"))
        elif counted is not None and counted in said:
            report(Problem(place, row, f"sentence_number {number} stands twice for conversation_id {name}"))
        elif counted is not None:
            said.add(counted)
            former = sums.get(ident(name))
            if former is not None and len(former) != len(vector):
                report(Problem(place, row, f"has {len(vector)} numbers a sentence, another file {len(former)}"))
            else:
                sums[ident(name)] = vector if former is None else former + vector


def _vector(values: list[str]) -> Vector | None:
    try:
        vector = np.array(values, dtype=np.float32)
    except ValueError:
        return None
    return vector if np.isfinite(vector).all() else None


def _embedding_columns(path: Path, report: Report) -> list[str]:
    """`embedding_1` ... `embedding_768` in order; empty where a column is missing or the file cannot be read."""
    header = header_of(path, report)
    if header is None:
        return []
    columns = [f"embedding_{number}" for number in range(1, 1 + sum(name.startswith("embedding_") for name in header))]
    missing = [name for name in (*_KEY, *(columns or ["embedding_1"])) if name not in header]
    for name in missing:
        report(Problem(str(path), 1, f"column {name} is missing"))
    return [] if missing else columns
