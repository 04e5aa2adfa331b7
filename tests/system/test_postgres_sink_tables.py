"""The sink of a PostgreSQL database: what producers may write, whose tables they are, and who may use them."""

import random
import string
from typing import Any

import msgspec
import psycopg
import pytest

from stream.api.store import Row
from stream.core.outputs import Output
from stream.errors import IsthmusError
from stream.sinks.postgres_tables import Owner
from tests import api
from tests.api import ITEMS, TOPICS
from tests.postgres import Database
from tests.postgres_sink import LISTS, Form, sink, standing, store_of, upto, value
from tests.sinks import forget


async def test_a_list_that_the_database_cannot_hold_is_counted_and_stops_nothing(database: Database) -> None:
    """U+0000, and a list of a later version: the user has none there, because the former one is no longer true."""
    log = api.new_log()
    for user in ("a", "b", "c"):
        api.put_list(log, user)
    async with sink(log, database.dsn) as running:
        await running.settled()
        api.put_list(log, "a", ("it\0em",))
        api.append(log, TOPICS.recommendations, "b", Output(b"b", b'{"schema_version": 2}'))
        api.put_list(log, "nul\0user")
        forget(log, "nul\0user")
        await running.settled()
        assert database.lists() == {"c": list(ITEMS[:5])}
        assert running.metrics.total("sink_records", "postgres", "refused") >= 2


def changed(user: str, **fields: Any) -> bytes:
    """A list as only a foreign producer writes one."""
    return msgspec.json.encode({**msgspec.json.decode(value(user)), **fields})


UNFIT = {
    "another user's id": changed("other"),
    "a rank beyond 32 bits": changed("unfit", items=[{"item": "x", "rank": 1 << 40, "score": 0.5}]),
    "two items of one rank": changed("unfit", items=[{"item": item, "rank": 1, "score": 0.5} for item in "xy"]),
    "a lone surrogate": value("unfit").replace(ITEMS[0].encode(), b"\\ud800"),
    "a count beyond 32 bits": changed("unfit", modalities={"session": 1 << 40, "conversation": 0}),
}


IN_BOTH = ("another user's id", "a lone surrogate", "an id that no index entry can hold")
IN_ONE = (("rank", "a rank beyond 32 bits"), ("rank", "two items of one rank"), ("user", "a count beyond 32 bits"))


@pytest.mark.parametrize(("form", "kind"), [*((form, kind) for form in ("user", "rank") for kind in IN_BOTH), *IN_ONE])
async def test_a_record_that_the_table_cannot_hold_costs_its_user_alone(database: Database, form: Form, kind: str) -> None:
    """Whatever a foreign producer writes: the lists around it stand there, and an erasure of the same batch is done."""
    log, rng = api.new_log(), random.Random(19)
    long_id = "".join(rng.choice(string.ascii_letters) for _ in range(8_000))
    user = "unfit" if kind in UNFIT else long_id
    for known in ("erased", "unfit", "other"):
        api.put_list(log, known)
    async with sink(log, database.dsn, form) as running:
        await running.settled()
        api.append(log, TOPICS.recommendations, user, Output(user.encode(), UNFIT.get(kind) or value(user)))
        for number in range(20):
            api.put_list(log, f"u{number}", ITEMS[7:9])
        api.put_list(log, "other", ITEMS[7:9])
        forget(log, "erased")
        await running.settled()
        assert running.metrics.total("sink_records", "postgres", "refused") == 1
    wanted = {known: list(ITEMS[7:9]) for known in ("other", *(f"u{number}" for number in range(20)))}
    if user != "unfit":
        wanted["unfit"] = list(ITEMS[:5])
    assert standing(database, form) == wanted


async def test_texts_of_producers_stand_there_as_they_are(database: Database) -> None:
    """Quotes, markup, escapes of COPY and other scripts are text, in names and values."""
    log = api.new_log()
    users = ["'; DROP TABLE x; --", "\\N", "a\tb\nc\\", "<b>&amp;", "日本\u202e", '{"a":1}', "%s{}"]
    for user in users:
        api.put_list(log, user, (f"item {user}",))
    for form in ("user", "rank"):
        other = database.server.new_database()
        async with sink(log, other.dsn, form) as running:
            await running.settled()
        assert standing(other, form) == {user: [f"item {user}"] for user in users}


