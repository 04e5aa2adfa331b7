"""The end of a demo: what was sent is counted only after encoder and worker have handled it, and nothing ends in silence."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

WAIT_S: Final = 20.0
_POLL_S: Final = 0.2
_SAY_EVERY_S: Final = 3.0


async def catch_up(behind: Callable[[], Awaitable[int]], say: Callable[[str], None], wait_s: float = WAIT_S) -> None:
    """Waits until `behind` returns 0, the number of records that are still on their way, for at most `wait_s`; says so."""
    began = time.monotonic()
    said_at = -_SAY_EVERY_S
    while records := await behind():
        waited_s = time.monotonic() - began
        if waited_s >= wait_s:
            say(f"{records} records are still on their way after {wait_s:.0f} s: the summary does not count them")
            return
        if waited_s - said_at >= _SAY_EVERY_S:
            said_at = waited_s
            say(f"stopped sending; waiting at most {wait_s:.0f} s for {records} records that are on their way")
        await asyncio.sleep(_POLL_S)


@contextmanager
def repeated(line: str, say: Callable[[str], None], every_s: float = _SAY_EVERY_S) -> Iterator[None]:
    """Says what is being done inside the context, and again while it lasts, from a thread: the work may block the event loop."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(every_s):
            say(f"still {line}")

    say(line)
    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
