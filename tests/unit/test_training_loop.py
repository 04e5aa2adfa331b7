"""Training: same seed, same weights; it learns what is planted and not noise, and takes no step that is not finite."""

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
from training.metrics import evaluate, metrics_by_type, popular_ranker
from training.progress import ProgressReporter
from training.stages import NothingToLearnError
from training.train_system import TrainedSystem, train_system

CONFIG = small_run().training


def trained(config: TrainingConfig = CONFIG, *, planted: bool = True, **fields: Any) -> TrainedSystem:
    examples = purchases(400, planted=planted)
    return train_system("latent_feature", examples[:320], examples[320:], ITEMS, config, **fields)


def weights(system: TrainedSystem) -> dict[str, torch.Tensor]:
    assert isinstance(system.ranker, NeuralRanker)
    return system.ranker.network.state_dict()


def map3(system: TrainedSystem, *, planted: bool) -> tuple[float, float]:
    """Returns MAP@3 on new events, of the network and of popularity."""
    fresh = purchases(300, first=400, planted=planted)
    popular = popular_ranker(purchases(400, planted=planted), ITEMS)
    return metrics_by_type(evaluate(system.ranker, fresh))[-1].map3, metrics_by_type(evaluate(popular, fresh))[-1].map3


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    """Bit for bit, on one machine."""
    one, same, other = (weights(trained(config)) for config in (CONFIG, CONFIG, msgspec.structs.replace(CONFIG, seed=1)))
    assert all(torch.equal(weight, same[name]) for name, weight in one.items())
    assert not torch.equal(one["head.output.weight"], other["head.output.weight"])


class InterruptedHere(Exception):  # noqa: N818
    """Interrupts a training as a signal would."""


@pytest.mark.parametrize("epochs_before", [1, 4])
def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path: Path, epochs_before: int) -> None:
    """With dropout, and in the middle of an epoch: training resumes from the last finished epoch."""
    config = msgspec.structs.replace(CONFIG, network=LatentFeatureConfig(latent=8, hidden=16, dense=16, dropout=0.3), epochs=8)
    lines: list[str] = []

    def interrupt(_: str, done: int, batches: int) -> None:
        if len(lines) == epochs_before and done == batches // 2:
            raise InterruptedHere

    with pytest.raises(InterruptedHere):
        trained(config, checkpoints=tmp_path, progress=ProgressReporter(lines.append, interrupt))
    resumed_lines: list[str] = []
    resumed = trained(config, checkpoints=tmp_path, progress=ProgressReporter(resumed_lines.append))
    assert resumed_lines[0] == f"latent_feature: resumes after epoch {epochs_before}"
    assert len([line for line in resumed_lines if line.startswith("epoch")]) == resumed.epochs - epochs_before
    wanted = weights(trained(config))
    assert all(torch.equal(weight, wanted[name]) for name, weight in weights(resumed).items())


