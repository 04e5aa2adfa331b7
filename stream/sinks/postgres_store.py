"""A PostgreSQL database as a store: rows and position change in one transaction.

Locks the row of a partition's position first, so that two writers take turns. Skips records that the position already covers, so
that an older offset never overwrites a newer one.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import msgspec
import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import Composed

from stream.api.answers import decode_list
from stream.api.store import Position, Table, continues
from stream.api.store import Row as Entry
from stream.errors import IsthmusError
from stream.metrics import Metrics
from stream.sinks.postgres_tables import FORMS, Form, Owner, Row, prepare, refuse_later_version, rows_of, statements

logger = logging.getLogger("isthmus")
SINK: Final = "postgres"
_ENCODING: Final = "UTF8"
_PATIENCE: Final = {"connect_timeout": "10", "keepalives_idle": "30", "keepalives_interval": "10", "keepalives_count": "3"}
"""Detect a database that no longer answers. The DSN overrides them."""
_BOUNDS: Final = "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS bounds (name, value)"
_TRY_AGAIN: Final = ("08", "25", "40", "53", "55", "57", "58")
"""SQLSTATE classes of temporary errors (PostgreSQL manual, appendix A): connections, standbys, deadlocks, resources, shutdowns."""
_OF_ROWS: Final = ("21", "22", "23", "54")
"""SQLSTATE classes of rows that the table cannot hold: duplicates, values out of range, index entries that are too long."""


class Target(NamedTuple):
    """Where lists are written.

    Attributes:
        dsn: The database, as libpq takes it.
        schema: Schema of the tables.
        form: One row a user, or one a user and rank.
        partitions: Partitions of the topic.
        owner: Whose lists they are.
        timeout_s: Longest time of a transaction.
    """

    dsn: str
    schema: str
    form: Form
    partitions: int
    owner: Owner
    timeout_s: float = 30


class _RowsRefusedError(IsthmusError):
    """The database cannot hold some row of a batch."""


class _Refused(NamedTuple):
    """A record that the database cannot hold: its offset, and why."""

    offset: int
    why: str


class _Change(NamedTuple):
    """What a batch does.

    Attributes:
        lists: Offset and rows of each user's new list.
        deleted: Users to delete: erased ones, and those whose newest list the table cannot hold.
        refused: Records that cannot.
        superseded: Number of records that a later one of the batch replaces.
        erased: Number of tombstones.
    """

    lists: dict[str, tuple[int, list[Row]]]
    deleted: list[str]
    refused: list[_Refused]
    superseded: int
    erased: int


_Apply = Callable[[AsyncConnection[Any], _Change], Awaitable[list[_Refused]]]


class PostgresStore:
    """Implements `stream.api.store.FollowedStore` for lists. Raises OSError for temporary errors."""

    def __init__(self, target: Target, metrics: Metrics) -> None:
        self._target = target
        self._dsn = _with_patience(target.dsn)
        self._metrics = metrics
        self._sql = statements(target.schema, target.form)
        self._open: AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()
        self._known: dict[int, int] = {}
        self._problem: str | None = "is not connected yet"

    def problem(self) -> str | None:
        """Returns what is wrong with the database, for health; None once it has answered."""
        return self._problem

    async def position(self, table: Table, partition: int) -> Position | None:
        del table
        async with self._transaction(self._target.timeout_s) as connection:
            row = await (await connection.execute(self._sql.position, [partition])).fetchone()
        return None if row is None else self._noted(partition, _position(row))

    async def begin(self, table: Table, partition: int, epoch: int, now_ms: int, former: Position | None = None) -> Position:
        """Begins a new generation, even if another process has just begun one: the later one wins."""
        del table, former
        async with self._transaction(None) as connection:  # it may read the whole table
            given = [partition, epoch, now_ms, partition, partition]
            row = await (await connection.execute(self._sql.begin, given)).fetchone()
        return self._noted(partition, _position(row))

    async def write(self, table: Table, partition: int, rows: Sequence[Entry], position: Position, after: int = 0) -> bool:
        del table
        with self._metrics.histogram("sink_seconds", SINK).time():
            try:
                return await self._write(partition, rows, position, after, self._apply, self._target.timeout_s)
            except _RowsRefusedError:
                return await self._write(partition, rows, position, after, self._apply_in_parts, None)

    async def _write(
        self, partition: int, rows: Sequence[Entry], position: Position, after: int, apply: _Apply, timeout_s: float | None
    ) -> bool:
        async with self._transaction(timeout_s) as connection:
            kept = await self._locked(connection, partition)
            if kept is None or kept.next_offset < after or not self._continues(kept, partition, position):
                return False
            entries = [one for one in rows if one.offset >= kept.next_offset]
            change = _change(entries, self._target.form, partition, position.generation)
            change.refused.extend(await apply(connection, change))
            if position.next_offset >= kept.next_offset:
                as_of_ms = max(kept.as_of_ms, position.as_of_ms)
                await self._update(connection, self._sql.move, [position.next_offset, as_of_ms, partition])
        self._noted(partition, max(kept, position, key=lambda one: one.next_offset))
        self._report(partition, change)
        return True

    async def complete(self, table: Table, partition: int, position: Position) -> int | None:
        del table
        async with self._transaction(None) as connection:  # a sweep reads the whole table
            kept = await self._locked(connection, partition)
            if kept is None or not continues(kept, position, position.next_offset):
                return None
            deleted = 0
            if kept.generation > 1:
                deleted = (await connection.execute(self._sql.sweep, [partition, kept.generation])).rowcount
            await self._update(connection, self._sql.complete, [partition])
        return deleted

    async def close(self) -> None:
        async with self._lock:
            await self._disconnect()

    def _noted(self, partition: int, position: Position) -> Position:
        self._known[partition] = position.next_offset
        return position

    def _continues(self, kept: Position, partition: int, position: Position) -> bool:
        """Returns whether the database still holds what this process has written. A restored database, or a standby that lost
        commits, is behind: going on would leave a gap.
        """
        is_current = (kept.epoch, kept.generation) == (position.epoch, position.generation)
        return is_current and kept.next_offset >= self._known.get(partition, 0)

    async def _locked(self, connection: AsyncConnection[Any], partition: int) -> Position | None:
        """Locks the position of a partition until the transaction ends, and returns it."""
        row = await (await connection.execute(self._sql.lock, [partition])).fetchone()
        return None if row is None else _position(row)

    async def _update(self, connection: AsyncConnection[Any], statement: Composed, values: Sequence[int]) -> None:
        """Updates a locked position.

        Raises:
            IsthmusError: a later version has migrated the tables while this process runs.
        """
        if not (await connection.execute(statement, values)).rowcount:
            row = await (await connection.execute(self._sql.version)).fetchone()
            refuse_later_version(self._target.schema, row[0] if row is not None else 0)

    def _report(self, partition: int, change: _Change) -> None:
        counts = {"superseded": change.superseded, "written": len(change.lists), "deleted": change.erased}
        for outcome, count in {**counts, "refused": len(change.refused)}.items():
            self._metrics.counter("sink_records", SINK, outcome).inc(count)
        for offset, why in change.refused:
            text = "the database cannot hold the list at offset %d of partition %d, so its user has no list there: %s"
            logger.error(text, offset, partition, why)

    async def _apply(self, connection: AsyncConnection[Any], change: _Change) -> list[_Refused]:
        await self._put(connection, change.lists)
        if change.deleted:
            await connection.execute(self._sql.delete, [change.deleted])
        return []

    async def _apply_in_parts(self, connection: AsyncConnection[Any], change: _Change) -> list[_Refused]:
        """Writes all lists but those that the database refuses, which it finds by bisection. Deletes the users of these."""
        refused: list[_Refused] = []
        parts = [list(change.lists.items())]
        while parts:
            part = parts.pop()
            try:
                async with connection.transaction():
                    await connection.execute(self._sql.clear)
                    await self._put(connection, dict(part))
            except psycopg.Error as error:
                if not _is_of_rows(error):
                    raise
                if len(part) > 1:
                    parts += [part[: len(part) // 2], part[len(part) // 2 :]]
                    continue
                ((user, (offset, _)),) = part
                change.deleted.append(user)
                del change.lists[user]
                refused.append(_Refused(offset, _said(error)))
        if change.deleted:
            await connection.execute(self._sql.delete, [change.deleted])
        return refused

    async def _put(self, connection: AsyncConnection[Any], lists: Mapping[str, tuple[int, list[Row]]]) -> None:
        """Writes the rows of users, and deletes the surplus ranks of their former lists."""
        if any(rows for _, rows in lists.values()):
            async with connection.cursor() as cursor, cursor.copy(self._sql.copy) as copy:
                for _, rows in lists.values():
                    for row in rows:
                        await copy.write_row(row)
            await connection.execute(self._sql.upsert)
        if lists and self._target.form == "rank":
            await connection.execute(self._sql.surplus, [list(lists), [len(rows) for _, rows in lists.values()]])

    @asynccontextmanager
    async def _transaction(self, timeout_s: float | None) -> AsyncIterator[AsyncConnection[Any]]:
        """Runs a transaction on the only connection, and reconnects after an error.

        Raises:
            OSError: the database is unavailable or busy; try again.
            IsthmusError: it refuses the statement for good.
        """
        async with self._lock:
            try:
                async with asyncio.timeout(timeout_s):
                    connection = self._open or await self._connect()
                    async with connection.transaction():
                        if timeout_s is None:
                            await connection.execute("SET LOCAL statement_timeout = 0")
                        yield connection
                self._problem = None
            except psycopg.Error as error:
                await self._disconnect()
                raise self._translated(error) from error
            except TimeoutError:
                await self._disconnect()
                self._problem = f"did not answer within {timeout_s:g} s"
                raise ConnectionError(f"the database {self._problem}") from None
            except BaseException:
                await self._disconnect()
                raise

    async def _connect(self) -> AsyncConnection[Any]:
        target = self._target
        connection = await AsyncConnection.connect(self._dsn, autocommit=True, application_name="isthmus sink")
        try:
            _check_encoding(connection)
            await prepare(connection, target.schema, target.form, target.partitions, target.owner)
            await connection.execute(self._sql.stage)
            await connection.execute(_BOUNDS, _server_bounds(target.timeout_s))
        except BaseException:
            await connection.close()
            raise
        self._open = connection
        return connection

    async def _disconnect(self) -> None:
        if self._open is not None:
            connection, self._open = self._open, None
            await connection.close()

    def _translated(self, error: psycopg.Error) -> Exception:
        """Translates an error of the database, without the server's detail, which may quote a row."""
        state, said = error.sqlstate or "", _said(error)
        self._problem = said
        if _is_of_rows(error):
            return _RowsRefusedError(f"the database refuses a list ({state}: {said})")
        if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) or state.startswith(_TRY_AGAIN):
            return ConnectionError(f"the database does not take the lists: {said}")
        hint = f"schema {self._target.schema}, table {FORMS[self._target.form].name}"
        return IsthmusError(f"the database refuses the sink ({state}: {said}): check the rights of its role and {hint}")


