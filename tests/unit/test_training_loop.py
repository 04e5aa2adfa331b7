"""Training proves itself: same seed, same weights; learns what is planted, not what is chance; no step on a broken loss."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from models.features import fit_featurizer
from models.network import NeuralRanker
from models.networks.latent_feature import LatentFeatureConfig
from stream.core.interactions import Interaction, Part, conversation_of, session_of
from tests.purchases import ITEMS, mixed_purchases, purchases, small_run
from training.checkpoints import CheckpointError
from training.example_arrays import examples_as_arrays, newest_text_model
from training.loop import NotFiniteError, TrainingConfig
from training.metrics import evaluate, popular_of, table
from training.progress import ProgressReporter
from training.stages import NothingToLearnError
from training.train_system import TrainedSystem, train_system

CONFIG = small_run().training


def trained(config: TrainingConfig = CONFIG, *, tells: bool = True, **fields: Any) -> TrainedSystem:
    examples = purchases(400, tells=tells)
    return train_system("latent_feature", examples[:320], examples[320:], ITEMS, config, **fields)


def weights(found: TrainedSystem) -> dict[str, torch.Tensor]:
    assert isinstance(found.ranker, NeuralRanker)
    return found.ranker.network.state_dict()


def map3(found: TrainedSystem, *, tells: bool) -> tuple[float, float]:
    """MAP@3 on new events, of the network and of popularity."""
    fresh = purchases(300, first=400, tells=tells)
    popular = popular_of(purchases(400, tells=tells), ITEMS)
    return table(evaluate(found.ranker, fresh))[-1].map3, table(evaluate(popular, fresh))[-1].map3


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    """Bit for bit, on one machine."""
    one, same, other = (weights(trained(config)) for config in (CONFIG, CONFIG, msgspec.structs.replace(CONFIG, seed=1)))
    assert all(torch.equal(weight, same[name]) for name, weight in one.items())
    assert not torch.equal(one["head.output.weight"], other["head.output.weight"])


class InterruptedHere(Exception):  # noqa: N818
    """Ends a training as a signal would."""


@pytest.mark.parametrize("epochs_before", [1, 4])
def test_an_interrupted_training_goes_on_to_the_very_same_weights(tmp_path: Path, epochs_before: int) -> None:
    """With dropout and in the middle of an epoch; what was learned since the last finished epoch is learned again."""
    config = msgspec.structs.replace(CONFIG, network=LatentFeatureConfig(latent=8, hidden=16, dense=16, dropout=0.3), epochs=8)
    told: list[str] = []

    def tick(_: str, done: int, batches: int) -> None:
        if len(told) == epochs_before and done == batches // 2:
            raise InterruptedHere

    with pytest.raises(InterruptedHere):
        trained(config, checkpoints=tmp_path, watch=ProgressReporter(told.append, tick))
    went_on: list[str] = []
    resumed = trained(config, checkpoints=tmp_path, watch=ProgressReporter(went_on.append))
    assert went_on[0] == f"latent_feature: goes on after epoch {epochs_before}"
    assert len([line for line in went_on if line.startswith("epoch")]) == resumed.epochs - epochs_before
    wanted = weights(trained(config))
    assert all(torch.equal(weight, wanted[name]) for name, weight in weights(resumed).items())


def test_checkpoints_of_another_run_are_an_error_that_says_so(tmp_path: Path) -> None:
    """Another seed is another run; so are other examples."""
    short = msgspec.structs.replace(CONFIG, epochs=1)
    trained(short, checkpoints=tmp_path)
    with pytest.raises(CheckpointError, match="another folder"):
        trained(msgspec.structs.replace(short, seed=5), checkpoints=tmp_path)
    (tmp_path / "latent_feature.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="remove it"):
        trained(short, checkpoints=tmp_path)


@pytest.mark.parametrize("field", ["interactions", "items", "excluded"])
def test_examples_of_other_contents_are_another_run(tmp_path: Path, field: str) -> None:
    """Under the same ids and revisions: one more session, another label, another filter."""
    short, examples = msgspec.structs.replace(CONFIG, epochs=1), purchases(80)
    train_system("latent_feature", examples[:60], examples[60:], ITEMS, short, checkpoints=tmp_path)
    changes = {"interactions": examples[5].interactions * 2, "items": (ITEMS[0], ITEMS[1]), "excluded": (ITEMS[2],)}
    examples[5] = msgspec.structs.replace(examples[5], **{field: changes[field]})
    with pytest.raises(CheckpointError, match="another folder"):
        train_system("latent_feature", examples[:60], examples[60:], ITEMS, short, checkpoints=tmp_path)


def test_another_first_ranker_makes_another_run(tmp_path: Path) -> None:
    """Weights that began elsewhere end elsewhere."""
    short = msgspec.structs.replace(CONFIG, epochs=1)
    champion = trained(short).ranker
    trained(short, checkpoints=tmp_path)
    with pytest.raises(CheckpointError, match="champion"):
        trained(short, warm=champion, checkpoints=tmp_path)


def test_checkpointed_weights_that_do_not_fit_are_an_error_that_says_so(tmp_path: Path) -> None:
    """As those of an older version's network."""
    short = msgspec.structs.replace(CONFIG, epochs=1)
    trained(short, checkpoints=tmp_path)
    kept = torch.load(tmp_path / "latent_feature.pt", weights_only=True)
    kept["network"]["head.output.weight"] = torch.zeros(1, 1)
    torch.save(kept, tmp_path / "latent_feature.pt")
    with pytest.raises(CheckpointError, match="do not fit the network"):
        trained(short, checkpoints=tmp_path)


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
    vector = np.full(384, np.inf, dtype="<f2").tobytes()
    broken = conversation_of([Part(0, 1, 1, vector, "", "text-1")], "c")
    examples[0] = msgspec.structs.replace(examples[0], type="conversation", interactions=(broken,))
    with pytest.raises(NotFiniteError, match="epoch 1"):
        train_system("latent_feature", examples, purchases(20, first=60), ITEMS, msgspec.structs.replace(CONFIG, batch=60))


