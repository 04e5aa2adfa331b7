"""The user table: a Faust table on RocksDB with a changelog, read and written per partition in batches.

Faust opens and closes the stores. Writing and restoring go past its one-record path: one `WriteBatch` holds a batch's states,
tombstones, the changelog offset up to which the store is complete, the owner's term and the number of users. States of batches
still in flight lie in an overlay.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mode import get_logger
from rocksdict import WriteBatch

from stream.core.outputs import Output
from stream.core.state import HEAD_PREFIX
from stream.kafka.cluster.topics import TABLE
from stream.kafka.faust.changelog import Fetched, stamp, term_of
from stream.metrics import Metrics

logger = get_logger(__name__)
ROCKSDB: Final = {"block_cache_size": 1 << 20, "write_buffer_size": 8 << 20, "max_open_files": 256}
"""Per partition. Blocks come as fast from the system's page cache (3.4 to 3.9 us a state with 1 as with 32 MiB), and a larger cache
grows for as long as new users come.
"""
_TERM: Final = b"__isthmus\0term__"
_USERS: Final = b"__isthmus\0users__"


class UserTable:
    """State records of the partitions that this worker owns."""

    def __init__(self, app: Any, metrics: Metrics) -> None:
        self._metrics = metrics
        self._table = app.Table(
            TABLE,
            key_type=bytes,
            value_type=bytes,
            partitions=app.conf.topic_partitions,
            options=dict(ROCKSDB),
        )
        self._overlay: dict[int, dict[bytes, tuple[bytes | None, int]]] = {}
        self._terms: dict[int, int] = {}
        self._users: dict[int, int] = {}
        self.changelog: str = self._table.changelog_topic_name
        app.tables.restorable = self

    def states(self, partition: int) -> "PartitionStates":
        return PartitionStates(self._db(partition), self._overlay.setdefault(partition, {}))

    def hold(self, partition: int, writes: Mapping[bytes, bytes | None], number: int) -> None:
        """Shows a batch's new states to the next batches before they are durable."""
        self._overlay.setdefault(partition, {}).update((key, (value, number)) for key, value in writes.items())

    def changes(self, partition: int, writes: Mapping[bytes, bytes | None]) -> list[Output]:
        """A batch's new states as changelog records, stamped with the owner's term."""
        headers = stamp(self._terms[partition])
        return [Output(key, value, headers) for key, value in writes.items()]

    def write(
        self, partition: int, writes: Mapping[bytes, bytes | None], changelog_offset: int, number: int, new_users: int
    ) -> None:
        """Makes a batch's states durable, together with the changelog offset that holds the last of them."""
        batch = WriteBatch(raw_mode=True)
        for key, value in writes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        self._users[partition] += new_users
        self._seal(batch, partition, changelog_offset)
        overlay = self._overlay.get(partition, {})
        for key in writes:
            if key in overlay and overlay[key][1] == number:
                del overlay[key]

    def _seal(self, batch: WriteBatch, partition: int, changelog_offset: int) -> None:
        """Writes a batch with what it must be consistent with."""
        batch.put(self._table.data.offset_key, b"%d" % changelog_offset)
        batch.put(_TERM, b"%d" % self._terms[partition])
        if partition in self._users:
            batch.put(_USERS, b"%d" % self._users[partition])
        self._db(partition).write(batch)

    def restore_from(self, partition: int) -> int:
        """The first changelog offset that the store lacks."""
        db = self._db(partition)
        offset, term, users = db.get([self._table.data.offset_key, _TERM, _USERS])
        self._terms[partition] = int(term or 0)
        self._users.pop(partition, None)
        if users is not None:
            self._users[partition] = int(users)
        return 0 if offset is None else int(offset) + 1

    def restore(self, fetched: Fetched) -> None:
        """Applies changelog records to the store, but for those that an earlier owner wrote late."""
        partition, term = fetched.number, self._terms[fetched.number]
        batch, late = WriteBatch(raw_mode=True), 0
        counted = partition in self._users
        kept: dict[bytes, bool] = {}
        headers, stamped = None, 0
        for record in fetched.records:  # some microseconds a record decide how long a million users take
            key, value = record.key, record.value
            if record.headers != headers:
                headers, stamped = record.headers, term_of(record.headers)
            if stamped < term or key is None:
                late += 1
                continue
            term = stamped
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
            if counted:
                kept[key] = value is not None
        if late:
            self._metrics.counter("late_records").inc(late)
            logger.warning("%d changelog records of partition %d left out: an earlier owner wrote them late", late, partition)
        self._terms[partition] = term
        if counted:
            self._users[partition] += self._growth(partition, kept)
        self._seal(batch, partition, fetched.position - 1)

    def _growth(self, partition: int, kept: Mapping[bytes, bool]) -> int:
        """By how many users restored records change the store, before they are written."""
        heads = [key for key in kept if key.startswith(HEAD_PREFIX)]
        stored = self._db(partition).get(heads) if heads else []
        return sum(kept[key] for key in heads) - sum(value is not None for value in stored)

    def restored(self, partition: int, generation: int) -> None:
        """Begins our term: above every one that the changelog holds, though the group may have begun to count anew."""
        self._terms[partition] = max(generation, self._terms[partition] + 1)
        if partition not in self._users:
            self._users[partition] = self._count_users(partition)
            self._db(partition).put(_USERS, b"%d" % self._users[partition])

    def drop_overlay(self) -> None:
        """Forgets what is in flight: after a revocation it is delivered again, here or elsewhere."""
        self._overlay.clear()

    def count_users(self, partition: int) -> int:
        """Users in one partition's store."""
        return self._users[partition]

    def _count_users(self, partition: int) -> int:
        """By reading all keys, 2 us each: once, after the store was restored whole."""
        count = 0
        for key in self._db(partition).keys(from_key=HEAD_PREFIX):
            if not key.startswith(HEAD_PREFIX):
                break
            count += 1
        return count

    def _db(self, partition: int) -> Any:
        return self._table.data._db_for_partition(partition)


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