async def test_the_other_form_is_refused_where_it_would_leave_a_table_to_grow_old(database: Database) -> None:
    """The message says what to do."""
    first, second = store_of(database.dsn, "user"), store_of(database.dsn, "rank")
    await first.begin(LISTS, 0, 1, api.NOW)
    with pytest.raises(IsthmusError, match=r"postgres\.db_schema"):
        await second.position(LISTS, 0)
    for store in (first, second):
        await store.close()


async def test_another_application_does_not_take_the_tables_over(database: Database) -> None:
    """Each would begin anew and delete the other's rows, for ever. Whoever means it empties the table `owner`."""
    log = api.new_log()
    api.put_list(log, "a")
    async with sink(log, database.dsn) as running:
        await running.settled()
    for owner in (Owner("bank", TOPICS.recommendations), Owner("isthmus", "bank-lists")):
        other = store_of(database.dsn, owner=owner)
        with pytest.raises(IsthmusError, match=r"of the application isthmus .*postgres\.db_schema"):
            await other.position(LISTS, 0)
        await other.close()
    assert set(database.lists()) == {"a"}
    database.ask("DELETE FROM isthmus.owner")
    other = store_of(database.dsn, owner=Owner("bank", "bank-lists"))
    assert await other.position(LISTS, 0) is not None
    await other.close()


async def test_a_sink_that_runs_while_a_later_version_migrates_the_tables_ends(database: Database) -> None:
    """It would write rows of the former form into them."""
    store = store_of(database.dsn)
    position = await store.begin(LISTS, 0, 1, api.NOW)
    database.ask("INSERT INTO isthmus.version VALUES (2)")
    with pytest.raises(IsthmusError, match="later version"):
        await store.write(LISTS, 0, [Row(b"a", value("a"), 0)], upto(position, 1))
    assert database.lists() == {}
    await store.close()


async def test_a_sink_starts_while_its_table_is_vacuumed(database: Database) -> None:
    """Which takes hours on a large one, and holds off every change of the table's form."""
    store = store_of(database.dsn)
    position = await store.begin(LISTS, 0, 1, api.NOW)
    await store.close()
    with psycopg.connect(database.dsn) as vacuum:
        vacuum.execute("LOCK TABLE isthmus.recommendations IN SHARE UPDATE EXCLUSIVE MODE")  # as VACUUM does
        again = store_of(database.dsn, timeout_s=10)
        assert await again.write(LISTS, 0, [Row(b"a", value("a"), 0)], upto(position, 1))
        await again.close()


@pytest.mark.parametrize("dsn", ["postgresql://u:pass word@h/d", "postgres_ql://u:pass word@h/d", "host=h password='pass word"])
def test_a_dsn_that_cannot_be_read_is_refused_without_being_shown(dsn: str) -> None:
    """It may hold a password."""
    with pytest.raises(IsthmusError, match=r"postgres\.dsn") as refused:
        store_of(dsn)
    assert "word" not in str(refused.value).removesuffix("in a URL, write special characters of a password as %XX")


async def test_tables_of_a_later_version_are_left_alone(database: Database) -> None:
    """A newer sink made them."""
    store = store_of(database.dsn)
    await store.position(LISTS, 0)
    database.ask("INSERT INTO isthmus.version VALUES (99)")
    again = store_of(database.dsn)
    with pytest.raises(IsthmusError, match="later version"):
        await again.position(LISTS, 0)
    for one in (store, again):
        await one.close()


async def test_a_role_without_rights_is_told(database: Database) -> None:
    """The process ends with what to do, instead of trying for ever."""
    database.ask(f"CREATE ROLE reader_{database.name} LOGIN")
    store = store_of(database.dsn.replace("test@", f"reader_{database.name}@"))
    with pytest.raises(IsthmusError, match="rights"):
        await store.position(LISTS, 0)
    await store.close()
