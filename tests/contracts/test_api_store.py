"""What every store of the read side promises: embedded RocksDB, a Redis server, a Redis cluster."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from stream.api.redis_store import open_redis_store
from stream.api.rocksdb_store import RocksDBStore
from stream.api.store import Position, Row, Store, StoreAwayError, Table, must_reconcile
from stream.core.limits import DAY_MS
from stream.errors import IsthmusError
from stream.kafka.cluster.log_reader import Bounds
from tests.redis_server import RedisServer, redis_cluster, redis_or_skip

NOW = 1_800_000_000_000
EPOCH = 77
LISTS = Table.LISTS


@pytest.fixture(scope="module", params=["rocksdb", "redis", "redis cluster"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Redis, or an empty text."""
    if request.param == "rocksdb":
        yield ""
        return
    redis_or_skip()
    folder = tmp_path_factory.mktemp("redis")
    with redis_cluster(folder) if request.param == "redis cluster" else RedisServer(folder) as running:
        yield running.url


@pytest.fixture
async def store(server: str, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store = await open_redis_store(server, tmp_path.name) if server else RocksDBStore(tmp_path)
    yield opened
    await opened.close()


async def began(store: Store, table: Table = LISTS, partition: int = 0) -> Position:
    position = await store.begin(table, partition, EPOCH, NOW, await store.position(table, partition))
    assert position is not None
    return position


def upto(position: Position, next_offset: int) -> Position:
    return msgspec.structs.replace(position, next_offset=next_offset)


async def value(store: Store, key: bytes, table: Table = LISTS, partition: int = 0) -> bytes | None:
    return (await store.read(table, [(partition, key)]))[0]


async def test_rows_and_position_are_written_together(store: Store) -> None:
    """What was written is read, and the position says up to where."""
    position = upto(await began(store), 2)
    assert await store.write(LISTS, 0, [Row(b"a", b"1", 0), Row(b"b", b"2", 1)], position, after=0)
    assert await store.read(LISTS, [(0, b"a"), (0, b"b"), (0, b"c")]) == [b"1", b"2", None]
    assert await store.position(LISTS, 0) == position


async def test_the_last_row_of_a_key_holds(store: Store) -> None:
    """Deletions too."""
    rows = [Row(b"a", b"1", 0), Row(b"a", b"2", 1), Row(b"b", b"1", 2), Row(b"b", None, 3)]
    await store.write(LISTS, 0, rows, upto(await began(store), 4), after=0)
    assert await store.read(LISTS, [(0, b"a"), (0, b"b")]) == [b"2", None]


async def test_rows_that_the_position_covers_are_left_out(store: Store) -> None:
    """A writer that reads again from an older offset neither brings back nor deletes anything."""
    position = await began(store)
    await store.write(LISTS, 0, [Row(b"a", b"1", 0), Row(b"a", None, 1), Row(b"b", b"2", 2)], upto(position, 3), after=0)
    assert await store.write(LISTS, 0, [Row(b"a", b"1", 0), Row(b"b", None, 1)], upto(position, 2), after=0)
    assert await store.read(LISTS, [(0, b"a"), (0, b"b")]) == [None, b"2"]
    assert await store.position(LISTS, 0) == upto(position, 3)


@pytest.mark.parametrize("change", [{"epoch": EPOCH + 1}, {"generation": 9}])
async def test_an_outdated_writer_is_refused(store: Store, change: dict[str, int]) -> None:
    """One that was paused while another began to read the partition from its beginning."""
    position = await began(store)
    outdated = msgspec.structs.replace(upto(position, 1), **change)
    assert not await store.write(LISTS, 0, [Row(b"a", b"1", 0)], outdated, after=0)
    assert await value(store, b"a") is None
    assert await store.position(LISTS, 0) == position


async def test_a_new_generation_deletes_what_was_not_written_again(store: Store) -> None:
    """Until it is complete, the old rows are read; other partitions and tables are not touched."""
    await store.write(LISTS, 0, [Row(b"gone", b"1", 0), Row(b"kept", b"1", 1)], upto(await began(store), 2), after=0)
    await store.write(LISTS, 1, [Row(b"other", b"1", 0)], upto(await began(store, LISTS, 1), 1), after=0)
    await store.write(Table.STATES, 0, [Row(b"state", b"1", 0)], upto(await began(store, Table.STATES), 1), after=0)
    again = await began(store)
    await store.write(LISTS, 0, [Row(b"kept", b"2", 5)], upto(again, 6), after=0)
    assert await value(store, b"gone") == b"1"
    assert await store.complete(LISTS, 0, again) == 1
    assert await store.read(LISTS, [(0, b"gone"), (0, b"kept"), (1, b"other")]) == [None, b"2", b"1"]
    assert await value(store, b"state", Table.STATES) == b"1"
    position = await store.position(LISTS, 0)
    assert position is not None
    assert position.complete


async def test_a_writer_that_was_paused_past_its_session_overwrites_nothing(store: Store) -> None:
    """It wakes up with a batch that its successor has written and overtaken: neither its rows nor its tombstones, nor its position
    take effect, and it deletes nothing of a pass that its successor began.
    """
    paused = await began(store)
    late = [Row(b"a", b"old", 0), Row(b"b", None, 1)]
    newer = [Row(b"a", b"1", 0), Row(b"b", None, 1), Row(b"a", b"new", 2), Row(b"b", b"new", 3)]
    successor = msgspec.structs.replace(upto(paused, 4), as_of_ms=NOW + 20, term=2, complete=True)
    await store.write(LISTS, 0, newer, successor, after=0)
    assert await store.write(LISTS, 0, late, msgspec.structs.replace(upto(paused, 2), as_of_ms=NOW + 10), after=0)
    assert await store.write(LISTS, 0, [], msgspec.structs.replace(upto(paused, 4), as_of_ms=NOW + 10, term=2), after=4)
    assert await store.read(LISTS, [(0, b"a"), (0, b"b")]) == [b"new", b"new"]
    assert await store.position(LISTS, 0) == successor

    again = await store.begin(LISTS, 0, EPOCH + 1, NOW + 30, successor)
    assert again is not None
    assert not await store.write(LISTS, 0, [Row(b"a", b"late", 4)], upto(successor, 5), after=4)
    assert await store.complete(LISTS, 0, successor) is None
    assert await store.begin(LISTS, 0, EPOCH + 1, NOW + 40, successor) is None
    assert await store.read(LISTS, [(0, b"a"), (0, b"b")]) == [b"new", b"new"]
    assert await store.position(LISTS, 0) == again


async def test_a_batch_that_is_partly_written_gives_the_rest(store: Store) -> None:
    """A writer that wakes up with more than its successor has read so far leaves no gap and repeats nothing."""
    position = await began(store)
    await store.write(LISTS, 0, [Row(b"a", b"1", 0), Row(b"a", b"2", 1)], upto(position, 2), after=0)
    rows = [Row(b"a", b"1", 0), Row(b"a", b"2", 1), Row(b"b", b"3", 2)]
    assert await store.write(LISTS, 0, rows, upto(position, 3), after=0)
    assert await store.read(LISTS, [(0, b"a"), (0, b"b")]) == [b"2", b"3"]


async def test_a_store_that_lost_what_was_written_takes_nothing_that_does_not_follow(store: Store) -> None:
    """As a Redis that fell back on a replica which lagged behind: rows after a gap are refused, and so is the end of a pass."""
    position = await began(store)
    await store.write(LISTS, 0, [Row(b"a", b"1", 0)], upto(position, 1), after=0)
    assert not await store.write(LISTS, 0, [Row(b"b", b"1", 5)], upto(position, 6), after=5)
    assert not await store.write(LISTS, 0, [], upto(position, 5), after=5)
    assert await store.complete(LISTS, 0, upto(position, 5)) is None
    assert await value(store, b"b") is None


async def test_an_epoch_keeps_all_its_digits(store: Store) -> None:
    """It has 63 bits: more than a double holds."""
    epoch = (1 << 63) - 3
    position = await store.begin(LISTS, 0, epoch, NOW, None)
    assert position is not None
    assert await store.position(LISTS, 0) == position
    assert not await store.write(LISTS, 0, [], msgspec.structs.replace(position, epoch=epoch + 2), after=0)


async def test_a_large_pass_deletes_all_that_is_left_of_the_former_one(store: Store) -> None:
    """More rows than one call of a shared store looks at."""
    rows = [Row(b"user-%d" % number, b"1", number) for number in range(3_000)]
    await store.write(LISTS, 0, rows, upto(await began(store), 3_000), after=0)
    again = upto(await began(store), 3_000)
    await store.write(LISTS, 0, rows[:10], again, after=0)
    assert await store.complete(LISTS, 0, again) == 2_990
    assert (await value(store, b"user-9"), await value(store, b"user-10")) == (b"1", None)


async def test_keys_of_one_partition_are_not_those_of_another(store: Store) -> None:
    """Nor does a key that begins like another one collide with it."""
    await store.write(LISTS, 0, [Row(b"a", b"1", 0)], upto(await began(store), 1), after=0)
    await began(store, LISTS, 1)
    assert await store.read(LISTS, [(1, b"a"), (0, b"a\x00"), (0, b"")]) == [None, None, None]


async def test_a_store_that_is_opened_again_is_what_it_was(tmp_path: Path) -> None:
    """Rows and positions."""
    first = RocksDBStore(tmp_path)
    position = upto(await began(first), 1)
    await first.write(LISTS, 0, [Row(b"a", b"1", 0)], position, after=0)
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


async def test_a_redis_that_cannot_be_used_is_refused_without_its_password(tmp_path: Path) -> None:
    """One that may evict rows, and one that is not there; a store that goes away says so, and nothing else."""
    redis_or_skip()
    with RedisServer(tmp_path, "--maxmemory-policy", "allkeys-lru", "--maxmemory", "50mb") as evicting:
        with pytest.raises(IsthmusError, match="noeviction"):
            await open_redis_store(evicting.url, "x")
        with evicting.client() as client:
            client.config_set("maxmemory-policy", "noeviction")
        store = await open_redis_store(evicting.url, "x")
    with pytest.raises(StoreAwayError, match="does not answer"):
        await store.read(LISTS, [(0, b"a")])
    await store.close()
    with pytest.raises(IsthmusError, match=r"api\.redis_url") as refused:
        await open_redis_store(evicting.url.replace("//", "//user:secret@"), "x")
    assert "secret" not in str(refused.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def files_with(files: dict[str, bytes], text: bytes) -> list[str]:
    return [name for name, content in files.items() if text in content]


async def test_after_a_compaction_the_files_hold_nothing_of_an_erased_user(tmp_path: Path) -> None:
    """Neither a data file nor a log; the contents are random, so that compression cannot hide them."""
    store = RocksDBStore(tmp_path)
    erased, other = secrets.token_bytes(2_000), secrets.token_bytes(2_000)
    position = await began(store)
    await store.write(LISTS, 0, [Row(b"erased-user", erased, 0), Row(b"other", other, 1)], upto(position, 2), after=0)
    await store.write(LISTS, 0, [Row(b"erased-user", None, 2)], upto(position, 3), after=0)
    store.compact()
    await store.close()
    files = await asyncio.to_thread(contents, tmp_path)
    assert files_with(files, other[:64])
    assert files_with(files, b"erased-user") == files_with(files, erased[:64]) == []


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
