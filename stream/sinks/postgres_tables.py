"""The tables of the PostgreSQL sink: their creation and migration, their SQL, and the rows of a list."""

from datetime import UTC, datetime
from typing import Any, Final, Literal, LiteralString, NamedTuple

import msgspec
from psycopg import AsyncConnection
from psycopg.sql import SQL, Composed, Identifier
from psycopg.sql import Literal as Quoted

from stream.core import limits
from stream.core.outputs import Recommendation
from stream.errors import IsthmusError

Form = Literal["user", "rank"]
Row = tuple[Any, ...]
VERSION: Final = 1
_LOCK: Final = 0x1574_6D75_5351  # advisory lock of migrations; any constant that others do not use
_encode: Final = msgspec.json.Encoder().encode


class Owner(NamedTuple):
    """The application whose lists a schema holds.

    Attributes:
        application: The application's name.
        topic: The topic of its lists.
    """

    application: str
    topic: str


class TableForm(NamedTuple):
    """One form of the table.

    Attributes:
        name: Its name in the schema.
        columns: Its columns with their types, those of the primary key first.
        keys: Number of columns of the primary key.
    """

    name: LiteralString
    columns: tuple[tuple[LiteralString, LiteralString], ...]
    keys: int


_OF_LIST: Final[tuple[tuple[LiteralString, LiteralString], ...]] = (
    ("recommendation_id", "text NOT NULL"),
    ("occurred_at", "timestamptz NOT NULL"),
    ("model", "text NOT NULL"),
    ("model_version", "text NOT NULL"),
    ("fallback", "text"),
)
_OF_SINK: Final[tuple[tuple[LiteralString, LiteralString], ...]] = (
    ("partition", "integer NOT NULL"),
    ("generation", "integer NOT NULL"),
)
FORMS: Final[dict[Form, TableForm]] = {
    "user": TableForm(
        "recommendations",
        (
            ("user_id", "text NOT NULL"),
            *_OF_LIST,
            ("sessions", "integer NOT NULL"),
            ("conversations", "integer NOT NULL"),
            ("items", "jsonb NOT NULL"),
            ("reserve", "jsonb NOT NULL"),
            *_OF_SINK,
        ),
        1,
    ),
    "rank": TableForm(
        "recommended_items",
        (
            ("user_id", "text NOT NULL"),
            ("rank", "integer NOT NULL"),
            ("item", "text NOT NULL"),
            ("score", "double precision NOT NULL"),
            *_OF_LIST,
            *_OF_SINK,
        ),
        2,
    ),
}


def rows_of(made: Recommendation, form: Form, partition: int, generation: int) -> list[Row]:
    """Returns the rows of a list, in the order of the table's columns.

    Raises:
        ValueError: a text holds U+0000, which PostgreSQL's `text` and `jsonb` cannot hold (its manual, section 8.3).
    """
    texts = (made.user_id, made.recommendation_id, made.model.name, made.model.version, *(one.item for one in made.items))
    if any("\0" in text for text in (*texts, *(one.item for one in made.reserve))):
        raise ValueError("a text holds U+0000, which PostgreSQL cannot hold")
    of_list = (made.recommendation_id, _time(made.occurred_at), made.model.name, made.model.version)
    if form == "user":
        support, items, reserve = made.modalities, _encode(made.items).decode(), _encode(made.reserve).decode()
        own = (made.fallback, support.session, support.conversation, items, reserve)
        return [(made.user_id, *of_list, *own, partition, generation)]
    return [
        (made.user_id, one.rank, one.item, one.score, *of_list, one.fallback or made.fallback, partition, generation)
        for one in made.items
    ]


def _time(at_ms: int) -> datetime:
    """Clamps a timestamp to what a date can express: a producer may choose any timestamp."""
    return datetime.fromtimestamp(min(max(at_ms, limits.FIRST_TIME_MS), limits.LAST_TIME_MS) / 1_000, UTC)


class Statements(NamedTuple):
    """SQL for one schema and form."""

    stage: Composed
    clear: Composed
    copy: Composed
    upsert: Composed
    delete: Composed
    surplus: Composed
    sweep: Composed
    position: Composed
    lock: Composed
    begin: Composed
    move: Composed
    complete: Composed
    version: Composed