def _change(entries: Sequence[Entry], form: Form, partition: int, generation: int) -> _Change:
    """Keeps the newest record of each user. A list that the table cannot hold deletes its user: the previous list is outdated."""
    newest = {entry.key: entry for entry in entries}
    erased = sum(entry.value is None for entry in newest.values())
    change = _Change({}, [], [], len(entries) - len(newest), erased)
    for entry in newest.values():
        user, rows = _user_of(entry.key), None
        if entry.value is not None:
            try:
                rows = _rows_of_record(entry.key, entry.value, form, partition, generation)
            except (msgspec.MsgspecError, ValueError) as error:
                change.refused.append(_Refused(entry.offset, str(error)))
        if user is not None and rows is not None:
            change.lists[user] = entry.offset, rows
        elif user is not None:
            change.deleted.append(user)
    return change


def _rows_of_record(key: bytes, value: bytes, form: Form, partition: int, generation: int) -> list[Row]:
    made = decode_list(value)
    if made.user_id.encode() != key:
        raise ValueError("its user_id is not its key")
    return rows_of(made, form, partition, generation)


def _with_patience(dsn: str) -> str:
    """Adds timeouts to a DSN, unless it has its own.

    Raises:
        IsthmusError: libpq cannot read it. The message does not show it, because it may hold a password.
    """
    try:
        known = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        raise IsthmusError(
            "setting postgres.dsn (ISTHMUS_POSTGRES__DSN) cannot be read: give a URL, such as postgresql://USER@HOST/DATABASE, or "
            "host=... dbname=...; in a URL, write special characters of a password as %XX"
        ) from None
    return make_conninfo(dsn, **{name: value for name, value in _PATIENCE.items() if name not in known})


