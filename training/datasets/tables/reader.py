"""The paper's table layout, read and checked: CSV or CSV.gz files in one folder.

`data_users`, `data_sessions`, `data_purchase_events`, `data_post_filter`, conversations
(`training.datasets.tables.conversations`) and, where
there is one, `items`. In the paper's own data interactions are shared by several purchase events of a user, at most the last 10 are
listed, and `event_number` need not start at 1.
"""

from collections import Counter
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
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
    """A data set. `sessions`: id -> tags of each action, in order; `conversations`: id -> (speaker, sentence), in order.

    `purchases` and `allowed` by purchase event id; an event without a row in `allowed` may be recommended anything. `encoded` takes
    the place of `conversations` where there is no text; both are empty where nobody called.
    """

    interactions: list[InteractionRow]
    sessions: dict[str, list[tuple[str, ...]]]
    conversations: dict[str, list[tuple[str, str]]]
    purchases: dict[int, list[str]]
    allowed: dict[int, set[str]]
    items: dict[str, str]
    encoded: EncodedConversations | None = None


def read_tables(folder: Path) -> Tables:
    """Reads a folder in the layout.

    Raises:
        TableError: the first fault, with file, row and reason: a file or column is missing, a row holds both or neither
        interaction, an id is unknown, a label lies outside its filter, a number is none or stands twice.
    """
    return _read(folder, stop_at)


class _ItemRow(NamedTuple):
    """A purchase event and an item, and the file and row that say so."""

    event: int
    item: str
    place: str
    row: int

    def problem(self, reason: str) -> Problem:
        return Problem(self.place, self.row, reason)


class _EnoughError(Exception):
    """As many problems as were asked for."""


def problems_of(folder: Path, most: int) -> tuple[Tables | None, list[Problem]]:
    """Every problem, up to `most`; the tables where they could be read to the end."""
    found: list[Problem] = []

    def report(problem: Problem) -> None:
        found.append(problem)
        if len(found) == most:
            raise _EnoughError

    try:
        tables = _read(folder, report)
    except _EnoughError:
        return None, found
    return tables, found


def _read(folder: Path, report: Report) -> Tables:
    if not folder.is_dir():
        raise TableError(f"{folder} is not a folder: name one with tables in the paper's layout")
    sessions = _sessions(folder, report)
    conversations = read_text(folder, report)
    encoded = None if conversations else read_encoded(folder, report)
    listed = _catalogue(folder, report)
    bought = list(_item_rows(folder, "data_purchase_events", report))
    purchases: dict[int, list[str]] = {}
    for one in bought:
        purchases.setdefault(one.event, []).append(one.item)
    allowed, begins = _filters(_item_rows(folder, "data_post_filter", report), purchases, listed, report)
    items = listed or _named_by_themselves(purchases, allowed)
    spoken = encoded.by_id.keys() if encoded is not None else conversations.keys()
    interactions = _interactions(folder, sessions.keys(), spoken, purchases, report)
    _check_bought(bought, allowed, items, report)
    for event, first in begins.items():
        if (excluded := len(items) - len(allowed[event])) > limits.ITEMS:
            report(first.problem(f"event {event} excludes {excluded:,} items; an eligibility list holds {limits.ITEMS:,} at most"))
    return Tables(interactions, sessions, conversations, purchases, allowed, items, encoded)


def _sessions(folder: Path, report: Report) -> dict[str, list[tuple[str, ...]]]:
    """The tags of each action in order, by session; equal actions share one tuple."""
    found: dict[str, dict[int, tuple[str, ...]]] = {}
    known: dict[str, tuple[str, ...]] = {}
    columns = ("session_id", "action_number", "action_tags")
    for place, row, (name, number, tags) in rows_of(folder, "data_sessions", columns, report):
        counted = whole(number)
        if counted is None:
            report(Problem(place, row, f"action_number {number!r} is no whole number"))
            continue
        actions = found.setdefault(ident(name), {})
        if counted in actions:
            report(Problem(place, row, f"action_number {number} stands twice for session_id {name}"))
        if tags not in known:
            known[tags] = tuple(tag for text in tags.split(",") if (tag := text.strip()))
            if any(len(tag) > limits.TAG_CHARACTERS or SEPARATOR in tag for tag in known[tags]):
                report(Problem(place, row, f"a tag is longer than {limits.TAG_CHARACTERS} characters, or holds U+001F"))
        actions[counted] = known[tags]
    return {name: [actions[number] for number in sorted(actions)] for name, actions in found.items()}


def _item_rows(folder: Path, table: str, report: Report) -> Iterator[_ItemRow]:
    for place, row, (name, item) in rows_of(folder, table, ("purchase_event_id", "item_id"), report):
        event = whole(name)
        if event is None:
            report(Problem(place, row, f"purchase_event_id {name!r} is no whole number"))
        elif fault := _fault_of_item(item):
            report(Problem(place, row, fault))
        else:
            yield _ItemRow(event, ident(item), place, row)