def statements(schema: str, form: Form) -> Statements:
    """Builds the SQL. Names are quoted, values are parameters."""
    shape = FORMS[form]
    table, positions, stage = Identifier(schema, shape.name), Identifier(schema, "positions"), Identifier("isthmus_stage")
    names = SQL(", ").join(Identifier(name) for name, _ in shape.columns)
    key = SQL(", ").join(Identifier(name) for name, _ in shape.columns[: shape.keys])
    new = SQL(", ").join(SQL("{0} = excluded.{0}").format(Identifier(name)) for name, _ in shape.columns[shape.keys :])
    where = SQL("WHERE table_name = {} AND partition = %s").format(Quoted(shape.name))
    known = SQL("SELECT epoch, generation, next_offset, as_of_ms, complete FROM {} {}").format(positions, where)
    versions = Identifier(schema, "version")
    ours = SQL("AND NOT EXISTS (SELECT 1 FROM {} WHERE version > {})").format(versions, Quoted(VERSION))
    return Statements(
        stage=SQL("CREATE TEMPORARY TABLE {} ({}) ON COMMIT DELETE ROWS").format(stage, _columns(shape)),
        clear=SQL("DELETE FROM {}").format(stage),
        copy=SQL("COPY {} ({}) FROM STDIN").format(stage, names),
        upsert=SQL(
            "INSERT INTO {} ({names}) SELECT {names} FROM {} ON CONFLICT ({key}) DO UPDATE SET {new}, updated_at = now()"
        ).format(table, stage, names=names, key=key, new=new),
        delete=SQL("DELETE FROM {} WHERE user_id = ANY(%s)").format(table),
        surplus=SQL(
            "DELETE FROM {} AS kept USING unnest(%s::text[], %s::integer[]) AS listed (user_id, ranks) "
            "WHERE kept.user_id = listed.user_id AND kept.rank > listed.ranks"
        ).format(table),
        sweep=SQL("DELETE FROM {} WHERE partition = %s AND generation < %s").format(table),
        position=known,
        lock=known + SQL(" FOR UPDATE"),
        begin=SQL(
            # Rows without a position: somebody deleted it, or restored the tables in part. A later generation sweeps them.
            "INSERT INTO {} AS kept (table_name, partition, epoch, as_of_ms, generation) VALUES ({}, %s, %s, %s, "
            "CASE WHEN EXISTS ({known}) THEN 0 ELSE (SELECT coalesce(max(generation), 0) + 1 FROM {} WHERE partition = %s) END) "
            "ON CONFLICT (table_name, partition) DO UPDATE SET epoch = excluded.epoch, generation = kept.generation + 1, "
            "next_offset = 0, as_of_ms = excluded.as_of_ms, complete = false "
            "RETURNING epoch, generation, next_offset, as_of_ms, complete"
        ).format(positions, Quoted(shape.name), table, known=known),
        move=SQL("UPDATE {} SET next_offset = %s, as_of_ms = %s {} {}").format(positions, where, ours),
        complete=SQL("UPDATE {} SET complete = true {} {}").format(positions, where, ours),
        version=SQL("SELECT max(version) FROM {}").format(versions),
    )


def _columns(shape: TableForm) -> Composed:
    return SQL(", ").join(SQL("{} {}").format(Identifier(name), SQL(kind)) for name, kind in shape.columns)


async def prepare(connection: AsyncConnection[Any], schema: str, form: Form, partitions: int, owner: Owner) -> None:
    """Creates or migrates schema and tables, and deletes the rows of partitions that the topic no longer has.

    Raises:
        IsthmusError: a later version made the tables, they are another application's, or they have the other form.
    """
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        await connection.execute("SET LOCAL client_min_messages = warning")  # "exists already" is no news
        version = await _version(connection, schema)
        refuse_later_version(schema, version)
        if version < 1:
            await _make(connection, schema)
        await _refuse_other_owner(connection, schema, owner)
        await _refuse_other_form(connection, schema, form)
        await _make_table(connection, schema, FORMS[form])
        await _drop_partitions(connection, schema, FORMS[form], partitions)


def refuse_later_version(schema: str, version: int) -> None:
    """Raises IsthmusError if a later version of the sink has made or migrated the tables."""
    if version > VERSION:
        raise IsthmusError(f"the tables of schema {schema} were made by a later version ({version}; this one knows {VERSION})")


async def _version(connection: AsyncConnection[Any], schema: str) -> int:
    """Returns the version of the tables; 0 if there are none."""
    found = await (await connection.execute("SELECT to_regclass(%s)", [f"{schema}.version"])).fetchone()
    if found is None or found[0] is None:
        return 0
    query = SQL("SELECT max(version) FROM {}").format(Identifier(schema, "version"))
    row = await (await connection.execute(query)).fetchone()
    return 0 if row is None or row[0] is None else int(row[0])