def _said(error: psycopg.Error) -> str:
    """Returns the server's message without its detail, which may quote a row."""
    return error.diag.message_primary or " ".join(str(error).split()) or type(error).__name__


def _is_of_rows(error: psycopg.Error) -> bool:
    return isinstance(error, psycopg.DataError) or (error.sqlstate or "").startswith(_OF_ROWS)


def _position(row: Any) -> Position:
    epoch, generation, next_offset, as_of_ms, complete = row
    return Position(epoch, generation, next_offset, as_of_ms, complete)


def _server_bounds(timeout_s: float) -> tuple[list[str], list[str]]:
    """Returns names and values of settings that make the server end the transaction of a sink that was paused or cut off. Its lock
    would block the partition's next owner.
    """
    timeout_ms = str(max(1, round(timeout_s * 1_000)))
    bounds = {
        "idle_in_transaction_session_timeout": timeout_ms,
        "statement_timeout": timeout_ms,
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
    }
    return list(bounds), list(bounds.values())


def _check_encoding(connection: AsyncConnection[Any]) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != _ENCODING:
        raise IsthmusError(f"the database's encoding is {encoding}: make one with {_ENCODING}, which holds every user id")


def _user_of(key: bytes) -> str | None:
    """Returns the user of a key; None if PostgreSQL cannot hold the id, and so has no row of the user."""
    try:
        user = key.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in user else user
