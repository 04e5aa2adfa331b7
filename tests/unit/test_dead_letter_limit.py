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
