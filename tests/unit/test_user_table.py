"""The user table on a real RocksDB: writes of batches, and restores from changelog records."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stream.core import limits
from stream.core.records import PlainRecord
from stream.errors import IsthmusError
from stream.kafka.cluster.topics import specs
from stream.kafka.faust import user_table
from stream.kafka.faust.changelog import Fetched, check_start, term_headers, term_of
from stream.kafka.faust.user_table import UserTable
from stream.metrics import Metrics
from stream.settings import TopicSettings

OFFSET_KEY = b"__faust\0offset__"


class Tables:
    """Makes user tables over one RocksDB per partition, without an app."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Metrics()
        self.folder = folder
        self.open: dict[int, object] = {}
        self._options: Any = None

    def table(self) -> UserTable:
        store = SimpleNamespace(
            offset_key=OFFSET_KEY,
            _db_for_partition=self._db,
            _dbs=self.open,
            partition_path=lambda partition: self.folder / str(partition),
        )
        faust_table = SimpleNamespace(data=store, changelog_topic_name="changelog")
        app = SimpleNamespace(
            Table=lambda *_, **__: faust_table,
            conf=SimpleNamespace(topic_partitions=2),
            tables=SimpleNamespace(),
            timer=lambda _: lambda run: run,
        )
        table = UserTable(app, self.metrics)
        self._options = store.rocksdb_options
        return table

    def _db(self, partition: int) -> object:
        if partition not in self.open:
            self.open[partition] = self._options.open(self.folder / str(partition))
        return self.open[partition]


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[Tables]:
    tables = Tables(tmp_path)
    yield tables
    tables.open.clear()


def fetched(offset: int, records: Iterable[tuple[bytes, bytes | None, int]], position: int | None = None) -> Fetched:
    """Records of (key, value, term) from `offset` on."""
    plain = [PlainRecord(offset + index, 0, key, value, term_headers(term)) for index, (key, value, term) in enumerate(records)]
    return Fetched(0, plain, offset + len(plain) if position is None else position)


def restore(table: UserTable, batches: Iterable[Fetched], generation: int = 1) -> int:
    """Restores partition 0; returns the offset from which it is read."""
    start = table.start_restore(0)
    for batch in batches:
        table.restore(batch)
    table.finish_restore(0, generation)
    return start


def test_a_restore_applies_values_and_tombstones_and_begins_where_the_store_ends(tables: Tables) -> None:
    """The position decides, not the records: compacted offsets and control records are not read again."""
    table = tables.table()
    first = fetched(0, [(b"ha", b"1", 1), (b"fa", b"2", 1), (b"hb", b"3", 1), (b"hb", None, 1)], position=9)
    assert restore(table, [first]) == 0
    assert table.states(0).get_many([b"ha", b"fa", b"hb"]) == [b"1", b"2", None]
    again = tables.table()
    assert restore(again, [fetched(9, [(b"ha", b"4", 2)])]) == 9
    assert again.states(0).get_many([b"ha"]) == [b"4"]
    assert tables.table().start_restore(0) == 10


def test_records_that_an_earlier_owner_wrote_late_are_skipped_and_counted(tables: Tables) -> None:
    """Also after a restart, because the store keeps the highest term; records of the same term, or without one at first, apply."""
    table = tables.table()
    restore(table, [fetched(0, [(b"ha", b"old", 0), (b"ha", b"new", 3), (b"ha", b"late", 2), (b"hb", b"new", 3)])])
    assert table.states(0).get_many([b"ha", b"hb"]) == [b"new", b"new"]
    again = tables.table()
    restore(again, [fetched(4, [(b"hb", b"late", 2)])])
    assert again.states(0).get_many([b"hb"]) == [b"new"]
    assert tables.metrics.total("late_records") == 2


