"""What every store of the read side promises."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from stream.api.rocksdb_store import RocksDBStore
from stream.api.store import Position, Row, Store, Table, must_reconcile
from stream.core.limits import DAY_MS
from stream.errors import IsthmusError
from stream.kafka.cluster.log_reader import Bounds

NOW = 1_800_000_000_000
EPOCH = 77
LISTS = Table.LISTS


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = RocksDBStore(tmp_path)
    yield opened
    await opened.close()


async def began(store: Store, table: Table = LISTS, partition: int = 0) -> Position:
    return await store.begin(table, partition, EPOCH, NOW)


def upto(position: Position, next_offset: int) -> Position:
    return msgspec.structs.replace(position, next_offset=next_offset)


async def value(store: Store, key: bytes, table: Table = LISTS, partition: int = 0) -> bytes | None:
    return (await store.read(table, [(partition, key)]))[0]


async def test_rows_and_position_are_written_together(store: Store) -> None:
    """What was written is read, and the position says up to where."""
    position = upto(await began(store), 2)
    assert await store.write(LISTS, 0, [Row(b"a", b"1", 0), Row(b"b", b"2", 1)], position)
    assert await store.read(LISTS, [(0, b"a"), (0, b"b"), (0, b"c")]) == [b"1", b"2", None]
    assert await store.position(LISTS, 0) == position


async def test_the_last_row_of_a_key_holds(store: Store) -> None:
    """Deletions too."""
    rows = [Row(b"a", b"1", 0), Row(b"a", b"2", 1), Row(b"b", b"1", 2), Row(b"b", None, 3)]
    await store.write(LISTS, 0, rows, upto(await began(store), 4))
    assert await store.read(LISTS, [(0, b"a"), (0, b"b")]) == [b"2", None]


async def test_rows_that_the_position_covers_are_left_out(store: Store) -> None:
    """A writer that reads again from an older offset neither brings back nor deletes anything."""
    position = await began(store)
    await store.write(LISTS, 0, [Row(b"a", b"1", 0), Row(b"a", None, 1), Row(b"b", b"2", 2)], upto(position, 3))
    assert await store.write(LISTS, 0, [Row(b"a", b"1", 0), Row(b"b", None, 1)], upto(position, 2))
    assert await store.read(LISTS, [(0, b"a"), (0, b"b")]) == [None, b"2"]
    assert await store.position(LISTS, 0) == upto(position, 3)


@pytest.mark.parametrize("change", [{"epoch": EPOCH + 1}, {"generation": 9}])
async def test_an_outdated_writer_is_refused(store: Store, change: dict[str, int]) -> None:
    """One that was paused while another began to read the partition from its beginning."""
    position = await began(store)
    outdated = msgspec.structs.replace(upto(position, 1), **change)
    assert not await store.write(LISTS, 0, [Row(b"a", b"1", 0)], outdated)
    assert await value(store, b"a") is None
    assert await store.position(LISTS, 0) == position


async def test_a_new_generation_deletes_what_was_not_written_again(store: Store) -> None:
    """Until it is complete, the old rows are read; other partitions and tables are not touched."""
    await store.write(LISTS, 0, [Row(b"gone", b"1", 0), Row(b"kept", b"1", 1)], upto(await began(store), 2))
    await store.write(LISTS, 1, [Row(b"other", b"1", 0)], upto(await began(store, LISTS, 1), 1))
    await store.write(Table.STATES, 0, [Row(b"state", b"1", 0)], upto(await began(store, Table.STATES), 1))
    again = await began(store)
    await store.write(LISTS, 0, [Row(b"kept", b"2", 5)], upto(again, 6))
    assert await value(store, b"gone") == b"1"
    assert await store.complete(LISTS, 0) == 1
    assert await store.read(LISTS, [(0, b"gone"), (0, b"kept"), (1, b"other")]) == [None, b"2", b"1"]
    assert await value(store, b"state", Table.STATES) == b"1"
    position = await store.position(LISTS, 0)
    assert position is not None
    assert position.complete


async def test_keys_of_one_partition_are_not_those_of_another(store: Store) -> None:
    """Nor does a key that begins like another one collide with it."""
    await store.write(LISTS, 0, [Row(b"a", b"1", 0)], upto(await began(store), 1))
    await began(store, LISTS, 1)
    assert await store.read(LISTS, [(1, b"a"), (0, b"a\x00"), (0, b"")]) == [None, None, None]


async def test_a_store_that_is_opened_again_is_what_it_was(tmp_path: Path) -> None:
    """Rows and positions."""
    first = RocksDBStore(tmp_path)
    position = upto(await began(first), 1)
    await first.write(LISTS, 0, [Row(b"a", b"1", 0)], position)
    await first.close()
    again = RocksDBStore(tmp_path)
    assert (await value(again, b"a"), await again.position(LISTS, 0)) == (b"1", position)
    await again.close()


async def test_a_folder_has_one_process(tmp_path: Path) -> None:
    """The message says what is wrong."""
    store = RocksDBStore(tmp_path)
    with pytest.raises(IsthmusError, match=r"api\.name"):
        RocksDBStore(tmp_path)
    await store.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files_with(files: dict[str, bytes], text: bytes) -> list[str]:
    return [name for name, content in files.items() if text in content]


async def test_after_a_compaction_the_files_hold_nothing_of_an_erased_user(tmp_path: Path) -> None:
    """Neither a data file nor a log; the contents are random, so that compression cannot hide them."""
    store = RocksDBStore(tmp_path)
    erased, other = secrets.token_bytes(2_000), secrets.token_bytes(2_000)
    position = await began(store)
    await store.write(LISTS, 0, [Row(b"erased-user", erased, 0), Row(b"other", other, 1)], upto(position, 2))
    await store.write(LISTS, 0, [Row(b"erased-user", None, 2)], upto(position, 3))
    store.compact()
    await store.close()
    again = RocksDBStore(tmp_path)  # RocksDB's own list of files names first and last keys until it is opened again
    files = await asyncio.to_thread(contents, tmp_path)
    assert files_with(files, other[:64])
    assert files_with(files, b"erased-user") == files_with(files, erased[:64]) == []
    await again.close()


def test_a_store_is_reconciled_when_it_may_have_missed_something() -> None:
    """Never followed, recreated, cut off at either end, or away for longer than tombstones are kept."""
    held, position = Bounds(5, 20), Position(EPOCH, 1, 10, NOW, complete=True)
    away = NOW + 7 * DAY_MS
    assert must_reconcile(position, EPOCH, held, NOW + DAY_MS) is None
    assert must_reconcile(position, EPOCH, Bounds(5, 10), away) is None  # nothing came meanwhile
    reasons = [
        must_reconcile(None, EPOCH, held, NOW),
        must_reconcile(position, EPOCH + 1, held, NOW),
        must_reconcile(position, EPOCH, Bounds(0, 9), NOW),
        must_reconcile(position, EPOCH, Bounds(11, 20), NOW),
        must_reconcile(position, EPOCH, held, away),
    ]
    assert len({reason for reason in reasons if reason is not None}) == len(reasons)
