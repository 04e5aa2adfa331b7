"""Conversations of the tables: their text, or what the paper's authors published instead: keywords and sentence vectors.

The published vectors are 768 numbers a sentence in 107 files of 2 GB, so they are read in blocks and summed by conversation; no
more of them is held. Nothing here encodes text.
"""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.table_files import Problem, Report, files_of, ident, rows_of, whole

TEXT: Final = "data_conversations_text"
KEYWORD: Final = "data_conversations_keyword"
EMBEDDING: Final = "data_conversations_embedding"
SPEAKERS: Final = {"user": "customer", "customer": "customer", "agent": "agent"}
_KEY: Final = ("conversation_id", "sentence_number", "sentence_speaker")
_BLOCK_BYTES: Final = 64 << 20

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
    found: dict[str, dict[int, tuple[str, str]]] = {}
    for place, row, (name, number, speaker, sentence) in rows_of(folder, TEXT, (*_KEY, "sentence"), report, optional=True):
        counted = _sentence_number(place, row, number, speaker, report)
        if counted is None:
            continue
        said = found.setdefault(ident(name), {})
        if counted in said:
            report(Problem(place, row, f"sentence_number {number} stands twice for conversation_id {name}"))
        said[counted] = (speaker, sentence)
    for name, said in found.items():
        if not any(sentence.strip() for _, sentence in said.values()):
            report(Problem(str(folder / TEXT), None, f"conversation {name} has no text"))
    return {name: [said[number] for number in sorted(said)] for name, said in found.items()}


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


def _sentence_number(place: str, row: int, number: str, speaker: str, report: Report) -> int | None:
    counted = whole(number)
    if counted is None:
        report(Problem(place, row, f"sentence_number {number!r} is no whole number"))
    if speaker not in SPEAKERS:
        report(Problem(place, row, f"sentence_speaker is {speaker!r}, not user or agent"))
    return counted if speaker in SPEAKERS else None


def _keywords(folder: Path, report: Report) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """Distinct keywords in the order of first mention, and the number of sentences, by conversation."""
    found: dict[str, dict[int, str]] = {}
    for place, row, (name, number, speaker, keywords) in rows_of(folder, KEYWORD, (*_KEY, "keywords"), report, optional=True):
        counted = _sentence_number(place, row, number, speaker, report)
        if counted is None:
            continue
        said = found.setdefault(ident(name), {})
        if counted in said:
            report(Problem(place, row, f"sentence_number {number} stands twice for conversation_id {name}"))
        said[counted] = keywords
    distinct = {name: _distinct(said[number] for number in sorted(said)) for name, said in found.items()}
    return distinct, {name: len(said) for name, said in found.items()}


def _distinct(lists: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ident(word.strip()) for text in lists for word in text.split(",") if word.strip()))


def _add_vectors(path: Path, sums: dict[str, Vector], numbers: dict[str, set[int]], report: Report) -> None:
    """Adds one file's vectors to the sums, block by block (pyarrow: ten times as fast as `csv` on numbers)."""
    import pyarrow as pa  # noqa: PLC0415  (0.3 s, and only the paper's own tables need it)
    from pyarrow import csv as arrow_csv  # noqa: PLC0415

    columns = _embedding_columns(path, report)
    if not columns:
        return
    types = {name: pa.string() for name in _KEY} | {name: pa.float32() for name in columns}
    convert = arrow_csv.ConvertOptions(column_types=types, include_columns=[*_KEY, *columns])
    row = 2
    try:
        with arrow_csv.open_csv(path, arrow_csv.ReadOptions(block_size=_BLOCK_BYTES), convert_options=convert) as reader:
            for block in reader:
                vectors = np.column_stack([block[name].to_numpy(zero_copy_only=False) for name in columns])
                keys = (block["conversation_id"].to_pylist(), block["sentence_number"].to_pylist())
                _add_block(str(path), row, keys, vectors, sums, numbers, report)
                row += len(vectors)
    except pa.ArrowInvalid as error:
        report(Problem(str(path), None, f"cannot be read from row {row} on ({error})"))


def _embedding_columns(path: Path, report: Report) -> list[str]:
    """`embedding_1` ... `embedding_768` in order; empty where a column is missing."""
    import gzip  # noqa: PLC0415

    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        header = next(csv.reader(file), [])
    columns = [f"embedding_{number}" for number in range(1, 1 + sum(name.startswith("embedding_") for name in header))]
    missing = [name for name in (*_KEY, *(columns or ["embedding_1"])) if name not in header]
    for name in missing:
        report(Problem(str(path), 1, f"column {name} is missing"))
    return [] if missing else columns


def _add_block(
    place: str,
    first_row: int,
    keys: tuple[list[str], list[str]],
    vectors: Vector,
    sums: dict[str, Vector],
    numbers: dict[str, set[int]],
    report: Report,
) -> None:
    kept: NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
    for spoilt in np.flatnonzero(~kept).tolist():
        report(Problem(place, first_row + spoilt, "a number of the embedding is missing or not finite"))
    names = [ident(name) for name in keys[0]]
    for row, (name, number) in enumerate(zip(names, keys[1], strict=True)):
        counted = whole(number)
        said = numbers.setdefault(name, set())
        if counted is None or counted in said:
            fault = "is no whole number" if counted is None else f"stands twice for conversation_id {name}"
            report(Problem(place, first_row + row, f"sentence_number {number!r} {fault}"))
            kept[row] = False
        elif kept[row]:
            said.add(counted)
    distinct, inverse = np.unique(np.array(names)[kept], return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    totals = np.add.reduceat(vectors[kept][order], np.searchsorted(inverse[order], np.arange(len(distinct))), axis=0)
    for name, total in zip(distinct.tolist(), totals, strict=True):
        if name in sums and len(sums[name]) != len(total):
            report(Problem(place, None, f"has {len(total)} numbers a sentence, another file {len(sums[name])}"))
        else:
            sums[name] = sums[name] + total if name in sums else total
