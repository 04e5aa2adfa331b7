"""The name of a worker or encoder on its host: a lock beside its state directory says whether another process has it.

Beside, so that an operator may delete a process's state without making it a stranger to the broker (`stream.kafka.cluster.names`).
"""

import fcntl
import logging
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO, Final
from uuid import uuid4

import msgspec

from stream.errors import IsthmusError

logger = logging.getLogger("isthmus")
_ALLOWED: Final = re.compile(r"[^A-Za-z0-9._-]+")  # in a group instance id
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")  # unlike /etc/machine-id, not part of a machine's image


class _Note(msgspec.Struct):
    """What the lock file holds: its random id, and who held it last. `file` tells it from a copy of it (`_identity`)."""

    home: str
    host: str
    pid: int
    file: str = ""


@dataclass(frozen=True)
class Instance:
    """A name and its state directory, this process's until it ends, however it ends.

    Attributes:
        name: Of the process.
        host: Of this machine.
        folder: The state directory.
        home: The lock file's random id, the same at each start on one host until it boots. A copy of the file gets another id.
        lock: Keeps the lock; not to be closed.
    """

    name: str
    host: str
    folder: Path
    home: str
    lock: IO[str]


def take_name(state: Path, name: str | None, host: str | None) -> Instance:
    """Locks a name in the directory of all states. Without a name: the host's name with the first number that is free.

    Raises:
        IsthmusError: another process of this host has the name.
    """
    host = host or socket.gethostname()
    for candidate in _candidates(name, host):
        taken = _lock(state / f"{candidate}.lock", host)
        if isinstance(taken, _Note):
            if name is None:
                continue
            raise IsthmusError(
                f"the name {name} is taken: process {taken.pid} on {taken.host} goes on with it, in {state / name}. This one ends, "
                "and would end again. Give each process its own name (settings worker.name, encoder.name), or none: then it "
                "takes its host's name and a number"
            )
        lock, home = taken
        logger.info("this process has the name %s", candidate)
        return Instance(candidate, host, state / candidate, home, lock)
    raise AssertionError("the numbers do not end")


def take_all_names(state: Path, host: str | None) -> tuple[list[Instance], list[str]]:
    """Locks every name that a process of this machine ever had in the directory of all states, so that none starts with one.

    Returns what was free, and in words who has the others.
    """
    host = host or socket.gethostname()
    free, held = [], []
    for path in sorted(state.glob("*.lock")):
        taken = _lock(path, host)
        if isinstance(taken, _Note):
            held.append(f"{path.stem}, process {taken.pid} on {taken.host},")
        else:
            lock, home = taken
            free.append(Instance(path.stem, host, state / path.stem, home, lock))
    return free, held


def first_name(name: str | None, host: str | None) -> str:
    """The name that a process takes if nobody has it."""
    return next(_candidates(name, host or socket.gethostname()))


def _candidates(name: str | None, host: str) -> Iterator[str]:
    if name is not None:
        yield name
        return
    own = _ALLOWED.sub("-", host)[:200]
    yield from (f"{own}-{number}" for number in count(1))


def _lock(path: Path, host: str) -> tuple[IO[str], str] | _Note:
    """The locked file and its id; or who holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    is_free = True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        is_free = False
    file.seek(0)
    try:
        note = msgspec.json.decode(file.read(), type=_Note)
    except msgspec.MsgspecError:
        note = _Note(str(uuid4()), "this host", 0)
    if not is_free:
        file.close()
        return note
    identity = _identity(file)
    home = note.home if (note.host, note.file) == (host, identity) else str(uuid4())
    file.truncate(0)
    file.write(msgspec.json.encode(_Note(home, host, os.getpid(), identity)).decode())
    file.flush()
    return file, home


def _identity(file: IO[str]) -> str:
    """Of an open file: its inode, and the boot of its machine. Copies (image, snapshot, rsync) differ, on this machine too."""
    boot = _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""
    return f"{boot}/{os.fstat(file.fileno()).st_ino}"
