"""The gate: which model may become champion, by average precision per fresh purchase event."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.gate import Precisions, Verdict, bootstrap, decide, refuse_too_few

COUNT = 400


def scores(mean: float, *, seed: int = 0, count: int = COUNT) -> Precisions:
    """Returns zeros and ones with about that mean, as AP@3 of one-item purchases."""
    return (np.random.default_rng(seed).random(count) < mean).astype(np.float64)


def verdict(
    candidate: Precisions,
    champion: Precisions | None,
    popular: Precisions,
    *,
    same: bool = True,
    margin: float = 0.02,
    min_judged: int = 200,
) -> Verdict:
    rng = np.random.default_rng(7)
    return decide(candidate, champion, popular, same_configuration=same, margin=margin, min_judged=min_judged, rng=rng)


POPULAR = scores(0.3, seed=1)
GOOD = scores(0.8, seed=2)


def test_a_candidate_is_refused_with_too_few_fresh_events_and_the_reason_says_how_many_are_needed() -> None:
    """However good the candidate is on them."""
    result = verdict(np.ones(30), np.zeros(30), np.zeros(30))
    assert not result.promoted
    assert "only 30" in result.reason
    assert "200 are needed" in result.reason
    assert "170 more" in result.reason
    refusal = refuse_too_few(30, 200, grows=False)
    assert refusal is not None
    assert "--min-judged" in refusal.reason


def test_a_candidate_is_judged_on_just_enough_fresh_events() -> None:
    assert refuse_too_few(200, 200) is None
    assert verdict(np.ones(200), None, np.zeros(200)).promoted


def test_no_fresh_events_lead_to_a_refusal_not_an_error() -> None:
    empty = np.zeros(0)
    assert not verdict(empty, empty, empty).promoted


def test_without_a_champion_beating_popular_is_enough() -> None:
    result = verdict(GOOD, None, POPULAR)
    assert result.promoted
    assert f"{GOOD.mean():.4f} against {POPULAR.mean():.4f}" in result.reason


def test_a_candidate_no_better_than_popular_is_refused_even_if_it_beats_the_champion() -> None:
    result = verdict(POPULAR, np.zeros(COUNT), POPULAR)
    assert not result.promoted
    assert "not better than Popular" in result.reason


def test_the_same_configuration_is_promoted_if_it_is_no_worse() -> None:
    result = verdict(GOOD, GOOD, POPULAR)
    assert result.promoted
    assert "no worse than the champion within the margin 0.02" in result.reason


def test_a_new_configuration_that_is_just_as_good_is_refused() -> None:
    result = verdict(GOOD, GOOD, POPULAR, same=False)
    assert not result.promoted
    assert "not better than the champion" in result.reason


def test_a_new_configuration_that_is_better_is_promoted() -> None:
    better = GOOD.copy()
    better[:80] = 1.0
    assert verdict(better, GOOD, POPULAR, same=False).promoted


@pytest.mark.parametrize(("worse_by", "promoted"), [(2, True), (60, False)])
def test_the_margin_separates_slightly_worse_from_clearly_worse(worse_by: int, promoted: bool) -> None:
    """2 hits fewer of 400 are within a margin of 0.02; 60 are not."""
    worse = GOOD.copy()
    worse[np.flatnonzero(worse)[:worse_by]] = 0.0
    assert verdict(worse, GOOD, POPULAR).promoted is promoted


def test_a_wide_interval_does_not_count_as_no_worse() -> None:
    """The interval decides, not the mean: both have the same mean, each right in 10 of 40 events where the other is wrong."""
    one = np.tile([1.0, 1.0, 1.0, 0.0], 10)
    other = np.tile([1.0, 1.0, 0.0, 1.0], 10)
    assert one.mean() == other.mean()
    result = verdict(one, other, np.zeros(40), min_judged=30)
    assert not result.promoted
    assert "may be worse" in result.reason


def test_the_same_events_and_seed_give_the_same_verdict() -> None:
    assert verdict(GOOD, scores(0.79, seed=5), POPULAR) == verdict(GOOD, scores(0.79, seed=5), POPULAR)


grids = st.lists(st.sampled_from([0.0, 1 / 3, 0.5, 1.0]), min_size=60, max_size=60).map(np.array)


@settings(max_examples=30)
@given(grids, grids, grids, st.booleans(), st.sampled_from([0.05, 0.2, 1.0]))
def test_a_better_candidate_is_never_judged_worse(
    candidate: Precisions, champion: Precisions, popular: Precisions, same: bool, more: float
) -> None:
    """Raising every score of a promoted candidate never turns the verdict into a refusal."""
    before = verdict(candidate, champion, popular, same=same, min_judged=60)
    after = verdict(candidate + more, champion, popular, same=same, min_judged=60)
    assert after.promoted or not before.promoted


@settings(max_examples=30)
@given(grids, grids)
def test_swapping_candidate_and_champion_negates_the_difference(one: Precisions, other: Precisions) -> None:
    there = bootstrap(one, other, np.random.default_rng(0))
    back = bootstrap(other, one, np.random.default_rng(0))
    assert np.allclose([back.mean, back.low, back.high], [-there.mean, -there.high, -there.low])


@settings(max_examples=30)
@given(grids, grids, st.booleans())
def test_every_promoted_candidate_beats_popular_on_average(candidate: Precisions, popular: Precisions, same: bool) -> None:
    if verdict(candidate, None, popular, same=same, min_judged=60).promoted:
        assert candidate.mean() > popular.mean()
