"""One benchmark at a time on a machine."""

import fcntl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive_run() -> Iterator[None]:
    """Exits if another benchmark is running: two runs on one machine would measure each other."""
    with (Path(tempfile.gettempdir()) / "isthmus-bench.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            sys.exit("another benchmark is running on this machine: wait until it has finished")
        yield
