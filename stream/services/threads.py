"""How many threads the numeric libraries of a process use.

A deployment scales by processes, and small batches lose by threads: on a busy machine BLAS threads spin waiting for each other. So
workers, encoders and the demo use one thread, or as many as OMP_NUM_THREADS says; training and benchmarks keep all cores.
"""

import os
import sys
from typing import Final

from stream.errors import IsthmusError

VARIABLE: Final = "OMP_NUM_THREADS"


def set_thread_variable() -> None:
    """Sets OMP_NUM_THREADS to 1 unless it is set. Libraries read it once, when they are loaded: call this before importing them."""
    os.environ.setdefault(VARIABLE, "1")


def limit_threads() -> None:
    """Limits the numeric libraries to OMP_NUM_THREADS threads, or one: those loaded already, and those loaded later.

    ONNX Runtime is not affected: its sessions get their own number (setting encoder.threads).

    Raises:
        IsthmusError: OMP_NUM_THREADS is not a number.
    """
    from threadpoolctl import threadpool_limits

    set_thread_variable()
    count = _count(os.environ[VARIABLE])
    threadpool_limits(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)


def _count(text: str) -> int:
    """The first level of OMP_NUM_THREADS, which may list one number per level of nested parallelism."""
    first = text.partition(",")[0].strip()
    if not first.isdecimal() or int(first) < 1:
        raise IsthmusError(f"{VARIABLE}={text} is not a number of threads: set it to 1 or more, or unset it")
    return int(first)
