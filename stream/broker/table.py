"""The user table: a Faust table on RocksDB with a changelog, read and written per partition in batches.

Faust opens, restores and closes the stores. Writing goes past its one-record path: one `WriteBatch` holds a batch's states,
tombstones and the changelog offset up to which the store is complete. States of batches still in flight lie in an overlay.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from faust.types import TP
from rocksdict import WriteBatch

from stream.broker.topics import TABLE

ROCKSDB: Final = {"block_cache_size": 32 << 20, "write_buffer_size": 8 << 20, "max_open_files": 256}
"""Per partition; the defaults are 2 GiB of cache each."""
_HEADS: Final = (b"h", b"i")


class UserTable:
    """State records of the partitions that this worker owns."""

    def __init__(self, app: Any) -> None:
        self._table = app.Table(
            TABLE,
            key_type=bytes,
            value_type=bytes,
            partitions=app.conf.topic_partitions,
            options=dict(ROCKSDB),
            recovery_buffer_size=1_000,
        )
        self._overlay: dict[int, dict[bytes, tuple[bytes | None, int]]] = {}
        self.changelog: str = self._table.changelog_topic_name

    def states(self, partition: int) -> "PartitionStates":
        return PartitionStates(self._db(partition), self._overlay.setdefault(partition, {}))

    def hold(self, partition: int, writes: Mapping[bytes, bytes | None], number: int) -> None:
        """Shows a batch's new states to the next batches before they are durable."""
        self._overlay.setdefault(partition, {}).update((key, (value, number)) for key, value in writes.items())

    def write(self, partition: int, writes: Mapping[bytes, bytes | None], changelog_offset: int, number: int) -> None:
        """Makes a batch's states durable, together with the changelog offset that holds the last of them."""
        batch = WriteBatch(raw_mode=True)
        for key, value in writes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(self._table.data.offset_key, str(changelog_offset).encode())
        self._db(partition).write(batch)
        overlay = self._overlay.get(partition, {})
        for key in writes:
            if key in overlay and overlay[key][1] == number:
                del overlay[key]

    def drop_overlay(self) -> None:
        """Forgets what is in flight: after a revocation it is delivered again, here or elsewhere."""
        self._overlay.clear()

    def count_users(self, partition: int) -> int:
        """Users in one partition's store, by reading all its keys: at assignment only."""
        db, count = self._db(partition), 0
        for key in db.keys(from_key=_HEADS[0]):
            if key >= _HEADS[1]:
                break
            count += 1
        return count

    def changelog_tp(self, partition: int) -> TP:
        return TP(self.changelog, partition)

    def _db(self, partition: int) -> Any:
        return self._table.data._db_for_partition(partition)


class PartitionStates:
    """`stream.core.users.States` over one partition: the overlay first, then RocksDB."""

    def __init__(self, db: Any, overlay: Mapping[bytes, tuple[bytes | None, int]]) -> None:
        self._db = db
        self._overlay = overlay

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        overlay = self._overlay
        if not overlay:
            return list(self._db.get(list(keys)))
        absent = [key for key in keys if key not in overlay]
        stored = dict(zip(absent, self._db.get(absent), strict=True)) if absent else {}
        return [overlay[key][0] if key in overlay else stored[key] for key in keys]
