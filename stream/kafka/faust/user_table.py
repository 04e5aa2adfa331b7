"""The user table: a Faust table on RocksDB with a changelog, read and written per partition in batches.

Faust opens and closes the stores. Writes and restores bypass its one-record path: one `WriteBatch` contains a batch's states and
tombstones, the changelog offset up to which the store is complete, the owner's term and the number of users. States of batches in
flight are kept in an overlay in memory.
"""

import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from faust.stores.rocksdb import RocksDBOptions
from rocksdict import WriteBatch

from stream.core import limits
from stream.core.outputs import Output
from stream.core.records import Record
from stream.core.state import FACTS_PREFIX, HEAD_PREFIX
from stream.core.watermarks import Watermark, decode_watermark, watermark_key
from stream.errors import IsthmusError
from stream.kafka.cluster.partition import Partition
from stream.kafka.cluster.topics import TABLE, TOMBSTONE_RETENTION_MS
from stream.kafka.faust.changelog import Fetched, changelog_cut, changelog_recreated, term_headers, term_of
from stream.metrics import Metrics
from stream.rocksdb import LOOK_S, compact_old_files, list_files_anew, purge_deleted

logger = logging.getLogger(__name__)
ROCKSDB: Final = {"block_cache_size": 1 << 20, "write_buffer_size": 8 << 20, "max_open_files": 256}
"""Per partition. Blocks come as fast from the system's page cache (3.4 to 3.9 us a state with 1 as with 32 MiB), and a larger cache
grows for as long as new users come.
"""
_TERM_KEY: Final = b"__isthmus\0term__"
_USERS_KEY: Final = b"__isthmus\0users__"
_COMPLETE_AT_KEY: Final = b"__isthmus\0complete_at__"
"""When the store last held all that the changelog held, ms by the worker's clock."""
MAX_AGE_MS: Final = TOMBSTONE_RETENTION_MS // 2
"""A store that was complete longer ago is dropped: the changelog may have lost tombstones that it needs."""
_EPOCH_FILE: Final = "changelog-epoch"


def check_changelog(folder: Path, changelog: Mapping[str, int]) -> None:
    """Checks that the stores in a worker's folder continue this changelog, given by name and epoch. A new folder records the epoch.

    Raises:
        IsthmusError: the changelog was recreated; the message says how to rebuild the states.
    """
    ((name, epoch),) = changelog.items()
    path = folder / _EPOCH_FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{epoch}\n")
    elif path.read_text().strip() != str(epoch):
        raise IsthmusError(changelog_recreated(name))


class StoreOptions(RocksDBOptions):
    """Faust's, for stores whose files hold nothing of a deleted user a day later."""

    def open(self, path: Path, *, read_only: bool = False) -> Any:
        db = super().open(path, read_only=read_only)
        compact_old_files(db)
        return db

    def as_options(self) -> Any:
        options = super().as_options()
        list_files_anew(options)
        return options