def _fault_of_item(item: str) -> str | None:
    if not item:
        return "item_id is empty"
    return f"item_id is longer than {limits.ID_CHARACTERS} characters" if len(item) > limits.ID_CHARACTERS else None


def _catalogue(folder: Path, report: Report) -> dict[str, str]:
    """Names by id, in the table's order; empty where there is no such table."""
    named: dict[str, str] = {}
    for place, row, (item, name) in rows_of(folder, "items", ("item_id", "name"), report, optional=True):
        if fault := _fault_of_item(item):
            report(Problem(place, row, fault))
        else:
            named[ident(item)] = name
    return named


def _named_by_themselves(purchases: dict[int, list[str]], allowed: dict[int, set[str]]) -> dict[str, str]:
    """The items that occur, where no table lists them (as in the paper's data): numbers first."""
    ids = {item for bought in purchases.values() for item in bought}.union(*allowed.values())
    number = {item: whole(item) for item in ids}
    return {item: item for item in sorted(ids, key=lambda item: (number[item] is None, number[item] or 0, item))}


def _filters(
    rows: Iterable[_ItemRow], purchases: dict[int, list[str]], listed: dict[str, str], report: Report
) -> tuple[dict[int, set[str]], dict[int, _ItemRow]]:
    """The items that may be recommended, and the first row that says so, by purchase event."""
    allowed: dict[int, set[str]] = {}
    begins: dict[int, _ItemRow] = {}
    for one in rows:
        begins.setdefault(one.event, one)
        if listed and one.item not in listed:
            report(one.problem(f"event {one.event} allows item {one.item}, which is not in items"))
        allowed.setdefault(one.event, set()).add(one.item)
    for event, first in begins.items():
        if event not in purchases:
            report(first.problem(f"event {event} is not in data_purchase_events"))
    return allowed, begins


def _interactions(
    folder: Path, sessions: Container[str], spoken: Container[str], purchases: dict[int, list[str]], report: Report
) -> list[InteractionRow]:
    interactions: list[InteractionRow] = []
    seen: set[tuple[int, int]] = set()
    users: dict[int, str] = {}
    for place, line, values in rows_of(folder, "data_users", _USERS, report):
        row, faults = _interaction(values, sessions, spoken, purchases)
        if row is not None and (row.purchase_event_id, row.event_number) in seen:
            faults.append(f"event_number {row.event_number} stands twice for purchase event {row.purchase_event_id}")
        if row is not None and users.setdefault(row.purchase_event_id, row.user_id) != row.user_id:
            faults.append(f"purchase event {row.purchase_event_id} is user {users[row.purchase_event_id]}'s in another row")
        for fault in faults:
            report(Problem(place, line, fault))
        if row is not None and not faults:
            seen.add((row.purchase_event_id, row.event_number))
            interactions.append(row)
    return interactions


def _interaction(
    values: tuple[str, ...], sessions: Container[str], spoken: Container[str], purchases: dict[int, list[str]]
) -> tuple[InteractionRow | None, list[str]]:
    """One row of data_users, and what is wrong with it; None where its numbers cannot be read."""
    user, event_text, number_text, conversation, session = map(ident, values)
    event, number = whole(event_text), whole(number_text)
    read = (("purchase_event_id", event), ("event_number", number))
    faults = [f"{name} is no whole number" for name, value in read if value is None]
    if not user:
        faults.append("user_id is empty")
    if len(user.encode()) > limits.USER_ID_BYTES:
        faults.append(f"user_id is longer than {limits.USER_ID_BYTES} bytes")
    if bool(conversation) == bool(session):
        faults.append("exactly one of conversation_id and session_id must be filled")
    elif conversation and conversation not in spoken:
        faults.append(f"conversation {conversation} is not in {TEXT} (nor in its keyword or embedding tables)")
    elif session and session not in sessions:
        faults.append(f"session {session} is not in data_sessions")
    if event is None or number is None:
        return None, faults
    if event not in purchases:
        faults.append(f"purchase event {event} is not in data_purchase_events")
    return InteractionRow(user, event, number, conversation or None, session or None), faults


def _check_bought(bought: list[_ItemRow], allowed: dict[int, set[str]], items: dict[str, str], report: Report) -> None:
    rows: Counter[int] = Counter()
    for one in bought:
        rows[one.event] += 1
        if rows[one.event] == limits.ITEMS + 1:
            report(one.problem(f"event {one.event} bought more than {limits.ITEMS:,} items"))
        if one.item not in items:
            report(one.problem(f"event {one.event} bought item {one.item}, which is not in items"))
        if one.event in allowed and one.item not in allowed[one.event]:
            report(one.problem(f"event {one.event} bought item {one.item}, which its filter does not allow"))
