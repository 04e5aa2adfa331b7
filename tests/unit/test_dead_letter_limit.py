"""When a topic counts as broken, as opposed to some of its events."""

import pytest

from stream.core.dead_letters import DeadLetterLimit, dead_letter
from stream.core.events import Reason, Rejection, Source
from stream.core.outputs import Output
from stream.core.records import Coordinates, PlainRecord


def letters(count: int) -> list[Output]:
    rejection = Rejection(Reason.MAPPING, "could not be read (KeyError)")
    return [
        dead_letter(Source.CLICK, Coordinates("clicks", 1, 0, offset), PlainRecord(offset, 0, b"u", b"{}"), rejection)
        for offset in range(count)
    ]


@pytest.mark.parametrize(
    ("batches", "exceeded"),
    [
        ([(100, 100)] * 9, False),  # 900 records are too few
        ([(100, 100)] * 10, True),
        ([(1_000, 500)], False),
        ([(1_000, 501)], True),
        ([(1_000, 0)] * 3 + [(1_000, 600)], True),  # only the last records count
        ([(900, 0), (100, 90), (900, 400)], False),
        ([(10, 10)] * 99, False),
    ],
)
def test_the_share_of_the_last_records_decides(batches: list[tuple[int, int]], exceeded: bool) -> None:
    """The limit is half of at least 1,000 records."""
    limit = DeadLetterLimit()
    messages = [limit.add("clicks", records, letters(dead)) for records, dead in batches]
    assert [message is not None for message in messages] == [False] * (len(batches) - 1) + [exceeded]


def test_each_topic_has_its_own_share() -> None:
    """Many good clicks must not hide that no purchase can be read."""
    limit = DeadLetterLimit(window=100)
    assert limit.add("purchases", 60, letters(60)) is None
    assert limit.add("clicks", 10_000, []) is None
    message = limit.add("purchases", 60, letters(60))
    assert message is not None
    assert "purchases" in message
    assert "mapping: could not be read (KeyError)" in message


def test_a_share_of_one_never_stops() -> None:
    """For operators who want to drain a topic."""
    assert DeadLetterLimit(share=1, window=1).add("clicks", 5_000, letters(5_000)) is None


def add_over_time(limit: DeadLetterLimit, topic: str, dead: list[int], minutes: int) -> list[bool]:
    """Whether each of single records, so many minutes apart, exceeds the limit; `dead`: 1 for a dead letter."""
    times = [number * minutes * 60_000 for number in range(len(dead))]
    return [limit.add(topic, 1, letters(one), at, at) is not None for one, at in zip(dead, times, strict=True)]


@pytest.mark.parametrize("minutes", [7, 144, 60 * 24])
def test_a_topic_of_few_records_needs_ten(minutes: int) -> None:
    """Ten a day would fill a window of a thousand in three months."""
    assert add_over_time(DeadLetterLimit(), "erasures", [1] * 10, minutes) == [False] * 9 + [True]
    assert not any(add_over_time(DeadLetterLimit(), "erasures", [1, 0] * 20, minutes))
    mended = add_over_time(DeadLetterLimit(), "erasures", [1] * 4 + [0] * 12 + [1] * 4, minutes)
    assert not any(mended)
    assert any(add_over_time(DeadLetterLimit(), "erasures", [0] * 30 + [1] * 10, minutes))


def test_ten_records_of_a_busy_topic_say_nothing() -> None:
    """A burst of broken clicks is not an hour of them; records whose broker time is unknown are not rare either."""
    assert not any(add_over_time(DeadLetterLimit(), "clicks", [1] * 50, 1))
    assert DeadLetterLimit().add("clicks", 50, letters(50)) is None
    assert DeadLetterLimit().add("clicks", 50, letters(50), 10_000_000, 0) is None


def test_a_backlog_of_a_topic_of_few_records_counts_as_it_arrived() -> None:
    """One batch may hold the records of a week."""
    assert DeadLetterLimit().add("purchases", 12, letters(7), 0, 7 * 86_400_000) is not None
    assert DeadLetterLimit().add("purchases", 12, letters(6), 0, 7 * 86_400_000) is None
