"""Models learn from what users own and are not eligible for, and do not infer the label from what could not be bought."""

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from msgspec import UNSET

from models.network import NeuralRanker
from stream.core.outputs import TrainingExample
from stream.core.ranking import Holdings, Rows
from tests.purchases import ITEMS, mixed_purchases, purchases
from tests.rankers import small
from training.example_arrays import examples_as_arrays
from training.loop import TrainingConfig
from training.metrics import evaluate
from training.train_system import train_system

HOLDERS = ("isthmus", "latent_feature+owned", "late_fusion+owned")
CONFIG = TrainingConfig(epochs=15, batch=64, learning_rate=0.05)
Change = Callable[[np.random.Generator, TrainingExample], TrainingExample]
NOTHING = Holdings((), ())


def changed(count: int, change: Change, *, first: int = 0) -> list[TrainingExample]:
    rng = np.random.default_rng(first)
    return [change(rng, example) for example in mixed_purchases(count, first=first)]


def trained(name: str, examples: Sequence[TrainingExample]) -> NeuralRanker:
    config = msgspec.structs.replace(CONFIG, network=small(name))
    ranker = train_system(name, examples[: -len(examples) // 5], examples[-len(examples) // 5 :], ITEMS, config).ranker
    assert isinstance(ranker, NeuralRanker)
    return ranker


def after_ownership(rng: np.random.Generator, example: TrainingExample) -> TrainingExample:
    """Half of the users own an item and buy the next one, whatever they looked at; the others buy what they looked at."""
    if rng.random() < 0.5:
        return msgspec.structs.replace(example, owned=(), ineligible=())
    owned = int(rng.integers(len(ITEMS)))
    return msgspec.structs.replace(example, items=(ITEMS[(owned + 1) % len(ITEMS)],), owned=(ITEMS[owned],), ineligible=())


def unknown(examples: Sequence[TrainingExample]) -> list[TrainingExample]:
    return [msgspec.structs.replace(example, owned=UNSET, ineligible=UNSET) for example in examples]


def precision(ranker: NeuralRanker, examples: Sequence[TrainingExample]) -> float:
    return float(evaluate(ranker, examples).average_precisions.mean())


@pytest.mark.parametrize("name", HOLDERS)
def test_what_is_owned_is_learned_and_unknown_is_not_nothing(name: str) -> None:
    """From examples in which it is known, and from those of 0.1.0. Where it is not known, it says nothing."""
    ranker = trained(name, [*mixed_purchases(150), *changed(450, after_ownership, first=150)])
    fresh = changed(300, after_ownership, first=600)
    owners = [example for example in fresh if example.owned]
    assert precision(ranker, fresh) > 0.9
    assert precision(ranker, mixed_purchases(200, first=600)) > 0.9
    assert precision(ranker, unknown(owners)) < 0.6


def one_left(rng: np.random.Generator, example: TrainingExample) -> TrainingExample:
    """A third of the users are not eligible for anything but the item that they buy, whatever they looked at."""
    if rng.random() < 0.67:
        return msgspec.structs.replace(example, owned=(), ineligible=())
    bought = str(rng.choice(ITEMS))
    rest = tuple(item for item in ITEMS if item != bought)
    return msgspec.structs.replace(example, items=(bought,), owned=(), ineligible=rest, excluded=rest)


def scores(ranker: NeuralRanker, *holdings: Holdings) -> Rows:
    """Of a user who looked at the first item, with each of these holdings."""
    looked = next(one for one in purchases(20) if one.items == ITEMS[:1])
    return ranker.rank_holders(np.tile(ranker.encode_many([looked.interactions]), (len(holdings), 1)), holdings)


@pytest.mark.parametrize("name", HOLDERS)
def test_a_user_whose_every_item_is_excluded_but_one_is_no_reason_to_believe_in_that_item(name: str) -> None:
    """He had no choice, so his example says nothing: the item that is left keeps the score that the interactions give it."""
    ranker = trained(name, changed(600, one_left))
    nothing, one = scores(ranker, NOTHING, Holdings((), ITEMS[:3] + ITEMS[4:]))
    assert nothing[0] > 0.8
    assert one[3] < 0.2


def test_only_items_that_could_be_offered_count_and_only_where_there_was_a_choice() -> None:
    """Of several items one must have been bought and another not."""
    first, second, third, fourth = purchases(4)
    examples = [
        msgspec.structs.replace(first, items=ITEMS[:1], excluded=ITEMS[2:4]),
        msgspec.structs.replace(second, items=ITEMS[:1], excluded=ITEMS[1:]),
        msgspec.structs.replace(third, items=ITEMS[:2], excluded=ITEMS[:2]),
        msgspec.structs.replace(fourth, items=(*ITEMS[:1], "unknown"), excluded=("unknown",)),
    ]
    ranker = trained("isthmus", purchases(60))
    arrays = examples_as_arrays(examples, [one.interactions for one in examples], ranker.featurizer, ITEMS)
    assert arrays.choices.tolist() == [[1, 1, 0, 0, 1, 1], [0] * 6, [0] * 6, [1] * 6]
    assert arrays.select(np.array([1, 0])).choices.tolist() == [[0] * 6, [1, 1, 0, 0, 1, 1]]


def test_selections_keep_each_examples_holdings() -> None:
    """Also where interactions become examples of their own."""
    examples = [
        msgspec.structs.replace(example, owned=owned, ineligible=ineligible)
        for example, owned, ineligible in zip(purchases(3), (ITEMS[:1], (), UNSET), (ITEMS[1:2], (), UNSET), strict=True)
    ]
    ranker = trained("isthmus", purchases(60))
    arrays = examples_as_arrays(examples, [one.interactions * 2 for one in examples], ranker.featurizer, ITEMS)
    single = arrays.select(np.array([2, 0])).as_single_interactions().batch(np.array([3, 1]))
    assert single.holdings.indices.tolist() == [12, 0, 7]
    assert single.holdings.offsets.tolist() == [0, 3, 3]
