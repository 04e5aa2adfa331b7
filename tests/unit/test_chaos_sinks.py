"""The checks of the sinks' chaos cases can fail: what stands there and should not, what came out of order, what is of two lists."""

from typing import Any

import pytest

from tests.chaos.sink_targets import RowCheck
from tests.chaos.sinks import differences
from tests.published_lists import ranks_of
from tests.webhooks import ERASED, LISTS, out_of_order


def test_each_kind_of_difference_is_counted() -> None:
    """A user too many, one who is missing, and one with another list."""
    found = differences({"a": ["x"], "erased": ["x"], "b": ["y"]}, {"a": ["x"], "b": ["z"], "c": ["x"]})
    assert (found["surplus"], found["missing"], found["other"]) == (1, 1, 1)
    assert found["examples_of"] == {"surplus": ["erased"], "missing": ["c"], "other": ["b"]}
    assert differences({"a": ["x"]}, {"a": ["x"]}) == {"surplus": 0, "missing": 0, "other": 0, "examples_of": {}}


@pytest.mark.parametrize("form", ["user", "rank"])
def test_rows_that_change_as_the_topic_does_are_right(form: str) -> None:
    """Newer lists, and in a later pass older ones first."""
    check = RowCheck(form)
    for number, generation in ((3, 1), (7, 1), (7, 1), (4, 2), (7, 2)):
        check.see("u1", f"u1-{number}", f"u1-{number}", 1 if form == "user" else ranks_of(number), generation)
    assert check.wrong == []


@pytest.mark.parametrize(
    ("first", "last", "rows", "what"),
    [
        ("u1-7", "u1-8", 5, "lists u1-7 to u1-8"),
        ("u1-9", "u1-9", 3, "3 rows"),
        ("u1-3", "u1-3", 4, "replaced the list 6"),
        ("u1--9", "u1--9", 2, "aborted"),
    ],
    ids=["of two lists", "too few ranks", "an older list", "an aborted one"],
)
def test_rows_that_no_prefix_of_the_topic_explains_are_seen(first: str, last: str, rows: int, what: str) -> None:
    check = RowCheck("rank")
    check.see("u1", "u1-6", "u1-6", ranks_of(6), 1)
    assert check.wrong == []
    check.see("u1", first, last, rows, 1)
    assert any(what in one for one in check.wrong)


def message(first: int, last: int, generation: int = 1, prefix: str = "lists") -> dict[str, Any]:
    lists = [{"offset": first}, {"offset": last}]
    return {"type": LISTS, "id": f"{prefix}-77-0-{generation}-{first}-{last}", "data": {"lists": lists}}


def erasure(offset: int) -> dict[str, Any]:
    return {"type": ERASED, "id": f"lists-77-0-1-{offset}-{offset}", "data": {"offset": offset}}


def test_a_message_may_come_again_and_be_cut_otherwise_after_a_crash() -> None:
    """The last one alone: the position was past the one before it. A later pass and a replay begin anew."""
    assert out_of_order([message(0, 4), erasure(5), message(6, 9), message(6, 7), message(8, 12)]) == []
    assert out_of_order([message(0, 4), message(5, 9), message(0, 4, generation=2), message(2, 3, prefix="again")]) == []


def test_a_message_that_goes_back_further_is_seen() -> None:
    """A list after the erasure that a later message told of."""
    assert len(out_of_order([message(0, 4), erasure(5), message(6, 9), message(3, 4)])) == 1
    assert len(out_of_order([message(0, 4), message(5, 9), message(5, 7), message(8, 9), message(6, 6)])) == 1
