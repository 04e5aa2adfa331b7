"""The paper's table layout, read and checked: CSV or CSV.gz files in one folder.

`data_users`, `data_sessions`, `data_conversations_text`, `data_purchase_events`, `data_post_filter` and `items`. In the paper's
own data interactions are shared by several purchase events of a user, and `event_number` need not start at 1.
"""

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class TableError(Exception):
    """A table that cannot be used: file, row and reason."""


class InteractionRow(NamedTuple):
    """One interaction before one purchase event: a conversation or a session."""

    user_id: str
    purchase_event_id: int
    event_number: int
    conversation_id: str | None
    session_id: str | None


class Tables(NamedTuple):
    """A data set. `sessions`: id -> tags of each action, in order; `conversations`: id -> (speaker, sentence), in order.

    `purchases` and `allowed` by purchase event id; an event without a row in `allowed` may be recommended anything.
    """

    interactions: list[InteractionRow]
    sessions: dict[str, list[tuple[str, ...]]]
    conversations: dict[str, list[tuple[str, str]]]
    purchases: dict[int, list[str]]
    allowed: dict[int, set[str]]
    items: dict[str, str]


def read_tables(folder: Path) -> Tables:
    """Reads a folder in the layout.

    Raises:
        TableError: a file or column is missing, a row holds both or neither interaction, an id is unknown, or a number stands
        twice.
    """
    sessions = _numbered(folder, "data_sessions", "session_id", "action_number", lambda row: tuple(row["action_tags"].split(",")))
    conversations = _numbered(
        folder,
        "data_conversations_text",
        "conversation_id",
        "sentence_number",
        lambda row: (row["sentence_speaker"], row["sentence"]),
    )
    purchases: dict[int, list[str]] = {}
    for _, row in _rows(folder, "data_purchase_events", ("purchase_event_id", "item_id")):
        purchases.setdefault(int(row["purchase_event_id"]), []).append(row["item_id"])
    allowed: dict[int, set[str]] = {}
    for _, row in _rows(folder, "data_post_filter", ("purchase_event_id", "item_id")):
        allowed.setdefault(int(row["purchase_event_id"]), set()).add(row["item_id"])
    items = {row["item_id"]: row["name"] for _, row in _rows(folder, "items", ("item_id", "name"))}
    tables = Tables(_interactions(folder, sessions, conversations, purchases), sessions, conversations, purchases, allowed, items)
    _check_labels(folder, tables)
    return tables


def _check_labels(folder: Path, tables: Tables) -> None:
    for event, bought in tables.purchases.items():
        for item in bought:
            if item not in tables.items:
                raise TableError(f"{folder}/data_purchase_events: event {event} bought item {item}, which is not in items")
            if event in tables.allowed and item not in tables.allowed[event]:
                raise TableError(f"{folder}/data_post_filter: event {event} bought item {item}, which its filter does not allow")


def _interactions(folder: Path, sessions: Any, conversations: Any, purchases: Any) -> list[InteractionRow]:
    interactions = []
    numbers: set[tuple[int, int]] = set()
    columns = ("user_id", "purchase_event_id", "event_number", "conversation_id", "session_id")
    for line, row in _rows(folder, "data_users", columns):
        where = f"{folder}/data_users, row {line}"
        conversation, session = row["conversation_id"] or None, row["session_id"] or None
        if (conversation is None) == (session is None):
            raise TableError(f"{where}: exactly one of conversation_id and session_id must be filled")
        event, number = int(row["purchase_event_id"]), int(row["event_number"])
        if event not in purchases:
            raise TableError(f"{where}: purchase event {event} is not in data_purchase_events")
        if conversation is not None and conversation not in conversations:
            raise TableError(f"{where}: conversation {conversation} is not in data_conversations_text")
        if session is not None and session not in sessions:
            raise TableError(f"{where}: session {session} is not in data_sessions")
        if (event, number) in numbers:
            raise TableError(f"{where}: event_number {number} stands twice for purchase event {event}")
        numbers.add((event, number))
        interactions.append(InteractionRow(row["user_id"], event, number, conversation, session))
    return interactions


def _numbered(folder: Path, table: str, key: str, number: str, value: Any) -> dict[str, Any]:
    """Rows by key, in the order of their numbers."""
    found: dict[str, dict[int, Any]] = {}
    for line, row in _rows(folder, table, (key, number)):
        rows = found.setdefault(row[key], {})
        if int(row[number]) in rows:
            raise TableError(f"{folder}/{table}, row {line}: {number} {row[number]} stands twice for {key} {row[key]}")
        rows[int(row[number])] = value(row)
    return {name: [rows[place] for place in sorted(rows)] for name, rows in found.items()}


def _rows(folder: Path, table: str, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(row number, row) of a table, gzipped or not; the header is row 1."""
    plain, zipped = folder / f"{table}.csv", folder / f"{table}.csv.gz"
    path = plain if plain.exists() else zipped
    if not path.exists():
        raise TableError(f"{folder} has neither {plain.name} nor {zipped.name}")
    with gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise TableError(f"{path}: column {missing[0]} is missing")
        for line, row in enumerate(reader, start=2):
            try:
                yield line, row
            except ValueError as error:
                raise TableError(f"{path}, row {line}: {error}") from None
