"""The sink of a PostgreSQL database: what stands there is what the topic says, whatever was missed, cut or recreated meanwhile."""

import asyncio
from pathlib import Path

import pytest

from stream.api.store import Row
from tests import api
from tests.api import ITEMS, PARTITIONS
from tests.postgres import CommitCutter, Database, LocalPostgres
from tests.postgres_sink import LISTS, Form, sink, standing, store_of, upto, value
from tests.sinks import drop_tombstones, forget


@pytest.mark.parametrize("form", ["user", "rank"])
async def test_the_latest_list_of_each_user_stands_in_the_database(database: Database, form: Form) -> None:
    """A later list replaces an earlier one whole, with fewer items too; a tombstone deletes."""
    log = api.new_log()
    for user in ("a", "b", "erased"):
        api.put_list(log, user)
    async with sink(log, database.dsn, form) as running:
        await running.settled()
        assert standing(database, form) == {key: list(ITEMS[:5]) for key in ("a", "b", "erased")}
        api.put_list(log, "a", ITEMS[7:9])
        forget(log, "erased")
        await running.settled()
        assert standing(database, form) == {"a": list(ITEMS[7:9]), "b": list(ITEMS[:5])}
        api.put_list(log, "b", ())
        await running.settled()
    assert standing(database, form) == ({"a": list(ITEMS[7:9])} | ({"b": []} if form == "user" else {}))


async def test_a_row_says_what_the_list_says(database: Database) -> None:
    """Model, times, scores and what the list rests on."""
    log = api.new_log()
    api.put_list(log, "a", fallback="popularity")
    async with sink(log, database.dsn) as running:
        await running.settled()
    columns = "recommendation_id, occurred_at, model, model_version, fallback, sessions, conversations, items, reserve"
    ((made, at, model, version, fallback, *support, items, reserve),) = database.ask(
        f"SELECT {columns} FROM isthmus.recommendations"
    )
    assert (made, round(at.timestamp() * 1_000)) == (f"id-a-{'-'.join(ITEMS[:5])}", api.NOW)
    assert (model, version, fallback, support) == ("fusion", "7", "popularity", [1, 0])
    assert items[0] == {"item": "item-00", "rank": 1, "score": 0.99}
    assert [one["item"] for one in reserve] == list(ITEMS[5:15])


async def test_a_sink_that_was_down_while_a_user_was_erased_forgets_him(database: Database) -> None:
    """His tombstone is compacted away when it comes back: the partition is read anew, and what was not written again goes."""
    log = api.new_log()
    for user in ("erased", "other"):
        api.put_list(log, user)
    async with sink(log, database.dsn) as first:
        await first.settled()
    forget(log, "erased")
    api.put_list(log, "third")
    drop_tombstones(log)
    async with sink(log, database.dsn, reconcile_after_s=0) as late:
        await late.settled()
        assert late.metrics.total("sink_reconciled") > 0
    assert set(database.lists()) == {"other", "third"}


async def test_a_sink_that_was_away_shortly_continues(database: Database) -> None:
    """It reads only what came meanwhile."""
    log = api.new_log()
    api.put_list(log, "a")
    async with sink(log, database.dsn) as first:
        await first.settled()
        assert first.metrics.total("sink_reconciled") == PARTITIONS
    forget(log, "a")
    api.put_list(log, "b")
    async with sink(log, database.dsn) as again:
        await again.settled()
        assert again.metrics.total("sink_reconciled") == 0
    assert set(database.lists()) == {"b"}


async def test_a_recreated_topic_replaces_what_stood_there(database: Database) -> None:
    """What only its predecessor held is gone; with fewer partitions too."""
    log = api.new_log()
    for number in range(20):
        api.put_list(log, f"old-{number}")
    async with sink(log, database.dsn) as running:
        await running.settled()
    recreated = api.new_log()
    api.put_list(recreated, "old-3", ITEMS[7:9])
    async with sink(recreated, database.dsn) as again:
        await again.settled()
    assert database.lists() == {"old-3": list(ITEMS[7:9])}