async def _make(connection: AsyncConnection[Any], schema: str) -> None:
    await connection.execute(SQL("CREATE SCHEMA IF NOT EXISTS {}").format(Identifier(schema)))
    await connection.execute(
        SQL("CREATE TABLE {} (version integer NOT NULL, made_at timestamptz NOT NULL DEFAULT now())").format(
            Identifier(schema, "version")
        )
    )
    await connection.execute(SQL("INSERT INTO {} (version) VALUES ({})").format(Identifier(schema, "version"), Quoted(VERSION)))
    await connection.execute(
        SQL(
            "CREATE TABLE {} (table_name text, partition integer, epoch bigint NOT NULL, generation integer NOT NULL DEFAULT 1, "
            "next_offset bigint NOT NULL DEFAULT 0, as_of_ms bigint NOT NULL, complete boolean NOT NULL DEFAULT false, "
            "PRIMARY KEY (table_name, partition))"
        ).format(Identifier(schema, "positions"))
    )


async def _refuse_other_owner(connection: AsyncConnection[Any], schema: str, owner: Owner) -> None:
    """Records the owner of the tables, or checks it: two applications in one schema would keep deleting each other's rows."""
    table = Identifier(schema, "owner")
    await connection.execute(SQL("CREATE TABLE IF NOT EXISTS {} (application text NOT NULL, topic text NOT NULL)").format(table))
    row = await (await connection.execute(SQL("SELECT application, topic FROM {}").format(table))).fetchone()
    if row is None:
        await connection.execute(SQL("INSERT INTO {} (application, topic) VALUES (%s, %s)").format(table), owner)
    elif (noted := Owner(*row)) != owner:
        raise IsthmusError(
            f"schema {schema} holds the lists of the application {noted.application} (topic {noted.topic}), and this is "
            f"{owner.application} (topic {owner.topic}): choose another postgres.db_schema. If that application is gone, or is "
            f"this one under another name, empty the table {schema}.owner: this one then takes the tables over"
        )


async def _refuse_other_form(connection: AsyncConnection[Any], schema: str, form: Form) -> None:
    """Refuses a second form: the first table would no longer be updated, and would keep erased users."""
    other = FORMS["rank" if form == "user" else "user"].name
    query = SQL("SELECT 1 FROM {} WHERE table_name = {} LIMIT 1").format(Identifier(schema, "positions"), Quoted(other))
    if await (await connection.execute(query)).fetchone() is not None:
        raise IsthmusError(
            f"schema {schema} holds {other}, which postgres.rows = {form!r} would let grow old: choose another postgres.db_schema, "
            f"or drop {schema}.{other} and delete its rows (table_name) from {schema}.positions"
        )


async def _make_table(connection: AsyncConnection[Any], schema: str, shape: TableForm) -> None:
    """Creates the table without statistics on user ids: ANALYZE would copy ids into the catalogue, which no erasure reaches."""
    table = Identifier(schema, shape.name)
    key = SQL(", ").join(Identifier(name) for name, _ in shape.columns[: shape.keys])
    await connection.execute(
        SQL("CREATE TABLE IF NOT EXISTS {} ({}, updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY ({}))").format(
            table, _columns(shape), key
        )
    )
    # Only where it is missing: the change waits for a VACUUM of the table, which may take hours.
    kept = "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attstattarget IS DISTINCT FROM 0"
    found = await (await connection.execute(kept, [f"{schema}.{shape.name}"])).fetchall()
    for name in {"user_id", "recommendation_id"} & {name for (name,) in found}:
        await connection.execute(SQL("ALTER TABLE {} ALTER COLUMN {} SET STATISTICS 0").format(table, Identifier(name)))


async def _drop_partitions(connection: AsyncConnection[Any], schema: str, shape: TableForm, partitions: int) -> None:
    """Deletes the rows of partitions that a recreated topic no longer has: no pass would sweep them."""
    gone = SQL("DELETE FROM {} WHERE table_name = {} AND partition >= %s").format(
        Identifier(schema, "positions"), Quoted(shape.name)
    )
    if (await connection.execute(gone, [partitions])).rowcount:
        await connection.execute(SQL("DELETE FROM {} WHERE partition >= %s").format(Identifier(schema, shape.name)), [partitions])
