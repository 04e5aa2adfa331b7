"""Conversations in the tables: their text, or the keywords and sentence vectors that the paper's authors published instead.

The published vectors have 768 numbers a sentence, in 107 files of 2 GB; they are summed by conversation while they are read.
Nothing here encodes text.
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
    """A conversation without its text.

    Attributes:
        sentences: how many.
        vector_sum: (width,) the sum of their vectors.
        keywords: distinct, in the order of first mention.
    """

    sentences: int
    vector_sum: Vector
    keywords: tuple[str, ...]


class EncodedConversations(NamedTuple):
    """Encoded conversations.

    Attributes:
        text_model: what encoded them; only vectors of the same text model can be compared.
        width: the size of a vector.
        by_id: by conversation id.
    """

    text_model: str
    width: int
    by_id: dict[str, EncodedConversation]


def read_text(folder: Path, report: Report) -> dict[str, list[tuple[str, str]]]:
    """Returns (speaker, sentence) in order, by conversation id; empty where there is no such table."""
    conversations = _sentences(folder, TEXT, "sentence", report)
    for name, sentences in conversations.items():
        if not any(text.strip() for _, text in sentences):
            report(Problem(str(folder / TEXT), None, f"conversation {name} has no text"))
    return conversations


def read_encoded(folder: Path, report: Report) -> EncodedConversations | None:
    """Returns keywords and sentence vectors, as far as there are any; None where there are neither."""
    keywords, counts = _keywords(folder, report)
    files = files_of(folder, EMBEDDING, report)
    if not files:
        if not counts:
            return None
        no_vector = np.zeros(1, dtype=np.float32)
        return EncodedConversations(
            "tables-keyword", 1, {name: EncodedConversation(counts[name], no_vector, words) for name, words in keywords.items()}
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
    """Returns (speaker, the column) of each sentence in order, by conversation id; empty where there is no such table."""
    conversations: dict[str, dict[int, tuple[str, str]]] = {}
    for file, row, (name, number_text, speaker, value) in rows_of(folder, table, (*_KEY, column), report, optional=True):
        number = _sentence_number(file, row, number_text, speaker, report)
        if number is None:
            continue
        sentences = conversations.setdefault(ident(name), {})
        if number in sentences:
            report(Problem(file, row, f"sentence_number {number_text} occurs twice for conversation_id {name}"))
        sentences[number] = (speaker, value)
    return {name: [sentences[number] for number in sorted(sentences)] for name, sentences in conversations.items()}


def _sentence_number(file: str, row: int, text: str, speaker: str, report: Report) -> int | None:
    number = whole(text)
    if number is None:
        report(Problem(file, row, f"sentence_number {text!r} is not a whole number"))
    if speaker not in SPEAKERS:
        report(Problem(file, row, f"sentence_speaker is {speaker!r}, not user or agent"))
    return number if speaker in SPEAKERS else None


def _keywords(folder: Path, report: Report) -> tuple[dict[str, tuple[str, ...]], dict[str, int]]:
    """Returns distinct keywords in the order of first mention, and the number of sentences, by conversation."""
    conversations = _sentences(folder, KEYWORD, "keywords", report)
    distinct = {name: _distinct(keywords for _, keywords in sentences) for name, sentences in conversations.items()}
    for name, words in distinct.items():
        if any(len(word) > limits.TAG_CHARACTERS or SEPARATOR in word for word in words):
            reason = f"a keyword of conversation {name} is longer than {limits.TAG_CHARACTERS} characters, or contains U+001F"
            report(Problem(str(folder / KEYWORD), None, reason))
    return distinct, {name: len(sentences) for name, sentences in conversations.items()}


def _distinct(lists: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ident(word.strip()) for text in lists for word in text.split(",") if word.strip()))


def _add_vectors(path: Path, sums: dict[str, Vector], numbers: dict[str, set[int]], report: Report) -> None:
    """Adds one file's vectors to the sums, row by row (as fast as pyarrow's reader: parsing numbers is the cost)."""
    columns = _embedding_columns(path, report)
    if not columns:
        return
    for file, row, (name, number_text, speaker, *values) in rows_of_file(path, (*_KEY, *columns), report):
        number, vector = _sentence_number(file, row, number_text, speaker, report), _vector(values)
        seen = numbers.setdefault(ident(name), set())
        if vector is None:
            report(Problem(file, row, "a value of the embedding is missing, not finite or not a number"))
        elif number is not None and number in seen:
            report(Problem(file, row, f"sentence_number {number_text} occurs twice for conversation_id {name}"))
        elif number is not None:
            seen.add(number)
            former = sums.get(ident(name))
            if former is not None and len(former) != len(vector):
                report(Problem(file, row, f"has {len(vector)} numbers a sentence, another file {len(former)}"))
            else:
                sums[ident(name)] = vector if former is None else former + vector


def _vector(values: list[str]) -> Vector | None:
    try:
        vector = np.array(values, dtype=np.float32)
    except ValueError:
        return None
    return vector if np.isfinite(vector).all() else None


def _embedding_columns(path: Path, report: Report) -> list[str]:
    """Returns `embedding_1` ... `embedding_768`; empty where a column is missing or the file cannot be read."""
    header = header_of(path, report)
    if header is None:
        return []
    columns = [f"embedding_{number}" for number in range(1, 1 + sum(name.startswith("embedding_") for name in header))]
    missing = [name for name in (*_KEY, *(columns or ["embedding_1"])) if name not in header]
    for name in missing:
        report(Problem(str(path), 1, f"column {name} is missing"))
    return [] if missing else columns
