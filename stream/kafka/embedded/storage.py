"""The embedded log's SQLite file: topics, records and committed offsets, with one writer, compacted when it is opened."""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from stream.core.records import PlainRecord
from stream.errors import IsthmusError

_SCHEMA = """
create table if not exists topic (name text primary key, partitions int, compacted int, append_time int, epoch int);
create table if not exists record (
    topic text, number int, offset int, timestamp int, key blob, value blob, headers blob, primary key (topic, number, offset)
) without rowid;
create table if not exists committed (grp text, topic text, number int, offset int, primary key (grp, topic, number)) without rowid;
"""
_COMPACT = """
delete from record where topic in (select name from topic where compacted) and offset < (
    select max(other.offset) from record other
    where other.topic = record.topic and other.number = record.number and other.key = record.key
) and offset < (select max(other.offset) from record other where other.topic = record.topic and other.number = record.number)
"""


class Storage:
    """One file, locked exclusively.

    Raises:
        IsthmusError: another process has it open, or it is not a log.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0.5)
        try:
            self._db.execute("pragma locking_mode = exclusive")
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")
            self._db.execute("begin exclusive")
            for statement in _SCHEMA.split(";"):
                self._db.execute(statement)
            self._db.execute("create index if not exists newest on record (topic, number, key, offset)")
            self._db.execute(_COMPACT)
            self._db.execute("commit")
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise IsthmusError(
                f"{path} is in use by another process, or is not a log ({error}): choose another --data folder"
            ) from None

    def topics(self) -> Iterator[tuple[str, int, bool, bool, int]]:
        """Yields (name, partitions, compacted, append_time, epoch)."""
        for name, partitions, compacted, append_time, epoch in self._db.execute("select * from topic"):
            yield name, partitions, bool(compacted), bool(append_time), epoch

    def records(self) -> Iterator[tuple[str, int, PlainRecord]]:
        for topic, number, offset, timestamp, key, value, headers in self._db.execute(
            "select * from record order by topic, number, offset"
        ):
            yield topic, number, PlainRecord(offset, timestamp, key, value, tuple(map(tuple, msgspec.msgpack.decode(headers))))

    def groups(self) -> Iterator[tuple[str, str, int, int]]:
        yield from self._db.execute("select * from committed")

    def create_topic(self, name: str, partitions: int, *, compacted: bool, append_time: bool, epoch: int) -> None:
        self._db.execute("insert into topic values (?, ?, ?, ?, ?)", (name, partitions, compacted, append_time, epoch))

    def write(self, records: Iterable[tuple[str, int, PlainRecord]], committed: Mapping[tuple[str, str, int], int]) -> None:
        """Writes records and committed offsets in one transaction."""
        rows = [
            (topic, number, record.offset, record.timestamp, record.key, record.value, msgspec.msgpack.encode(record.headers))
            for topic, number, record in records
        ]
        self._db.execute("begin")
        self._db.executemany("insert into record values (?, ?, ?, ?, ?, ?, ?)", rows)
        self._db.executemany(
            "insert or replace into committed values (?, ?, ?, ?)",
            [(*partition, offset) for partition, offset in committed.items()],
        )
        self._db.execute("commit")

    def close(self) -> None:
        self._db.close()
