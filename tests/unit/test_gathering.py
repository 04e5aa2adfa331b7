"""When brokers hold a fetch back to gather records, and when they answer at once."""

import asyncio
from typing import Any

import pytest

from stream.kafka.faust.gathering import GATHER_MS, TRANSACTION_MS, Gathering

AT_ONCE = (1, 1_500)


class Fetcher:
    """Stands in for aiokafka's: what it would ask a broker for, and what the last fetch returns."""

    def __init__(self) -> None:
        self._fetch_min_bytes, self._fetch_max_wait_ms = AT_ONCE
        self.returns = True

    async def _proc_fetch_request(self, *_: Any) -> bool:
        return self.returns

    @property
    def asks(self) -> tuple[int, int]:
        return self._fetch_min_bytes, self._fetch_max_wait_ms


def taken(counts: list[int], apart_s: float) -> Fetcher:
    """After these numbers of records, one take after the other."""
    fetcher = Fetcher()
    gathering = Gathering(fetcher)
    for number, count in enumerate(counts):
        gathering.taken(count, 1_000 + number * apart_s)
    return fetcher


@pytest.mark.parametrize(("counts", "apart_s", "gathers"), [([1, 1], 0.1, False), ([1, 1], 0.001, True), ([1, 500], 0.1, True)])
def test_a_fetch_gathers_while_records_come_fast(counts: list[int], apart_s: float, gathers: bool) -> None:
    """At 10 a second a record never waits; at 1,000 several meet."""
    asks = taken(counts, apart_s).asks
    assert (asks[1] == GATHER_MS and asks[0] > 1) if gathers else asks == AT_ONCE


def test_a_fetch_that_gathered_in_vain_is_followed_by_one_that_waits_for_the_next_record() -> None:
    """Otherwise a worker would ask every few milliseconds for ever after the last record."""
    fetcher = taken([9, 9], 0.001)
    fetcher.returns = True
    asyncio.run(fetcher._proc_fetch_request("request"))
    assert fetcher.asks != AT_ONCE
    fetcher.returns = False
    asyncio.run(fetcher._proc_fetch_request("request"))
    assert fetcher.asks == AT_ONCE


def test_a_take_without_records_ends_the_gathering() -> None:
    """Faust asks once a second, whatever comes."""
    assert taken([9, 9, 0], 0.001).asks == AT_ONCE


def test_with_transactions_a_fetch_gathers_for_longer() -> None:
    """As long as a transaction takes, and at half the rate."""
    fetcher = Fetcher()
    gathering = Gathering(fetcher, TRANSACTION_MS)
    gathering.taken(1, 1_000.0)
    gathering.taken(2, 1_000.02)
    assert fetcher.asks[1] == TRANSACTION_MS > GATHER_MS
    gathering.taken(1, 1_000.05)
    assert fetcher.asks == AT_ONCE
