"""The end of a demo: what was sent is counted only after encoder and worker have handled it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

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