@pytest.mark.parametrize(("generation", "term"), [(9, 9), (1, 6)])
def test_a_new_owners_term_is_higher_than_any_in_the_changelog(tables: Tables, generation: int, term: int) -> None:
    """The group's generation if it is higher, otherwise one more than the highest, as after the group restarted its generations:
    a later recovery would skip what the new owner writes with a lower one.
    """
    table = tables.table()
    restore(table, [fetched(0, [(b"ha", b"1", 5)])], generation)
    assert [term_of(record.headers) for record in table.changes(0, {b"ha": b"2", b"hb": None})] == [term, term]


def test_users_are_counted_through_restores_batches_and_restarts(tables: Tables) -> None:
    """All keys are read once; afterwards only changes are counted."""
    table = tables.table()
    restore(table, [fetched(0, [(b"ha", b"1", 1), (b"fa", b"1", 1), (b"hb", b"1", 1), (b"mz", b"1", 1)])])
    assert table.count_users(0) == 2
    table.write(0, {b"hc": b"1", b"ha": None, b"hd": b"1"}, 7, 1, new_users=1)
    assert table.count_users(0) == 3
    again = tables.table()
    tail = [(b"hb", b"2", 9), (b"he", b"1", 9), (b"hc", None, 9), (b"hx", None, 9), (b"he", b"2", 9)]
    assert restore(again, [fetched(8, tail)]) == 8
    assert again.count_users(0) == 3
    assert again.count_users(0) == again._count_users(0)


@pytest.mark.parametrize(("days", "start", "found"), [(3.4, 2, b"1"), (3.6, 0, None), (-3.6, 0, None)])
def test_a_store_that_may_have_missed_tombstones_is_dropped_and_restored_whole(
    tables: Tables, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, days: float, start: int, found: bytes | None
) -> None:
    """The partition was with another worker, which erased `a`; its tombstone has left the changelog, which holds `b` and more."""
    table = tables.table()
    restore(table, [fetched(0, [(b"ha", b"1", 1)])])
    table.write(0, {b"hb": b"1"}, 1, 1, new_users=1)
    later_ms = user_table._now_ms() + int(days * limits.DAY_MS)
    monkeypatch.setattr(user_table, "_now_ms", lambda: later_ms)
    again = tables.table()
    held = [(b"hb", b"1", 2), (b"hc", b"1", 3)]
    assert restore(again, [fetched(start, held[1:] if start else held)]) == start
    assert again.states(0).get_many([b"ha", b"hb", b"hc"]) == [found, b"1", b"1"]
    assert again.count_users(0) == again._count_users(0) == (2 if found is None else 3)
    assert ("dropped and restored whole" in caplog.text) == (start == 0)
    assert tables.table().start_restore(0) > 0  # now it is as new as any


def test_a_store_of_unknown_age_is_dropped_and_a_long_restore_goes_on_where_it_was(tables: Tables) -> None:
    """Earlier versions did not write when a store was complete. A restore that a new assignment interrupts loses nothing."""
    table = tables.table()
    restore(table, [fetched(0, [(b"ha", b"1", 1)])])
    db = tables.open[0]
    del db[user_table._COMPLETE_AT_KEY]  # type: ignore[attr-defined]
    again = tables.table()
    assert again.start_restore(0) == 0
    assert again.states(0).get_many([b"ha"]) == [None]
    again.restore(fetched(0, [(b"ha", b"1", 1)]))
    assert again.start_restore(0) == 1


def test_a_store_is_dropped_long_before_the_changelog_drops_tombstones() -> None:
    (changelog,) = (spec for spec in specs(TopicSettings()) if spec.role == "changelog")
    assert int(changelog.settings["delete.retention.ms"]) >= 2 * user_table.MAX_AGE_MS


def test_a_batch_of_tombstones_alone_and_an_empty_fetch_move_the_stores_end(tables: Tables) -> None:
    """A fetch may contain nothing but control records."""
    table = tables.table()
    assert restore(table, [fetched(0, [(b"ha", None, 1)]), Fetched(0, (), 5)]) == 0
    assert tables.table().start_restore(0) == 5


