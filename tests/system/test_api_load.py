"""The short forms of `make bench-streams` and `make bench-replica`: what arrives is right; how fast is not judged here."""

from pathlib import Path

import pytest

from tests.benchmarks.replica import measure
from tests.benchmarks.streams import Plan, turn
from tests.benchmarks.users import small_states
from tests.system.needs import broker_or_skip


@pytest.fixture(autouse=True)
def _broker() -> None:
    broker_or_skip()


def test_each_change_comes_to_its_users_stream_alone_and_once(tmp_path: Path) -> None:
    """Purchases by HTTP change the lists of users whose streams are open: each stream has its own user's lists, in the topic's
    order, none twice, and the last of them at the end.
    """
    row = turn(Plan(streams=60, rate=30, seconds=4, warm_s=1), tmp_path)
    assert row["end_to_end"]["of"] == row["purchases"] == 120
    wrong = ("foreign", "repeated", "unknown", "out_of_order", "not_the_last")
    assert {name: row[name] for name in wrong} == dict.fromkeys(wrong, 0)


def test_a_replica_serves_the_topics_lists_from_an_empty_store_and_from_a_kept_one(tmp_path: Path) -> None:
    """`measure` compares what each start serves with the topic, and with a user whom no topic knows. A kept store is not filled
    again: the two topics of four partitions are followed from where it ended.
    """
    rows = measure(tmp_path, 3_000, small_states())
    assert [(row["store"], row["users"]) for row in rows] == [("no users", 0), ("empty", 3_000), ("kept", 3_000)]
    assert [row["partitions_read_whole"] for row in rows] == [8, 8, 0]
