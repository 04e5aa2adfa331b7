"""When deleted rows leave RocksDB's files: within a day. By default their bytes stay until the files that hold them happen to be
compacted, which may take weeks. What is stored, and by whom, is not known here.
"""

from typing import Any, Final

LOOK_S: Final = 3 * 3_600
"""How often the owner of a store calls `purge_deleted`. Four files of the first level are compacted together."""
OLD_S: Final = 12 * 3_600
"""How old a file of a middle level gets. What was not deleted is rewritten as often."""
_LOOKED: Final = b"__isthmus\0looked__"  # no row of worker or API begins like it
_ONE_CHANGE: Final = 1  # byte: any list of files is longer


def list_files_anew(options: Any) -> None:
    """Sets that each change of the files begins a new list of them (the manifest): a list names the first and the last key of each
    file that ever stood in it.
    """
    options.set_max_manifest_file_size(_ONE_CHANGE)


def compact_old_files(db: Any, old_s: int = OLD_S) -> None:
    """Sets that files older than `old_s` are compacted down to the last level, where deleted rows end.

    The binding (rocksdict 0.3.29) can set this on an open database alone, and it is not kept.
    """
    db.set_options({"ttl": str(old_s)})


def purge_deleted(db: Any, *, wait: bool = False) -> None:
    """Lets RocksDB compact in the background what is due; takes milliseconds. `wait`: until its file is written.

    It looks for old files only when a file comes, and a small store, whose files are all of the first level, has no old ones. So
    each call makes a file, with a row of its own and what was in memory.
    """
    db.put(_LOOKED, b"")
    db.flush(wait=wait)