def test_a_store_ahead_of_its_changelog_is_refused_with_instructions() -> None:
    """The changelog was recreated: reading on from the store's end would skip all of it."""
    check_start("changelog", 3, 8, 8)
    with pytest.raises(IsthmusError, match=r"changelog-3 up to offset 9, but the changelog ends at 8.*worker\.state_dir"):
        check_start("changelog", 3, 9, 8)


@pytest.mark.parametrize(
    ("key", "value", "term", "refused"),
    [
        (b"hb", b"2", 5, False),
        (b"hb", b"other", 5, True),
        (b"hc", b"2", 5, True),
        (b"hb", b"2", 6, True),
        (b"hb", b"late", 4, False),
    ],
)
def test_a_changelog_that_was_cut_and_refilled_under_the_store_is_refused(
    tables: Tables, key: bytes, value: bytes | None, term: int, refused: bool
) -> None:
    """At the offset of the last record that the store took there is another one. A late record there was never applied."""
    restore(tables.table(), [fetched(0, [(b"ha", b"1", 5), (b"hb", b"2", 5)])])
    again = tables.table()
    found = fetched(1, [(key, value, term), (b"hd", b"4", 9)])
    if refused:
        with pytest.raises(IsthmusError, match=r"changelog-0 was cut: at offset 1 .*worker\.state_dir"):
            restore(again, [found])
    else:
        restore(again, [found])
        assert again.states(0).get_many([b"hb", b"hd"]) == [b"2", b"4"]


def test_a_deleted_state_as_the_last_record_of_the_changelog_is_compared_too(tables: Tables) -> None:
    restore(tables.table(), [fetched(0, [(b"hb", b"2", 1), (b"hb", None, 1)])])
    with pytest.raises(IsthmusError, match="was cut"):
        restore(tables.table(), [fetched(1, [(b"hb", b"3", 9)])])


def test_a_last_record_that_was_compacted_away_is_no_reason_to_refuse(tables: Tables) -> None:
    restore(tables.table(), [fetched(0, [(b"ha", b"1", 1), (b"hb", b"2", 1)])])
    again = tables.table()
    restore(again, [fetched(2, [(b"hb", b"3", 1)])])
    assert again.states(0).get_many([b"hb"]) == [b"3"]


def test_a_changelog_that_was_cut_under_a_running_worker_stops_it(tables: Tables) -> None:
    """Only the broker's answers show it: they name offsets that were there before. The store keeps its own end for the restart."""
    table = tables.table()
    restore(table, [fetched(0, [(b"ha", b"1", 1), (b"hb", b"2", 1)])])
    table.write(0, {b"ha": b"3"}, 9, 1, new_users=0)
    with pytest.raises(IsthmusError, match=r"changelog-0 was cut: at offset 5 .*--reset-offsets --to-earliest"):
        table.write(0, {b"ha": b"4"}, 5, 2, new_users=0)
    assert table.states(0).get_many([b"ha"]) == [b"3"]
    assert tables.table().start_restore(0) == 10


async def test_the_store_of_a_partition_that_moved_is_deleted_once_nobody_would_use_it(tables: Tables) -> None:
    """It is not purged while it is closed, so it would keep erased users for ever. The stores that are open stay."""
    table = tables.table()
    for partition in range(2):
        table.start_restore(partition)
    gone, kept = tables.folder / "0", tables.folder / "1"
    tables.open.pop(0)
    await table._purge()
    assert gone.is_dir()
    long_ago_s = time.time() - user_table.MAX_AGE_MS / 1_000 - 60
    for path in (*gone.iterdir(), *kept.iterdir(), gone, kept):
        os.utime(path, (long_ago_s, long_ago_s))
    await table._purge()
    assert (gone.exists(), kept.is_dir()) == (False, True)
    assert table.start_restore(0) == 0
