"""The user table on a real RocksDB: what a batch writes together, and what a restore makes of changelog records."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from faust.stores.rocksdb import RocksDBOptions

from stream.core.records import PlainRecord
from stream.errors import IsthmusError
from stream.kafka.faust.changelog import Fetched, check_start, stamp, term_of
from stream.kafka.faust.user_table import ROCKSDB, UserTable
from stream.metrics import Metrics

OFFSET_KEY = b"__faust\0offset__"


class Tables:
    """A user table over one RocksDB per partition, without an app; `metrics` counts."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Metrics()
        self._folder = folder
        self._open: dict[int, object] = {}

    def table(self) -> UserTable:
        store = SimpleNamespace(offset_key=OFFSET_KEY, _db_for_partition=self._db)
        faust_table = SimpleNamespace(data=store, changelog_topic_name="changelog")
        app = SimpleNamespace(
            Table=lambda *_, **__: faust_table, conf=SimpleNamespace(topic_partitions=1), tables=SimpleNamespace()
        )
        return UserTable(app, self.metrics)

    def _db(self, partition: int) -> object:
        if partition not in self._open:
            self._open[partition] = RocksDBOptions(**ROCKSDB).open(self._folder / str(partition))
        return self._open[partition]


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Tables]:
    made = Tables(tmp_path)
    yield made
    made._open.clear()


def fetched(offset: int, records: Iterable[tuple[bytes, bytes | None, int]], position: int | None = None) -> Fetched:
    """Records of (key, value, term) from `offset` on."""
    made = [PlainRecord(offset + place, 0, key, value, stamp(term)) for place, (key, value, term) in enumerate(records)]
    return Fetched(0, made, offset + len(made) if position is None else position)


def restored(table: UserTable, batches: Iterable[Fetched], generation: int = 1) -> int:
    """Restores partition 0; gives the offset from which it was read."""
    start = table.restore_from(0)
    for batch in batches:
        table.restore(batch)
    table.restored(0, generation)
    return start


def test_a_restore_applies_values_and_tombstones_and_begins_where_the_store_ends(tables: Tables) -> None:
    """Positions count, not records: what is gone or only transactions need is never asked for again."""
    table = tables.table()
    first = fetched(0, [(b"ha", b"1", 1), (b"fa", b"2", 1), (b"hb", b"3", 1), (b"hb", None, 1)], position=9)
    assert restored(table, [first]) == 0
    assert table.states(0).get_many([b"ha", b"fa", b"hb"]) == [b"1", b"2", None]
    again = tables.table()
    assert restored(again, [fetched(9, [(b"ha", b"4", 2)])]) == 9
    assert again.states(0).get_many([b"ha"]) == [b"4"]
    assert tables.table().restore_from(0) == 10


def test_records_that_an_earlier_owner_wrote_late_are_left_out_and_counted(tables: Tables) -> None:
    """Also across a restart, for the store keeps the highest term; those of the same term or without one at first are kept."""
    table = tables.table()
    restored(table, [fetched(0, [(b"ha", b"old", 0), (b"ha", b"new", 3), (b"ha", b"late", 2), (b"hb", b"new", 3)])])
    assert table.states(0).get_many([b"ha", b"hb"]) == [b"new", b"new"]
    again = tables.table()
    restored(again, [fetched(4, [(b"hb", b"late", 2)])])
    assert again.states(0).get_many([b"hb"]) == [b"new"]
    assert tables.metrics.total("late_records") == 2


@pytest.mark.parametrize(("generation", "term"), [(9, 9), (1, 6)])
def test_a_new_owners_term_is_above_all_that_the_changelog_holds(tables: Tables, generation: int, term: int) -> None:
    """The group's generation where it is, one more than the highest where the group counts anew: else recovery would leave out
    what the new owner writes.
    """
    table = tables.table()
    restored(table, [fetched(0, [(b"ha", b"1", 5)])], generation)
    assert [term_of(record.headers) for record in table.changes(0, {b"ha": b"2", b"hb": None})] == [term, term]


def test_users_are_counted_through_restores_batches_and_restarts(tables: Tables) -> None:
    """By reading all keys once; afterwards by what changes."""
    table = tables.table()
    restored(table, [fetched(0, [(b"ha", b"1", 1), (b"fa", b"1", 1), (b"hb", b"1", 1), (b"mz", b"1", 1)])])
    assert table.count_users(0) == 2
    table.write(0, {b"hc": b"1", b"ha": None, b"hd": b"1"}, 7, 1, new_users=1)
    assert table.count_users(0) == 3
    again = tables.table()
    tail = [(b"hb", b"2", 9), (b"he", b"1", 9), (b"hc", None, 9), (b"hx", None, 9), (b"he", b"2", 9)]
    assert restored(again, [fetched(8, tail)]) == 8
    assert again.count_users(0) == 3
    assert again.count_users(0) == again._count_users(0)


def test_a_batch_of_tombstones_alone_and_an_empty_fetch_move_the_stores_end(tables: Tables) -> None:
    """A fetch may hold nothing but the markers of transactions."""
    table = tables.table()
    assert restored(table, [fetched(0, [(b"ha", None, 1)]), Fetched(0, (), 5)]) == 0
    assert tables.table().restore_from(0) == 5


def test_a_store_ahead_of_its_changelog_is_refused_with_what_to_do() -> None:
    """The changelog was created anew: reading on would leave out all of it."""
    check_start("changelog", 3, 8, 8)
    with pytest.raises(IsthmusError, match=r"changelog-3 up to offset 9, but it ends at 8.*worker\.state_dir"):
        check_start("changelog", 3, 9, 8)
