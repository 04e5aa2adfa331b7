"""Training proves itself: same seed, same weights; learns what is planted, not what is chance; no step on a broken loss."""

import msgspec
import numpy as np
import pytest
import torch

from stream.core.interactions import Interaction, Part, conversation_of, session_of
from tests.purchases import ITEMS, purchases, small_run
from training.loop import NotFiniteError, Trained, TrainingConfig, newest_text_model, train
from training.measures import judge, popular_of, table
from training.tensors import tensors_of

CONFIG = small_run().training


def trained(config: TrainingConfig = CONFIG, *, tells: bool = True, **fields: object) -> Trained:
    examples = purchases(400, tells=tells)
    return train(examples[:320], examples[320:], ITEMS, config, **fields)  # type: ignore[arg-type]


def map3(found: Trained, *, tells: bool) -> tuple[float, float]:
    """MAP@3 on new events, of the network and of popularity."""
    fresh = purchases(300, first=400, tells=tells)
    popular = popular_of(purchases(400, tells=tells), ITEMS)
    return table(judge(found.ranker(), fresh))[-1].map3, table(judge(popular, fresh))[-1].map3


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    """Bit for bit, on one machine."""
    one, same, other = trained(), trained(), trained(msgspec.structs.replace(CONFIG, seed=1))
    pairs = zip(one.network.state_dict().values(), same.network.state_dict().values(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)
    assert not torch.equal(one.network.output.weight, other.network.output.weight)


def test_it_learns_a_planted_taste() -> None:
    """The last session names what is bought."""
    ours, popular = map3(trained(), tells=True)
    assert ours > 0.95
    assert popular < 0.7


def test_it_does_not_learn_noise() -> None:
    """Where tags are chance, it is popularity and no more."""
    ours, popular = map3(trained(tells=False), tells=False)
    assert abs(ours - popular) < 0.08


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    """Vectors gone wrong are named, not trained on."""
    examples = purchases(60)
    vector = np.full(CONFIG.network.text_width, np.inf, dtype="<f2").tobytes()
    broken = conversation_of([Part(0, 1, 1, vector, (), "text-1")], "c")
    examples[0] = msgspec.structs.replace(examples[0], type="conversation", interactions=(broken,))
    with pytest.raises(NotFiniteError, match="epoch 1"):
        train(examples, purchases(20, first=60), ITEMS, msgspec.structs.replace(CONFIG, batch=60))


def test_a_warm_start_begins_where_the_champion_ended() -> None:
    """One epoch of it is better than one from nothing; with other items it starts anew."""
    short = msgspec.structs.replace(CONFIG, epochs=1)
    champion = trained().ranker()
    assert trained(short, warm=champion).validation < trained(short).validation
    fewer = train(purchases(80), purchases(20, first=80), ITEMS[:-1], short, warm=champion)
    assert fewer.network.output.out_features == len(ITEMS) - 1


def test_nothing_to_learn_from_is_an_error() -> None:
    """Said before anything is made."""
    with pytest.raises(ValueError, match="at least one example"):
        train([], [], ITEMS, CONFIG)


def test_tensors_hold_each_examples_interactions_in_order() -> None:
    """A batch of some rows has their tags as bags, their texts, their labels."""
    examples = purchases(3)
    call = conversation_of([Part(0, 1, 1, np.ones(384, dtype="<f2").tobytes(), (), "t")], "c")
    histories: list[list[Interaction]] = [
        [examples[0].interactions[0]],
        [call, session_of([(1, ("b",))])],
        [session_of([(1, ("a", "b"))])],
    ]
    from models.vocabulary import Vocabulary

    batch = tensors_of(examples, histories, Vocabulary(["a", "b"]), ITEMS, 384, 1.0).batch(np.array([2, 1]))
    assert batch.lengths.tolist() == [1, 2]
    assert batch.tags.tolist() == [0, 1, 1]
    assert batch.offsets.tolist() == [0, 2, 2, 3]
    assert batch.is_text.tolist() == [False, True, False]
    assert batch.texts.shape == (1, 384)
    assert batch.labels[0].argmax().item() == ITEMS.index(examples[2].items[0])


def test_the_text_model_is_that_of_the_newest_call() -> None:
    """What the encoder runs now; without calls there is none."""
    examples = purchases(2)
    calls = [conversation_of([Part(0, 1, 1, b"\0\0", (), name)], "c") for name in ("old", "new")]
    told = [msgspec.structs.replace(example, interactions=(call,)) for example, call in zip(examples, calls, strict=True)]
    assert newest_text_model(told) == "new"
    assert newest_text_model(examples) is None
