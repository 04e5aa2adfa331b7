"""The scale study's simulation keeps to what queueing must give, so that its figures mean something."""

import numpy as np
import pytest

from tests.benchmarks.load import ITEMS, after, new_users
from tests.benchmarks.scale import FIXED_S, ages, bytes_of, catch_up_s, skew
from tests.world import OrderRanker


def test_an_almost_idle_worker_takes_a_batch_of_one() -> None:
    """Then an age is the fixed cost and one event's."""
    p50, _ = ages(0.001, 50e-6, 8, 500.0, np.random.default_rng(1))
    assert p50 == pytest.approx(FIXED_S + 50e-6, rel=1e-6)


def test_ages_grow_with_the_load_and_the_tail_lies_above_the_middle() -> None:
    found = [ages(load, 50e-6, 8, 5.0, np.random.default_rng(1)) for load in (0.3, 0.6, 0.9)]
    assert found == sorted(found)
    assert all(p50 < p99 for p50, p99 in found)


def test_a_backlog_is_done_by_the_spare_capacity() -> None:
    """At half load what waited 10 s is done after another 10 s; others who are full never do it."""
    assert catch_up_s(0.5, 10, 1) == pytest.approx(10)
    assert catch_up_s(0.5, 10, 5) == pytest.approx(10 * 0.1 / 0.4)
    assert catch_up_s(0.9, 10, 8) == float("inf")


def test_more_users_to_a_partition_even_the_partitions_out() -> None:
    few, many = (skew(users, 16, 4, np.random.default_rng(1)) for users in (200, 20_000))
    assert many[0] < few[0]
    assert few[1] <= few[0]


def test_bytes_are_counted_over_the_timed_events_alone() -> None:
    """A user with a past writes more an event than a new one, whatever filled his state before."""
    ranker = OrderRanker(items=ITEMS)
    fresh = bytes_of(ranker, [], list(new_users(300)), 10)
    old = bytes_of(ranker, list(after(22, 10, 0)), list(after(24, 10, 0))[220:], 10)
    assert 0 < fresh.changelog < old.changelog
    assert fresh.state < old.state
    assert 0 < old.lists < 1_000