class UserTable:
    """State records of the partitions that this worker owns. Implements `stream.kafka.faust.recovery.Restorable`."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._metrics = metrics
        self._table = app.Table(
            TABLE,
            key_type=bytes,
            value_type=bytes,
            partitions=app.conf.topic_partitions,
            options=dict(ROCKSDB),
        )
        self._table.data.rocksdb_options = StoreOptions(**ROCKSDB)
        self._partitions = set(range(app.conf.topic_partitions))
        app.timer(LOOK_S)(self._purge)
        self._overlay: dict[int, dict[bytes, tuple[bytes | None, int]]] = {}
        self._terms: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self._starts: dict[int, int] = {}  # the changelog offset after the last one that the store holds
        self.changelog: str = self._table.changelog_topic_name

    def states(self, partition: int) -> "PartitionStates":
        return PartitionStates(self._db(partition), self._overlay.setdefault(partition, {}))

    def add_to_overlay(self, partition: int, writes: Mapping[bytes, bytes | None], number: int) -> None:
        """Makes the new states of batch `number` visible to the next batches before they are durable."""
        self._overlay.setdefault(partition, {}).update((key, (value, number)) for key, value in writes.items())

    def changes(self, partition: int, writes: Mapping[bytes, bytes | None]) -> list[Output]:
        """A batch's new states as changelog records with the owner's term."""
        headers = term_headers(self._terms[partition])
        return [Output(key, value, headers) for key, value in writes.items()]

    def write(
        self, partition: int, writes: Mapping[bytes, bytes | None], changelog_offset: int, number: int, new_users: int
    ) -> None:
        """Writes the states of batch `number` to RocksDB, with the changelog offset of the last of them.

        Raises:
            IsthmusError: the changelog acknowledged an offset that it had reached before: it was cut while the worker ran.
        """
        if 0 <= changelog_offset < self._starts[partition]:
            raise IsthmusError(changelog_cut(self.changelog, partition, changelog_offset))
        batch = WriteBatch(raw_mode=True)
        for key, value in writes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        self._users[partition] += new_users
        batch.put(_COMPLETE_AT_KEY, b"%d" % _now_ms())
        self._commit(batch, partition, changelog_offset)
        overlay = self._overlay.get(partition, {})
        for key in writes:
            if key in overlay and overlay[key][1] == number:
                del overlay[key]

    def _commit(self, batch: WriteBatch, partition: int, changelog_offset: int) -> None:
        """Writes a batch together with the offset, term and number of users that belong to it."""
        self._starts[partition] = changelog_offset + 1
        batch.put(self._table.data.offset_key, b"%d" % changelog_offset)
        batch.put(_TERM_KEY, b"%d" % self._terms[partition])
        if partition in self._users:
            batch.put(_USERS_KEY, b"%d" % self._users[partition])
        self._db(partition).write(batch)

    def start_restore(self, partition: int) -> int:
        """The first changelog offset that the store lacks. A store that missed too much is emptied, to be restored whole."""
        self._drop_outdated(partition)
        db = self._db(partition)
        offset, term, users = db.get([self._table.data.offset_key, _TERM_KEY, _USERS_KEY])
        self._terms[partition] = int(term or 0)
        self._users.pop(partition, None)
        if users is not None:
            self._users[partition] = int(users)
        self._starts[partition] = 0 if offset is None else int(offset) + 1
        return self._starts[partition]

    def _drop_outdated(self, partition: int) -> None:
        """Empties a store that is so old that the tombstone of an erased user may have left the changelog unseen.

        A restore from an empty store counts as complete when it begins: a tombstone is kept that long after the record it deletes.
        """
        db, now_ms = self._db(partition), _now_ms()
        offset, complete_at = db.get([self._table.data.offset_key, _COMPLETE_AT_KEY])
        age_ms = None if complete_at is None else abs(now_ms - int(complete_at))
        if offset is not None and age_ms is not None and age_ms <= MAX_AGE_MS:
            return
        if offset is not None:
            age = (
                "it is not known when it was complete"
                if age_ms is None
                else f"it was complete {age_ms / limits.DAY_MS:.1f} days ago"
            )
            logger.warning(
                "the local store of %s-%d is dropped and restored whole: %s, and after %.1f days the changelog may have lost "
                "tombstones of erased users that the store still holds",
                self.changelog,
                partition,
                age,
                MAX_AGE_MS / limits.DAY_MS,
            )
            db.delete_range(b"\x00", b"\xff")
        db.put(_COMPLETE_AT_KEY, b"%d" % now_ms)

    def restore(self, fetched: Fetched) -> int:
        """Applies changelog records to the store, except those that an earlier owner wrote late; returns how many were missing.

        Raises:
            IsthmusError: the changelog no longer holds the record that the store holds as its last one.
        """
        partition = fetched.number
        if fetched.records and fetched.records[0].offset < self._starts[partition]:
            self._check_last(partition, fetched.records[0])
            fetched = fetched._replace(records=fetched.records[1:])
        batch = WriteBatch(raw_mode=True)
        present: dict[bytes, bool] = {}
        late = self._collect(fetched, batch, present)
        if late:
            self._metrics.counter("late_records").inc(late)
            logger.warning("skipped %d changelog records of partition %d: an earlier owner wrote them late", late, partition)
        if partition in self._users:
            self._users[partition] += self._growth(partition, present)
        self._commit(batch, partition, fetched.position - 1)
        return len(fetched.records)

    def _check_last(self, partition: int, record: Record) -> None:
        """Checks that the store holds the last changelog record that it claims to hold. A late record was never applied."""
        term, stored_term = term_of(record.headers), self._terms[partition]
        if record.key is None or term < stored_term:
            return
        if term > stored_term or self._db(partition).get(record.key) != record.value:
            raise IsthmusError(changelog_cut(self.changelog, partition, record.offset))

    def watermarks(self, partitions: Iterable[Partition]) -> dict[Partition, Watermark]:
        """The stored watermarks of inputs' partitions."""
        stored = {
            (topic, number): self._db(number).get(watermark_key(topic))  # a store is asked once per input, at an assignment
            for topic, number in partitions
        }
        return {partition: decode_watermark(value) for partition, value in stored.items() if value is not None}

    def _collect(self, fetched: Fetched, batch: WriteBatch, present: dict[bytes, bool]) -> int:
        """Adds records to the batch, and whether their keys then exist to `present`; returns how many were late and skipped."""
        term, late = self._terms[fetched.number], 0
        counted = fetched.number in self._users
        headers, record_term = None, 0
        for record in fetched.records:  # with a million users, each microsecond per record is a second
            key, value = record.key, record.value
            if record.headers != headers:
                headers, record_term = record.headers, term_of(record.headers)
            if record_term < term or key is None:
                late += 1
                continue
            term = record_term
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
            if counted:
                present[key] = value is not None
        self._terms[fetched.number] = term
        return late

    def _growth(self, partition: int, present: Mapping[bytes, bool]) -> int:
        """By how many users the restored records will change the store; called before they are written."""
        heads = [key for key in present if key.startswith(HEAD_PREFIX)]
        stored = self._db(partition).get(heads) if heads else []
        return sum(present[key] for key in heads) - sum(value is not None for value in stored)

    def finish_restore(self, partition: int, generation: int) -> None:
        """Begins this worker's term, higher than any in the changelog even if the group restarted its generations."""
        self._terms[partition] = max(generation, self._terms[partition] + 1)
        if partition not in self._users:
            self._users[partition] = self._count_users(partition)
            self._db(partition).put(_USERS_KEY, b"%d" % self._users[partition])
        self._db(partition).put(_COMPLETE_AT_KEY, b"%d" % _now_ms())

    def has_states(self, partition: int) -> bool:
        """Whether a partition's store holds any record; the table's own keys come before those of records."""
        return next(iter(self._db(partition).keys(from_key=FACTS_PREFIX)), None) is not None

    def drop_overlay(self) -> None:
        """Forgets the states of batches in flight: after a revocation these are fetched again, here or by another worker."""
        self._overlay.clear()

    def count_users(self, partition: int) -> int:
        """The number of users in one partition's store."""
        return self._users[partition]

    def _count_users(self, partition: int) -> int:
        """Counts by reading all keys, 2 us each: once, after the whole changelog was restored."""
        count = 0
        for key in self._db(partition).keys(from_key=HEAD_PREFIX):
            if not key.startswith(HEAD_PREFIX):
                break
            count += 1
        return count

    async def _purge(self) -> None:
        """Lets the states of erased users leave the files of all open stores within a day."""
        for db in list(self._table.data._dbs.values()):
            purge_deleted(db)
        self._delete_moved()

    def _delete_moved(self) -> None:
        """Deletes stores of partitions that other workers own once they would be dropped for their age: nobody purges them."""
        store = self._table.data
        for partition in self._partitions - store._dbs.keys():
            folder: Path = store.partition_path(partition)
            if folder.is_dir() and _now_ms() - _last_written_ms(folder) > MAX_AGE_MS:
                logger.info("the local store of %s-%d is deleted: another worker owns the partition", self.changelog, partition)
                shutil.rmtree(folder)

    def _db(self, partition: int) -> Any:
        return self._table.data._db_for_partition(partition)


def _last_written_ms(folder: Path) -> int:
    return max(path.stat().st_mtime_ns for path in (folder, *folder.iterdir())) // 1_000_000


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class PartitionStates:
    """`stream.core.user_state.StateStore` over one partition: the overlay first, then RocksDB."""

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
