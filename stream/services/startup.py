"""How a process begins: its logging, and what it says until it serves.

Imported before everything else, so that the first line comes at once: nothing here imports anything heavy.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from stream.services.client_log import condense_client_logs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPEAT_S: Final = 3.0
_POLL_S: Final = 0.2


def log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for noisy in ("aiokafka", "kafka", "faust", "mode"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    condense_client_logs()


class Startup:
    """Reports what a starting process is doing: each step when it begins, and again every 3 s while it lasts.

    A thread repeats the line, also while the main thread imports a library or waits for a broker.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.started = time.monotonic()
        self._say = say
        self._step = ""
        self._last_said = self.started
        self._watched: Callable[[], str | None] | None = None
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def say_through(self, say: Callable[[str], None]) -> None:
        """Sends later lines to `say`."""
        with self._lock:
            self._say = say

    def step(self, step: str) -> None:
        """Begins a step and says it; `step` reads as the end of "The process is ..."."""
        with self._lock:
            if step != self._step and not self._ended.is_set():
                self._step = step
                self._speak(step)

    def watch(self, current_step: Callable[[], str | None]) -> None:
        """Takes the step from `current_step` from now on; the start ends when that returns None.

        It is called from another thread: it may read, and must not change anything.
        """
        self._watched = current_step

    def end(self, line: str | None = None) -> None:
        """Ends the start, with a last line if there is one. A second end does nothing."""
        with self._lock:
            if not self._ended.is_set():
                self._ended.set()
                if line is not None:
                    self._say(line)

    def repeat_until_ended(self) -> None:
        while not self._ended.wait(_POLL_S):
            if self._watched is not None:
                step = self._watched()
                if step is None:
                    self.end("serving")
                    return
                self.step(step)
            with self._lock:
                if time.monotonic() - self._last_said >= REPEAT_S and not self._ended.is_set():
                    self._speak(f"still {self._step} ({time.monotonic() - self.started:.0f} s after the start)")

    def _speak(self, line: str) -> None:
        self._last_said = time.monotonic()
        self._say(line)


@contextmanager
def starting(say: Callable[[str], None], first_step: str) -> Iterator[Startup]:
    """Yields a `Startup` that has begun its first step and ends with the block at the latest."""
    startup = Startup(say)
    startup.step(first_step)
    thread = threading.Thread(target=startup.repeat_until_ended, name="startup", daemon=True)
    thread.start()
    try:
        yield startup
    finally:
        startup.end()
        thread.join()