def test_a_warm_start_begins_where_the_champion_ended() -> None:
    """One epoch of it is better than one from nothing; with other items it starts anew."""
    short = msgspec.structs.replace(CONFIG, epochs=1)
    champion = trained().ranker
    assert trained(short, warm=champion).validation < trained(short).validation
    fewer = train_system("latent_feature", purchases(80), purchases(20, first=80), ITEMS[:-1], short, warm=champion)
    assert fewer.ranker.items == ITEMS[:-1]


def test_a_champion_that_never_saw_a_conversation_is_no_start_once_there_are_some() -> None:
    """It could not read their vectors."""
    short = msgspec.structs.replace(CONFIG, epochs=1)
    examples = mixed_purchases(100)
    found = train_system("latent_feature", examples[:80], examples[80:], ITEMS, short, warm=trained(short).ranker).ranker
    assert isinstance(found, NeuralRanker)
    assert (found.text_model, found.reader.text_width) == ("text-1", 384)


def test_nothing_to_learn_from_is_an_error() -> None:
    """Said before anything is made; and where there is not one event of the kind that a system is made of."""
    with pytest.raises(NothingToLearnError, match="at least one example"):
        train_system("latent_feature", [], [], ITEMS, CONFIG)
    with pytest.raises(NothingToLearnError, match="conversation: no purchase events"):
        train_system("conversation", purchases(60), purchases(20, first=60), ITEMS)


def test_arrays_hold_each_examples_interactions_in_order() -> None:
    """A batch of some rows has their tags as bags, their texts, their labels; and can be narrowed to one modality or type."""
    examples = purchases(3)
    call = conversation_of([Part(0, 1, 4, np.ones(384, dtype="<f2").tobytes(), "", "t")], "c")
    histories: list[list[Interaction]] = [
        [session_of([(1, ("a",))])],
        [call, session_of([(1, ("b",))])],
        [session_of([(1, ("a", "b"))])],
    ]
    flat = [one for history in histories for one in history]
    arrays = examples_as_arrays(examples, histories, fit_featurizer(["tags"], texts=True, interactions=flat), ITEMS)
    batch = arrays.batch(np.array([2, 1]))
    assert batch.lengths.tolist() == [1, 2]
    assert [part.tolist() for part in batch.inputs.bags["tags"]] == [[0, 1, 1], [0, 2, 2, 3]]
    assert batch.inputs.is_text.tolist() == [[0], [1], [0]]
    assert batch.inputs.sentences.tolist() == [[0], [4], [0]]
    assert (batch.inputs.texts.shape, batch.inputs.text_rows.tolist()) == ((1, 384), [1])
    assert batch.labels[0].argmax().item() == ITEMS.index(examples[2].items[0])
    assert arrays.types.tolist() == ["session", "both", "session"]
    assert arrays.only("session").lengths.tolist() == [1, 1, 1]
    calls = arrays.only("conversation")
    assert (calls.lengths.tolist(), calls.picks.tolist()) == ([1], [1])
    assert torch.equal(calls.labels[0], arrays.labels[1])
    assert arrays.of_type("both").picks.tolist() == [1, 2]


def test_the_text_model_is_that_of_the_newest_call() -> None:
    """What the encoder runs now; without calls there is none."""
    examples = purchases(2)
    calls = [conversation_of([Part(0, 1, 1, b"\0\0", "", name)], "c") for name in ("old", "new")]
    told = [msgspec.structs.replace(example, interactions=(call,)) for example, call in zip(examples, calls, strict=True)]
    assert newest_text_model(told) == "new"
    assert newest_text_model(examples) is None
