"""Whether a user's state in a new application may replace the one in the former."""

import pytest

from stream.core.events import Source
from stream.core.reset import NO_RECORD_MS, Place
from stream.core.state import SOURCE_NUMBERS, ErasureMarker, Head
from stream.core.succession import Succession, is_marker_newer, succession

CLICK = SOURCE_NUMBERS[Source.CLICK]
PLACES = {source: Place(1, 5, NO_RECORD_MS) for source in Source}
"""The inputs hold the offsets from 5 on."""


def head(epoch: int, offset: int, newest_at: int = 100) -> Head:
    return Head(applied={CLICK: (epoch, offset)}, newest_at=newest_at)


@pytest.mark.parametrize(
    ("former", "new", "found"),
    [
        (head(1, 7), head(1, 7), Succession.NEWER),
        (head(1, 7), head(1, 9), Succession.NEWER),
        (head(1, 7), head(1, 6), Succession.BEHIND),
        (head(1, 7), head(3, 9), Succession.BEHIND),
        (head(1, 7), None, Succession.BEHIND),
        (head(1, 4), head(3, 0), Succession.NEWER),
        (head(1, 4), head(3, 0, newest_at=99), Succession.LOST),
        (head(1, 4), None, Succession.LOST),
        (head(2, 7), head(3, 0), Succession.NEWER),
        (head(1, 7), head(1, 7, newest_at=99), Succession.LOST),
    ],
)
def test_a_user_must_not_know_less_in_the_new_application(former: Head, new: Head | None, found: Succession) -> None:
    """By offsets where the inputs hold the former's last event, and else by the newest event time: files gave it, or nothing."""
    assert succession(former, new, None, PLACES) is found


def test_who_was_erased_meanwhile_may_know_less() -> None:
    """The erasure covers all that the former application knows."""
    for erased_at, found in ((100, Succession.NEWER), (99, Succession.BEHIND)):
        assert succession(head(1, 7), None, ErasureMarker(1, erased_at, 0, {}), PLACES) is found


def test_after_a_cut_of_the_log_the_new_application_has_the_epoch_of_the_topic() -> None:
    """It never saw the cut; the former one's epoch is the later one."""
    cut = {source: Place(1, 5, NO_RECORD_MS, ((6, 2),)) for source in Source}
    assert succession(head(2, 7), head(1, 7), None, cut) is Succession.NEWER
    assert succession(head(2, 7), head(1, 6), None, cut) is Succession.BEHIND


def test_a_marker_is_newer_if_it_covers_more() -> None:
    """Or if there is none in the new application."""
    marker = ErasureMarker(1, 50, 0, {})
    assert is_marker_newer(marker, None)
    assert is_marker_newer(marker, ErasureMarker(1, 49, 0, {}))
    assert not is_marker_newer(marker, ErasureMarker(1, 50, 9, {}))
