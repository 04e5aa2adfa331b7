"""Writes tables in the paper's layout; the same rows give the same bytes."""

import csv
import gzip
from collections.abc import Callable
from contextlib import ExitStack
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "data_users.csv.gz": ("user_id", "purchase_event_id", "event_number", "conversation_id", "session_id"),
    "data_sessions.csv.gz": ("session_id", "action_number", "action_tags"),
    "data_conversations_text.csv.gz": ("conversation_id", "sentence_number", "sentence_speaker", "sentence"),
    "data_purchase_events.csv.gz": ("purchase_event_id", "item_id"),
    "data_post_filter.csv.gz": ("purchase_event_id", "item_id"),
    "items.csv": ("item_id", "name"),
}

WriteRow = Callable[[tuple[Any, ...]], object]
"""Writes one row of a table."""


def open_table(files: ExitStack, path: Path, columns: tuple[str, ...]) -> WriteRow:
    """Opens a table and writes its header. gzip has no time stamp, so that the same rows give the same bytes."""
    if path.suffix == ".gz":
        raw = files.enter_context(path.open("wb"))
        packed = files.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=raw, compresslevel=5, mtime=0))
        text = files.enter_context(TextIOWrapper(packed, encoding="utf-8", newline=""))
    else:
        text = files.enter_context(path.open("w", encoding="utf-8", newline=""))  # type: ignore[arg-type]
    write: WriteRow = csv.writer(text, lineterminator="\n").writerow
    write(columns)
    return write
