"""Reads and checks tables in the paper's layout: CSV or CSV.gz files in one folder.

The tables are `data_users`, `data_sessions`, `data_purchase_events`, `data_post_filter`, conversations
(`training.datasets.tables.conversations`) and optionally `items` and `item_texts`. In the paper's own data several purchase events
of a user share interactions, at most the last 10 are listed, and `event_number` need not start at 1.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from stream.core import limits
from stream.core.tokens import SEPARATOR
from training.datasets.tables.conversations import TEXT, EncodedConversations, read_encoded, read_text
from training.datasets.tables.files import Problem, Report, TableError, ident, rows_of, stop_at, whole

__all__ = ["InteractionRow", "Problem", "TableError", "Tables", "problems_of", "read_tables"]
_USERS: Final = ("user_id", "purchase_event_id", "event_number", "conversation_id", "session_id")


class InteractionRow(NamedTuple):
    """One interaction before one purchase event: a conversation or a session."""

    user_id: str
    purchase_event_id: int
    event_number: int
    conversation_id: str | None
    session_id: str | None


class Tables(NamedTuple):
    """A data set.

    Attributes:
        interactions: one per row of `data_users`.
        sessions: id -> the tags of each action, in order.
        conversations: id -> (speaker, sentence), in order; empty where there is no text.
        purchases: purchase event id -> the items bought.
        allowed: purchase event id -> the items that may be recommended; any item where there is no entry.
        items: id -> name.
        encoded: replaces `conversations` where there is no text; None where there are no conversations either.
        texts: id -> description, of the items that have one.
    """

    interactions: list[InteractionRow]
    sessions: dict[str, list[tuple[str, ...]]]
    conversations: dict[str, list[tuple[str, str]]]
    purchases: dict[int, list[str]]
    allowed: dict[int, set[str]]
    items: dict[str, str]
    encoded: EncodedConversations | None = None
    texts: Mapping[str, str] = MappingProxyType({})


def read_tables(folder: Path) -> Tables:
    """Reads a folder of tables.

    Raises:
        TableError: the first fault, with file, row and reason: a file or column is missing, a row has both interactions or neither,
            an id is unknown, an item bought is not allowed, a number is malformed or occurs twice.
    """
    return _read(folder, stop_at)


class _ItemRow(NamedTuple):
    """A purchase event and an item, with the file and row that hold them."""

    event: int
    item: str
    file: str
    row: int

    def problem(self, reason: str) -> Problem:
        return Problem(self.file, self.row, reason)


class _EnoughError(Exception):
    """The requested number of problems was found."""


def problems_of(folder: Path, most: int) -> tuple[Tables | None, list[Problem]]:
    """Returns the problems, up to `most`, and the tables if they could be read to the end."""
    problems: list[Problem] = []

    def report(problem: Problem) -> None:
        problems.append(problem)
        if len(problems) == most:
            raise _EnoughError

    try:
        tables = _read(folder, report)
    except _EnoughError:
        return None, problems
    return tables, problems


def _read(folder: Path, report: Report) -> Tables:
    if not folder.is_dir():
        raise TableError(f"{folder} is not a folder: name one with tables in the paper's layout")
    sessions = _sessions(folder, report)
    conversations = read_text(folder, report)
    encoded = None if conversations else read_encoded(folder, report)
    listed = _catalogue(folder, report)
    bought = list(_item_rows(folder, "data_purchase_events", report))
    purchases: dict[int, list[str]] = {}
    for row in bought:
        purchases.setdefault(row.event, []).append(row.item)
    allowed, first_rows = _filters(_item_rows(folder, "data_post_filter", report), purchases, listed, report)
    items = listed or _unlisted_items(purchases, allowed)
    conversation_ids = encoded.by_id.keys() if encoded is not None else conversations.keys()
    interactions = _interactions(folder, sessions.keys(), conversation_ids, purchases, report)
    _check_bought(bought, allowed, items, report)
    for event, first in first_rows.items():
        if (excluded := len(items) - len(allowed[event])) > limits.ITEMS:
            report(first.problem(f"event {event} excludes {excluded:,} items; an eligibility list holds at most {limits.ITEMS:,}"))
    return Tables(interactions, sessions, conversations, purchases, allowed, items, encoded, _texts(folder, items, report))


def _sessions(folder: Path, report: Report) -> dict[str, list[tuple[str, ...]]]:
    """Returns the tags of each action in order, by session; equal actions share one tuple."""
    sessions: dict[str, dict[int, tuple[str, ...]]] = {}
    parsed: dict[str, tuple[str, ...]] = {}
    columns = ("session_id", "action_number", "action_tags")
    for file, row, (name, number_text, tags) in rows_of(folder, "data_sessions", columns, report):
        number = whole(number_text)
        if number is None:
            report(Problem(file, row, f"action_number {number_text!r} is not a whole number"))
            continue
        actions = sessions.setdefault(ident(name), {})
        if number in actions:
            report(Problem(file, row, f"action_number {number_text} occurs twice for session_id {name}"))
        if tags not in parsed:
            parsed[tags] = tuple(tag for text in tags.split(",") if (tag := text.strip()))
            if any(len(tag) > limits.TAG_CHARACTERS or SEPARATOR in tag for tag in parsed[tags]):
                report(Problem(file, row, f"a tag is longer than {limits.TAG_CHARACTERS} characters, or contains U+001F"))
        actions[number] = parsed[tags]
    return {name: [actions[number] for number in sorted(actions)] for name, actions in sessions.items()}


def _item_rows(folder: Path, table: str, report: Report) -> Iterator[_ItemRow]:
    for file, row, (name, item) in rows_of(folder, table, ("purchase_event_id", "item_id"), report):
        event = whole(name)
        if event is None:
            report(Problem(file, row, f"purchase_event_id {name!r} is not a whole number"))
        elif fault := _item_fault(item):
            report(Problem(file, row, fault))
        else:
            yield _ItemRow(event, ident(item), file, row)


def _item_fault(item: str) -> str | None:
    if not item:
        return "item_id is empty"
    return f"item_id is longer than {limits.ID_CHARACTERS} characters" if len(item) > limits.ID_CHARACTERS else None


def _catalogue(folder: Path, report: Report) -> dict[str, str]:
    """Returns names by id, in the table's order; empty where there is no such table."""
    names: dict[str, str] = {}
    for file, row, (item, name) in rows_of(folder, "items", ("item_id", "name"), report, optional=True):
        if fault := _item_fault(item):
            report(Problem(file, row, fault))
        else:
            names[ident(item)] = name
    return names


