"""The scale study's simulation agrees with queueing theory, so that its figures mean something."""

import numpy as np
import pytest

from tests.benchmarks.load import ITEMS, after, new_users
from tests.benchmarks.scale import FIXED_S, ages, bytes_of, catch_up_s, skew
from tests.world import OrderRanker


def test_an_almost_idle_worker_handles_batches_of_one() -> None:
    """Then an age is the fixed cost plus the cost of one event."""
    p50, _ = ages(0.001, 50e-6, 8, 500.0, np.random.default_rng(1))
    assert p50 == pytest.approx(FIXED_S + 50e-6, rel=1e-6)


def test_ages_grow_with_the_load_and_p99_is_above_p50() -> None:
    measured = [ages(load, 50e-6, 8, 5.0, np.random.default_rng(1)) for load in (0.3, 0.6, 0.9)]
    assert measured == sorted(measured)
    assert all(p50 < p99 for p50, p99 in measured)


def test_spare_capacity_works_off_a_backlog() -> None:
    """At half load a backlog of 10 s takes another 10 s; workers without spare capacity never finish it."""
    assert catch_up_s(0.5, 10, 1) == pytest.approx(10)
    assert catch_up_s(0.5, 10, 5) == pytest.approx(10 * 0.1 / 0.4)
    assert catch_up_s(0.9, 10, 8) == float("inf")


def test_more_users_per_partition_even_out_the_partitions() -> None:
    few, many = (skew(users, 16, 4, np.random.default_rng(1)) for users in (200, 20_000))
    assert many[0] < few[0]
    assert few[1] <= few[0]


def test_bytes_are_counted_over_the_timed_events_only() -> None:
    """A user with a history writes more per event than a new one; what filled the state before does not count."""
    ranker = OrderRanker(items=ITEMS)
    fresh = bytes_of(ranker, [], list(new_users(300)), 10)
    old = bytes_of(ranker, list(after(22, 10, 0)), list(after(24, 10, 0))[220:], 10)
    assert 0 < fresh.changelog < old.changelog
    assert fresh.state < old.state
    assert 0 < old.lists < 1_000
