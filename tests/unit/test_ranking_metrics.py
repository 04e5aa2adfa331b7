"""HR@3 and MAP@3 on cases worked out by hand, and against scikit-learn's average precision and trec_eval."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.popular import Popular, prior_of
from tests.purchases import ITEMS, purchases
from training.metrics import evaluate, evaluate_one, metrics_by_type
from training.split import split


@pytest.mark.parametrize(
    ("ranked", "bought", "hit", "precision"),
    [
        (["a", "b", "c"], {"a"}, 1.0, 1.0),
        (["a", "b", "c"], {"b"}, 1.0, 1 / 2),
        (["a", "b", "c"], {"c"}, 1.0, 1 / 3),
        (["a", "b", "c"], {"d"}, 0.0, 0.0),
        (["a", "b", "c"], {"a", "c"}, 1.0, (1 + 2 / 3) / 2),
        (["a", "b", "c"], {"a", "b", "c", "d", "e"}, 1.0, 1.0),
        (["a"], {"a", "b"}, 1.0, 1 / 2),
        ([], {"a"}, 0.0, 0.0),
    ],
)
def test_one_list_has_the_metrics_computed_by_hand(ranked: list[str], bought: set[str], hit: float, precision: float) -> None:
    """AP@3 = sum of precisions at the hits / min(3, items bought)."""
    result = evaluate_one(ranked, bought)
    assert result[0] == hit
    assert result[1] == pytest.approx(precision)


@given(st.permutations(["a", "b", "c"]), st.sets(st.sampled_from(["a", "b", "c"]), min_size=1))
def test_with_all_items_ranked_it_is_scikit_learns_average_precision(ranked: list[str], bought: set[str]) -> None:
    """There are three items, so nothing is cut off."""
    from sklearn.metrics import average_precision_score

    relevant = [item in bought for item in ranked]
    assert evaluate_one(ranked, bought)[1] == pytest.approx(average_precision_score(relevant, [3, 2, 1]))


def test_many_lists_have_the_metrics_of_trec_eval() -> None:
    """Success@3 is HR@3. trec_eval divides AP@3 by all items bought, the paper by at most 3; the test converts."""
    from ir_measures import AP, Qrel, ScoredDoc, Success, iter_calc

    rng = np.random.default_rng(0)
    ours, judgements, scored = {}, [], []
    for event in map(str, range(200)):
        ranked = rng.permutation(list("abcdefgh")).tolist()
        bought = set(rng.choice(list("abcdefgh"), size=rng.integers(1, 6), replace=False).tolist())
        hit, precision = evaluate_one(ranked, bought)
        ours[event, "Success@3"], ours[event, "AP@3"] = hit, precision * min(3, len(bought)) / len(bought)
        judgements += [Qrel(event, item, 1) for item in bought]
        scored += [ScoredDoc(event, item, -float(rank)) for rank, item in enumerate(ranked)]
    theirs = {
        (metric.query_id, str(metric.measure)): metric.value for metric in iter_calc([Success @ 3, AP @ 3], judgements, scored)
    }
    assert theirs == pytest.approx(ours, abs=1e-4)


def test_the_post_filter_removes_items_before_ranks_are_counted() -> None:
    """Popularity alone would rank items that may not be offered."""
    popular = Popular("1", "f", ITEMS, prior_of([[item] * 1 for item in ITEMS], ITEMS) + np.linspace(0.6, 0, 6, dtype=np.float32))
    example = msgspec.structs.replace(purchases(1)[0], items=(ITEMS[3],))
    assert evaluate(popular, [example]).hits.tolist() == [0]
    assert evaluate(popular, [msgspec.structs.replace(example, excluded=ITEMS[:3])]).average_precisions.tolist() == [1]


def test_there_are_metrics_for_each_type_and_the_union() -> None:
    """They are means over the events of the type, and zero without events."""
    popular = Popular("1", "f", ITEMS, prior_of([[ITEMS[0]]], ITEMS))
    examples = [msgspec.structs.replace(example, items=(ITEMS[0],)) for example in purchases(4)]
    examples[0] = msgspec.structs.replace(examples[0], type="both", items=(ITEMS[5],))
    rows = {row.event_type: row for row in metrics_by_type(evaluate(popular, examples))}
    assert (rows["session"].events, rows["session"].hr3) == (3, 1.0)
    assert (rows["both"].events, rows["both"].hr3) == (1, 0.0)
    assert (rows["union"].events, rows["union"].map3) == (4, 0.75)
    assert rows["conversation"].events == 0


def test_the_split_is_by_time_without_overlap() -> None:
    """The last tenth is for test, the last tenth of the rest for validation."""
    training, validation, test = split(list(range(1_000)))
    assert [len(training), len(validation), len(test)] == [810, 90, 100]
    assert [*training, *validation, *test] == list(range(1_000))