@pytest.mark.parametrize("lost", ["nothing", "positions"])
async def test_a_database_that_is_restored_from_a_backup_catches_up(database: Database, lost: str) -> None:
    """Under the sink that runs. Rows of users who were erased since go, also where the backup holds rows without their positions:
    their tombstones may be compacted away, so everything is read again.
    """
    log = api.new_log()
    for user in ("erased", "a", "b"):
        api.put_list(log, user)
    async with sink(log, database.dsn) as running:
        await running.settled()
        for table in ("recommendations", "positions"):
            database.ask(f"CREATE TABLE backup_{table} AS TABLE isthmus.{table}")
        forget(log, "erased")
        api.put_list(log, "a", ITEMS[7:9])
        await running.settled()
        if lost == "positions":
            drop_tombstones(log)
            database.ask("DELETE FROM backup_positions")
        database.ask(
            "TRUNCATE isthmus.recommendations, isthmus.positions; "
            "INSERT INTO isthmus.recommendations TABLE backup_recommendations; INSERT INTO isthmus.positions TABLE backup_positions"
        )
        assert set(database.lists()) == {"erased", "a", "b"}
        for number in range(8):  # of every partition
            api.put_list(log, f"new-{number}")
        wanted = {"a": list(ITEMS[7:9]), "b": list(ITEMS[:5]), **{f"new-{number}": list(ITEMS[:5]) for number in range(8)}}
        await running.until(lambda: database.lists() == wanted)


async def test_rows_of_partitions_that_are_gone_go(database: Database) -> None:
    """A topic that was recreated with one partition."""
    many, one = store_of(database.dsn), store_of(database.dsn, partitions=1)
    for number in (0, 1):
        position = await many.begin(LISTS, number, 1, api.NOW)
        assert await many.write(LISTS, number, [Row(f"u{number}".encode(), value(f"u{number}"), 0)], upto(position, 1))
    await one.position(LISTS, 0)
    assert set(database.lists()) == {"u0"}
    for store in (many, one):
        await store.close()


async def test_an_older_offset_never_overwrites(database: Database) -> None:
    """A writer that reads again from before the position changes nothing, and one of an earlier pass is refused."""
    new, old = store_of(database.dsn), store_of(database.dsn)
    first = await new.begin(LISTS, 0, 1, api.NOW)
    await new.write(
        LISTS, 0, [Row(b"a", value("a", ("x",)), 0), Row(b"b", None, 1), Row(b"a", value("a", ("y",)), 2)], upto(first, 3)
    )
    assert await old.write(LISTS, 0, [Row(b"a", value("a", ("x",)), 0), Row(b"b", value("b"), 0)], upto(first, 1))
    assert database.lists() == {"a": ["y"]}
    assert await new.position(LISTS, 0) == upto(first, 3)
    await new.begin(LISTS, 0, 1, api.NOW)
    assert not await old.write(LISTS, 0, [Row(b"a", None, 3)], upto(first, 4))
    assert database.lists() == {"a": ["y"]}
    for store in (new, old):
        await store.close()


async def test_a_database_that_lost_commits_is_read_again_from_its_own_position(database: Database) -> None:
    """A failover to a server that lagged behind: the writer that knows more than the database does not leave a gap."""
    store = store_of(database.dsn)
    position = upto(await store.begin(LISTS, 0, 1, api.NOW), 5)
    await store.write(LISTS, 0, [], position)
    database.ask("UPDATE isthmus.positions SET next_offset = 3")
    assert not await store.write(LISTS, 0, [Row(b"a", value("a"), 5)], upto(position, 6))
    assert await store.position(LISTS, 0) == upto(position, 3)
    assert await store.write(LISTS, 0, [Row(b"a", value("a"), 5)], upto(position, 6))
    await store.close()


@pytest.mark.parametrize("form", ["user", "rank"])
async def test_a_connection_cut_between_commit_and_its_answer_changes_nothing(database: Database, form: Form) -> None:
    """The sink does not know whether it was committed: it asks, and goes on from there."""
    log = api.new_log()
    async with (
        CommitCutter(database.server.port, cuts=0) as cutter,
        sink(log, database.server.dsn(database.name, cutter.port), form) as running,
    ):
        await running.settled()
        for turn in range(5):
            cutter.cuts = 1
            for user in ("a", "b", "c"):
                api.put_list(log, user, ITEMS[turn : turn + 5 - turn])
            forget(log, "b")
            await running.settled()
            assert cutter.cuts == 0
            assert standing(database, form) == {key: list(ITEMS[turn:5]) for key in ("a", "c")}


