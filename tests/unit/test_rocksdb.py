"""Deleted rows leave RocksDB's files without a forced compaction, in the stores of the API and of the worker."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from stream.api.rocksdb_store import RocksDBStore
from stream.kafka.faust.user_table import ROCKSDB, StoreOptions
from stream.rocksdb import compact_old_files, purge_deleted

WITHIN_S: Final = 60.0
ERASED: Final = (b"row-5-4d1f", secrets.token_bytes(200))
OTHER: Final = (b"row-6-77aa", secrets.token_bytes(200))
SMALL: Final = {"max_bytes_for_level_base": "262144"}


@pytest.fixture(
    params=[lambda folder: RocksDBStore(folder)._db, lambda folder: StoreOptions(**ROCKSDB).open(folder)], ids=["api", "worker"]
)
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """An open store."""
    opened: Callable[[Path], Any] = request.param
    db = opened(tmp_path)
    yield db
    db.close()


def found_in(folder: Path, texts: tuple[bytes, ...]) -> list[bytes]:
    contents = []
    for path in folder.rglob("*"):
        try:
            contents.append(path.read_bytes() if path.is_file() else b"")
        except FileNotFoundError:
            continue  # compacted away meanwhile
    return [text for text in texts if any(text in content for content in contents)]


def delete_and_purge(db: Any, folder: Path) -> None:
    assert found_in(folder, ERASED) == [*ERASED]
    db.delete(ERASED[0])
    deadline = time.monotonic() + WITHIN_S
    while found_in(folder, ERASED):
        assert time.monotonic() < deadline, "a deleted row is still in the files"
        purge_deleted(db)
        time.sleep(0.1)
    assert found_in(folder, OTHER) == [*OTHER]


def test_a_deleted_row_leaves_the_files_by_itself(db: Any, tmp_path: Path) -> None:
    """The value, and the key, which the list of files names too; another row stays."""
    for key, value in (ERASED, OTHER):
        db.put(key, value)
    db.flush()
    delete_and_purge(db, tmp_path)


def test_a_deleted_row_leaves_the_last_of_several_levels(db: Any, tmp_path: Path) -> None:
    """Where a deletion would rest on a level above the row until that is full, as in a large store."""
    for number in range(3_000):
        db.put(b"row-%04d" % number, secrets.token_bytes(1_000))
    for key, value in (ERASED, OTHER):
        db.put(key, value)
    db.flush()
    db.set_options(SMALL)
    db.compact_range(None, None)
    compact_old_files(db, 1)
    delete_and_purge(db, tmp_path)
