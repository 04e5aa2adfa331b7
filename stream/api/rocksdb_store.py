"""The embedded store: one RocksDB in the process. Each replica of the API holds everything.

Key of a row: table (1 byte), partition (2 bytes), key. Value: generation (4 bytes), value. A position has the key
"p", table, partition.
"""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import Any, Final

import msgspec
from rocksdict import BottommostLevelCompaction, CompactOptions, Options, Rdict, WriteBatch

from stream.api.store import Position, Row, Table, continues, merged
from stream.errors import IsthmusError
from stream.rocksdb import LOOK_S, compact_old_files, list_files_anew, purge_deleted

_PREFIX: Final = Struct(">cH")
_GENERATION: Final = Struct(">I")
_TABLES: Final = {Table.LISTS: b"l", Table.STATES: b"s"}
_SWEPT: Final = 2_000  # rows looked at before other tasks get their turn
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Position).decode


class RocksDBStore:
    """`stream.api.store.Store` in a folder. Calls take microseconds, so they run on the event loop."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        options = Options(raw_mode=True)
        options.set_write_buffer_size(16 << 20)
        options.set_max_open_files(256)
        list_files_anew(options)
        try:
            self._db: Any = Rdict(str(folder), options)
        except Exception as error:
            raise IsthmusError(
                f"the store in {folder} cannot be opened ({error}): is another process of the same api.name running?"
            ) from error
        compact_old_files(self._db)

    async def position(self, table: Table, partition: int) -> Position | None:
        return self._position(table, partition)

    def _position(self, table: Table, partition: int) -> Position | None:
        stored = self._db.get(_position_key(table, partition))
        return None if stored is None else _decode(stored)

    async def begin(self, table: Table, partition: int, epoch: int, now_ms: int, former: Position | None) -> Position | None:
        kept = self._position(table, partition)
        if kept is not None and (former is None or not kept.same_pass(former)):
            return None
        position = Position(epoch, 1 if kept is None else kept.generation + 1, as_of_ms=now_ms)
        self._db.put(_position_key(table, partition), _encode(position))
        return position

    async def write(self, table: Table, partition: int, rows: Sequence[Row], position: Position, after: int) -> bool:
        kept = self._position(table, partition)
        if kept is None or not continues(kept, position, after):
            return False
        prefix = _PREFIX.pack(_TABLES[table], partition)
        stamp = _GENERATION.pack(position.generation)
        batch = WriteBatch(raw_mode=True)
        for key, value, offset, _ in rows:
            if offset < kept.next_offset:
                continue
            if value is None:
                batch.delete(prefix + key)
            else:
                batch.put(prefix + key, stamp + value)
        batch.put(_position_key(table, partition), _encode(merged(kept, position)))
        self._db.write(batch)
        return True

    async def complete(self, table: Table, partition: int, position: Position) -> int | None:
        kept = self._position(table, partition)
        if kept is None or not continues(kept, position, position.next_offset):
            return None
        prefix = _PREFIX.pack(_TABLES[table], partition)
        deleted = 0
        if kept.generation > 1:
            for number, (key, stamp) in enumerate(self._stamps(prefix)):
                if stamp < kept.generation:
                    self._db.delete(key)
                    deleted += 1
                if number % _SWEPT == _SWEPT - 1:
                    await asyncio.sleep(0)
        self._db.put(_position_key(table, partition), _encode(msgspec.structs.replace(kept, complete=True)))
        return deleted

    def _stamps(self, prefix: bytes) -> Iterator[tuple[bytes, int]]:
        """Key and generation of every row under a prefix."""
        for key, value in self._db.items(from_key=prefix):
            if not key.startswith(prefix):
                return
            yield key, _GENERATION.unpack_from(value)[0]

    async def read(self, table: Table, keys: Sequence[tuple[int, bytes]]) -> list[bytes | None]:
        letter = _TABLES[table]
        stored = self._db.get([_PREFIX.pack(letter, partition) + key for partition, key in keys])
        return [None if value is None else value[_GENERATION.size :] for value in stored]

    async def keep_purging(self) -> None:
        """Lets deleted rows leave the files within a day, for as long as it runs."""
        while True:
            purge_deleted(self._db)
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        self._db.flush()
        self._db.close()

    def compact(self) -> None:
        """Rewrites the files, so that deleted rows are no longer in them. Takes seconds for a million users."""
        self._db.flush()
        options = CompactOptions()
        options.set_bottommost_level_compaction(BottommostLevelCompaction.force())
        self._db.compact_range(None, None, options)
        purge_deleted(self._db, wait=True)


def _position_key(table: Table, partition: int) -> bytes:
    return b"p" + _PREFIX.pack(_TABLES[table], partition)