async def test_a_database_that_is_away_is_waited_for(postgres_server: LocalPostgres) -> None:
    """Health says so meanwhile; then everything arrives that the topic says, and nothing that it no longer says."""
    del postgres_server  # one that may be stopped
    server = LocalPostgres().start()
    try:
        database, log = server.new_database(), api.new_log()
        api.put_list(log, "a")
        async with sink(log, database.dsn) as running:
            await running.settled()
            server.stop()
            api.put_list(log, "a", ITEMS[7:9])
            api.put_list(log, "b")
            forget(log, "b")
            await running.until(lambda: running.problem() is not None)
            server.start()
            await running.settled()
            assert running.problem() is None
            assert database.lists() == {"a": list(ITEMS[7:9])}
    finally:
        server.remove()


async def test_a_sink_that_is_paused_in_a_transaction_does_not_hold_up_the_next_owner(database: Database) -> None:
    """The server ends its transaction, and with it the lock of the partition; the paused sink tries again when it wakes."""
    paused, successor = store_of(database.dsn, timeout_s=2), store_of(database.dsn)
    position = await paused.begin(LISTS, 0, 1, api.NOW)

    async def pause_in_a_transaction() -> None:
        async with paused._transaction(None) as connection:
            await connection.execute("SELECT 1 FROM isthmus.positions FOR UPDATE")
            assert await successor.write(LISTS, 0, [Row(b"a", value("a"), 0)], upto(position, 1))

    with pytest.raises(OSError, match="connection"):
        await pause_in_a_transaction()
    assert await paused.position(LISTS, 0) == upto(position, 1)
    assert set(database.lists()) == {"a"}
    for store in (paused, successor):
        await store.close()


async def test_a_sweep_takes_as_long_as_it_takes(database: Database) -> None:
    """It reads the whole table: the bound of other transactions does not end it."""
    store = store_of(database.dsn, timeout_s=2)
    position = await store.begin(LISTS, 0, 1, api.NOW)
    assert await store.write(LISTS, 0, [Row(b"a", value("a"), 0)], upto(position, 1))
    again = await store.begin(LISTS, 0, 1, api.NOW)
    database.ask(
        "CREATE FUNCTION isthmus.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2.5); RETURN old; END $$"
    )
    database.ask("CREATE TRIGGER slow BEFORE DELETE ON isthmus.recommendations FOR EACH ROW EXECUTE FUNCTION isthmus.slow()")
    assert await store.complete(LISTS, 0, again) == 1
    assert database.lists() == {}
    await store.close()


def files_with(folder: Path, text: bytes) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and text in path.read_bytes()]


@pytest.mark.parametrize("form", ["user", "rank"])
async def test_an_erased_user_is_gone_from_the_files_after_vacuum_full_and_a_checkpoint(
    postgres_server: LocalPostgres, database: Database, form: Form
) -> None:
    """Tables, indexes, temporary files and statistics; the write-ahead log is the database's own."""
    log = api.new_log()
    erased = "erased-user-7c1f9a"
    for user in (erased, *(f"other-{number}" for number in range(50))):
        api.put_list(log, user)
    async with sink(log, database.dsn, form) as running:
        await running.settled()
        database.ask("ANALYZE")
        database.ask("CHECKPOINT")
        assert await asyncio.to_thread(files_with, postgres_server.data / "base", erased.encode())
        forget(log, erased)
        await running.settled()
        database.ask("VACUUM FULL")
        database.ask("CHECKPOINT")
        assert await asyncio.to_thread(files_with, postgres_server.data / "base", b"other-49")
        found = await asyncio.to_thread(files_with, postgres_server.data, erased.encode())
        assert [name for name in found if not name.startswith("pg_wal/")] == []


async def test_positions_are_kept_in_the_transaction_of_the_rows(database: Database) -> None:
    """Not after it: where the position cannot be written, neither are the rows."""
    store = store_of(database.dsn)
    position = upto(await store.begin(LISTS, 0, 1, api.NOW), 1)
    database.ask(
        "CREATE FUNCTION isthmus.refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF new.next_offset > 0 THEN RAISE 'no' USING ERRCODE = '55000'; END IF; RETURN new; END $$"
    )
    database.ask("CREATE TRIGGER refuse BEFORE UPDATE ON isthmus.positions FOR EACH ROW EXECUTE FUNCTION isthmus.refuse()")
    with pytest.raises(OSError, match="no"):
        await store.write(LISTS, 0, [Row(b"a", value("a"), 0)], position)
    assert database.lists() == {}
    database.ask("DROP TRIGGER refuse ON isthmus.positions")
    assert await store.write(LISTS, 0, [Row(b"a", value("a"), 0)], position)
    assert set(database.lists()) == {"a"}
    await store.close()
