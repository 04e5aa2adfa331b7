"""Which batches are handled together: those that lie ready, of different partition numbers, up to a number of records."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stream.kafka.agents.profile_agent import coalesce_ready_batches


def batch(partition: int, records: int = 1) -> Any:
    return SimpleNamespace(message=SimpleNamespace(partition=partition, value=[None] * records))


async def stream_of(queue: "asyncio.Queue[Any]") -> AsyncIterator[Any]:
    """As a Faust stream does: the loop gets a turn before each event."""
    while True:
        await asyncio.sleep(0)
        found = await queue.get()
        if found is None:
            return
        yield found


async def gathered(batches: list[Any], most: int) -> list[list[Any]]:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    for one in [*batches, None]:
        queue.put_nowait(one)
    async with aclosing(coalesce_ready_batches(stream_of(queue), most)) as ready:
        return [found async for found in ready]


def numbers(found: list[list[Any]]) -> list[list[int]]:
    return [[one.message.partition for one in round_] for round_ in found]


async def test_what_lies_ready_comes_at_once_and_a_number_never_twice() -> None:
    found = await gathered([batch(0), batch(1), batch(2), batch(1), batch(0)], most=100)
    assert numbers(found) == [[0, 1, 2], [1, 0]]


async def test_a_round_has_as_many_records_as_a_fetch_at_most_unless_one_batch_has_more() -> None:
    found = await gathered([batch(0, 6), batch(1, 4), batch(2, 1), batch(3, 50), batch(4, 1)], most=10)
    assert numbers(found) == [[0, 1], [2], [3], [4]]


async def test_nothing_is_waited_for() -> None:
    """A batch that lies there alone is handled before the next one comes."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    queue.put_nowait(batch(0))
    async with aclosing(coalesce_ready_batches(stream_of(queue), 10)) as ready:
        assert numbers([await asyncio.wait_for(anext(ready), 5)]) == [[0]]
        queue.put_nowait(batch(1))
        assert numbers([await asyncio.wait_for(anext(ready), 5)]) == [[1]]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), max_size=30))
def test_nothing_is_lost_doubled_or_turned_round(wanted: list[tuple[int, int]]) -> None:
    batches = [batch(*one) for one in wanted]
    found = asyncio.run(gathered(batches, most=10))
    assert [one for round_ in found for one in round_] == batches
