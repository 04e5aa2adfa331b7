"""Batches that are ready at the same time are processed together: one per partition number, up to a number of records."""

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
    """Like a Faust stream, which yields to the event loop before each event."""
    while True:
        await asyncio.sleep(0)
        event = await queue.get()
        if event is None:
            return
        yield event


async def groups(batches: list[Any], max_records: int) -> list[list[Any]]:
    queue: asyncio.Queue[Any] = asyncio.Queue()
    for event in [*batches, None]:
        queue.put_nowait(event)
    async with aclosing(coalesce_ready_batches(stream_of(queue), max_records)) as ready:
        return [group async for group in ready]


def numbers(grouped: list[list[Any]]) -> list[list[int]]:
    return [[event.message.partition for event in group] for group in grouped]


async def test_ready_batches_come_together_but_a_partition_number_never_twice() -> None:
    grouped = await groups([batch(0), batch(1), batch(2), batch(1), batch(0)], max_records=100)
    assert numbers(grouped) == [[0, 1, 2], [1, 0]]


async def test_a_group_has_at_most_max_records_unless_its_only_batch_has_more() -> None:
    grouped = await groups([batch(0, 6), batch(1, 4), batch(2, 1), batch(3, 50), batch(4, 1)], max_records=10)
    assert numbers(grouped) == [[0, 1], [2], [3], [4]]


async def test_a_single_batch_does_not_wait_for_another() -> None:
    """It is processed before the next one comes."""
    queue: asyncio.Queue[Any] = asyncio.Queue()
    queue.put_nowait(batch(0))
    async with aclosing(coalesce_ready_batches(stream_of(queue), 10)) as ready:
        assert numbers([await asyncio.wait_for(anext(ready), 5)]) == [[0]]
        queue.put_nowait(batch(1))
        assert numbers([await asyncio.wait_for(anext(ready), 5)]) == [[1]]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), max_size=30))
def test_no_batch_is_lost_repeated_or_reordered(wanted: list[tuple[int, int]]) -> None:
    batches = [batch(*arguments) for arguments in wanted]
    grouped = asyncio.run(groups(batches, max_records=10))
    assert [event for group in grouped for event in group] == batches