def _texts(folder: Path, items: Container[str], report: Report) -> dict[str, str]:
    """Returns the items' descriptions; empty where there is no such table."""
    texts: dict[str, str] = {}
    for file, row, (item, text) in rows_of(folder, "item_texts", ("item_id", "text"), report, optional=True):
        if ident(item) in items:
            texts[ident(item)] = text
        else:
            report(Problem(file, row, f"item {item} is not in items"))
    return texts


def _unlisted_items(purchases: dict[int, list[str]], allowed: dict[int, set[str]]) -> dict[str, str]:
    """Returns the items that occur, named by their ids, numbers first: the paper's data has no table of items."""
    ids = {item for bought in purchases.values() for item in bought}.union(*allowed.values())
    number = {item: whole(item) for item in ids}
    return {item: item for item in sorted(ids, key=lambda item: (number[item] is None, number[item] or 0, item))}


def _filters(
    rows: Iterable[_ItemRow], purchases: dict[int, list[str]], listed: dict[str, str], report: Report
) -> tuple[dict[int, set[str]], dict[int, _ItemRow]]:
    """Returns the items that may be recommended, and the first row of each filter, by purchase event."""
    allowed: dict[int, set[str]] = {}
    first_rows: dict[int, _ItemRow] = {}
    for row in rows:
        first_rows.setdefault(row.event, row)
        if listed and row.item not in listed:
            report(row.problem(f"event {row.event} allows item {row.item}, which is not in items"))
        allowed.setdefault(row.event, set()).add(row.item)
    for event, first in first_rows.items():
        if event not in purchases:
            report(first.problem(f"event {event} is not in data_purchase_events"))
    return allowed, first_rows


def _interactions(
    folder: Path, sessions: Container[str], conversations: Container[str], purchases: dict[int, list[str]], report: Report
) -> list[InteractionRow]:
    interactions: list[InteractionRow] = []
    seen: set[tuple[int, int]] = set()
    users: dict[int, str] = {}
    for file, line, values in rows_of(folder, "data_users", _USERS, report):
        row, faults = _interaction(values, sessions, conversations, purchases)
        if row is not None and (row.purchase_event_id, row.event_number) in seen:
            faults.append(f"event_number {row.event_number} occurs twice for purchase event {row.purchase_event_id}")
        if row is not None and users.setdefault(row.purchase_event_id, row.user_id) != row.user_id:
            faults.append(f"purchase event {row.purchase_event_id} belongs to user {users[row.purchase_event_id]} in another row")
        for fault in faults:
            report(Problem(file, line, fault))
        if row is not None and not faults:
            seen.add((row.purchase_event_id, row.event_number))
            interactions.append(row)
    return interactions


def _interaction(
    values: tuple[str, ...], sessions: Container[str], conversations: Container[str], purchases: dict[int, list[str]]
) -> tuple[InteractionRow | None, list[str]]:
    """Returns a row of data_users and its faults; None for the row where its numbers cannot be read."""
    user, event_text, number_text, conversation, session = map(ident, values)
    event, number = whole(event_text), whole(number_text)
    numbers = (("purchase_event_id", event), ("event_number", number))
    faults = [f"{name} is not a whole number" for name, value in numbers if value is None]
    if not user:
        faults.append("user_id is empty")
    if len(user.encode()) > limits.USER_ID_BYTES:
        faults.append(f"user_id is longer than {limits.USER_ID_BYTES} bytes")
    if bool(conversation) == bool(session):
        faults.append("exactly one of conversation_id and session_id must be filled")
    elif conversation and conversation not in conversations:
        faults.append(f"conversation {conversation} is not in {TEXT} (nor in its keyword or embedding tables)")
    elif session and session not in sessions:
        faults.append(f"session {session} is not in data_sessions")
    if event is None or number is None:
        return None, faults
    if event not in purchases:
        faults.append(f"purchase event {event} is not in data_purchase_events")
    return InteractionRow(user, event, number, conversation or None, session or None), faults


def _check_bought(bought: list[_ItemRow], allowed: dict[int, set[str]], items: dict[str, str], report: Report) -> None:
    counts: Counter[int] = Counter()
    for row in bought:
        counts[row.event] += 1
        if counts[row.event] == limits.ITEMS + 1:
            report(row.problem(f"event {row.event} bought more than {limits.ITEMS:,} items"))
        if row.item not in items:
            report(row.problem(f"event {row.event} bought item {row.item}, which is not in items"))
        if row.event in allowed and row.item not in allowed[row.event]:
            report(row.problem(f"event {row.event} bought item {row.item}, which its filter does not allow"))
