"""How long brokers hold a fetch back, so that it returns more records at once.

Fetch, step, sends and acknowledgements cost about the same for one record as for twenty. A worker that takes each record as it
comes is busy all the time at a fifteenth of the rate that it can do. So while records come fast enough for several to meet within a
few milliseconds, brokers answer a fetch after that time; otherwise, and under load, at once.
"""

import time
from typing import Any, Final

GATHER_MS: Final = 12
"""A record waits half of it on average, no longer than it would wait for the rounds that are saved."""
TRANSACTION_MS: Final = 24
"""The same with transactions, which take longer than a round: a batch that comes during one waits for it to end."""
_RECORDS: Final = 2
"""Fewer are not worth waiting for."""
_MIN_BYTES: Final = 32_768
"""Where so much waits already, more would not make a round cheaper."""


class Gathering:
    """Sets how aiokafka's fetcher asks for records, before each of its fetches.

    A fetch that gathered in vain is followed by one that is answered at once: nobody polls an idle topic.
    """

    def __init__(self, fetcher: Any, gather_ms: int = GATHER_MS) -> None:
        self._fetcher = fetcher
        self._gather_ms = gather_ms
        self._at_once = fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms
        self._taken_at = time.monotonic()
        process = fetcher._proc_fetch_request

        async def processed(*request: Any) -> bool:
            has_records: bool = await process(*request)
            if not has_records:
                self._set(gathers=False)
            return has_records

        fetcher._proc_fetch_request = processed

    def taken(self, count: int, now: float) -> None:
        """Called with the number of records that were taken from the fetcher, before it fetches the next ones."""
        elapsed_s, self._taken_at = now - self._taken_at, now
        self._set(gathers=count * self._gather_ms >= _RECORDS * elapsed_s * 1_000)

    def _set(self, *, gathers: bool) -> None:
        asks = (_MIN_BYTES, self._gather_ms) if gathers else self._at_once
        self._fetcher._fetch_min_bytes, self._fetcher._fetch_max_wait_ms = asks