def test_checkpoints_of_another_training_are_refused(tmp_path: Path) -> None:
    """Another seed is another training; so are other examples."""
    short = msgspec.structs.replace(CONFIG, epochs=1)
    trained(short, checkpoints=tmp_path)
    with pytest.raises(CheckpointError, match="another folder"):
        trained(msgspec.structs.replace(short, seed=5), checkpoints=tmp_path)
    (tmp_path / "latent_feature.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="remove it"):
        trained(short, checkpoints=tmp_path)


@pytest.mark.parametrize("field", ["interactions", "items", "excluded"])
def test_examples_with_other_contents_are_another_training(tmp_path: Path, field: str) -> None:
    """Even under the same ids and revisions: one more session, another label, another filter."""
    short, examples = msgspec.structs.replace(CONFIG, epochs=1), purchases(80)
    train_system("latent_feature", examples[:60], examples[60:], ITEMS, short, checkpoints=tmp_path)
    changes = {"interactions": examples[5].interactions * 2, "items": (ITEMS[0], ITEMS[1]), "excluded": (ITEMS[2],)}
    examples[5] = msgspec.structs.replace(examples[5], **{field: changes[field]})
    with pytest.raises(CheckpointError, match="another folder"):
        train_system("latent_feature", examples[:60], examples[60:], ITEMS, short, checkpoints=tmp_path)


def test_another_warm_start_is_another_training(tmp_path: Path) -> None:
    """Other initial weights lead to other final ones."""
    short = msgspec.structs.replace(CONFIG, epochs=1)
    champion = trained(short).ranker
    trained(short, checkpoints=tmp_path)
    with pytest.raises(CheckpointError, match="champion"):
        trained(short, warm=champion, checkpoints=tmp_path)


def test_checkpointed_weights_that_do_not_fit_the_network_are_refused(tmp_path: Path) -> None:
    """An older version's network may have other sizes."""
    short = msgspec.structs.replace(CONFIG, epochs=1)
    trained(short, checkpoints=tmp_path)
    checkpoint = torch.load(tmp_path / "latent_feature.pt", weights_only=True)
    checkpoint["network"]["head.output.weight"] = torch.zeros(1, 1)
    torch.save(checkpoint, tmp_path / "latent_feature.pt")
    with pytest.raises(CheckpointError, match="do not fit the network"):
        trained(short, checkpoints=tmp_path)


def test_it_learns_a_planted_taste() -> None:
    """The last session names what is bought."""
    ours, popular = map3(trained(), planted=True)
    assert ours > 0.95
    assert popular < 0.7


def test_it_does_not_learn_noise() -> None:
    """Where tags are random, it is no better than popularity."""
    ours, popular = map3(trained(planted=False), planted=False)
    assert abs(ours - popular) < 0.08


def test_a_loss_that_is_not_finite_stops_before_the_step() -> None:
    """Broken vectors are reported, not trained on."""
    examples = purchases(60)
    vector = np.full(384, np.inf, dtype="<f2").tobytes()
    broken = conversation_of([Part(0, 1, 1, vector, "", "text-1")], "c")
    examples[0] = msgspec.structs.replace(examples[0], type="conversation", interactions=(broken,))
    with pytest.raises(NotFiniteError, match="epoch 1"):
        train_system("latent_feature", examples, purchases(20, first=60), ITEMS, msgspec.structs.replace(CONFIG, batch=60))


def test_a_warm_start_continues_from_the_champions_weights() -> None:
    """One epoch from there is better than one from random weights; with other items it starts from random weights."""
    short = msgspec.structs.replace(CONFIG, epochs=1)
    champion = trained().ranker
    assert trained(short, warm=champion).validation_loss < trained(short).validation_loss
    fewer = train_system("latent_feature", purchases(80), purchases(20, first=80), ITEMS[:-1], short, warm=champion)
    assert fewer.ranker.items == ITEMS[:-1]


def test_a_champion_without_conversations_is_no_warm_start_once_there_are_some() -> None:
    """It has no layer for their vectors."""
    short = msgspec.structs.replace(CONFIG, epochs=1)
    examples = mixed_purchases(100)
    found = train_system("latent_feature", examples[:80], examples[80:], ITEMS, short, warm=trained(short).ranker).ranker
    assert isinstance(found, NeuralRanker)
    assert (found.text_model, found.featurizer.text_width) == ("text-1", 384)


def test_nothing_to_learn_from_is_an_error() -> None:
    """No examples at all, or none of the type that the system needs."""
    with pytest.raises(NothingToLearnError, match="at least one example"):
        train_system("latent_feature", [], [], ITEMS, CONFIG)
    with pytest.raises(NothingToLearnError, match="conversation: no purchase events"):
        train_system("conversation", purchases(60), purchases(20, first=60), ITEMS)


def test_arrays_hold_each_examples_interactions_in_order() -> None:
    """A batch holds the tags, texts and labels of its rows; examples can be reduced to one modality or type."""
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
    assert arrays.of_modality("session").lengths.tolist() == [1, 1, 1]
    calls = arrays.of_modality("conversation")
    assert (calls.lengths.tolist(), calls.indices.tolist()) == ([1], [1])
    assert torch.equal(calls.labels[0], arrays.labels[1])
    assert arrays.of_type("both").indices.tolist() == [1, 2]


def test_the_text_model_is_that_of_the_newest_conversation() -> None:
    """It is the one that the encoder runs now; without conversations there is none."""
    examples = purchases(2)
    calls = [conversation_of([Part(0, 1, 1, b"\0\0", "", name)], "c") for name in ("old", "new")]
    with_calls = [msgspec.structs.replace(example, interactions=(call,)) for example, call in zip(examples, calls, strict=True)]
    assert newest_text_model(with_calls) == "new"
    assert newest_text_model(examples) is None
