"""Every system learns what is planted; recipes select and label the examples of each stage."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from models.features import fit_featurizer
from models.network import NeuralRanker
from models.systems import POPULAR, SYSTEMS
from stream.core.interactions import Interaction, Part, conversation_of, session_of
from stream.core.outputs import TrainingExample
from tests.purchases import ITEMS, mixed_purchases, purchases
from tests.rankers import small
from training.anchors import anchor_events
from training.example_arrays import Examples, examples_as_arrays
from training.loop import TrainingConfig
from training.metrics import evaluate, metrics_by_type, popular_ranker
from training.progress import ProgressReporter
from training.recipes import _sessions_to_generate, mean_texts, weighted
from training.stages import NothingToLearnError
from training.train_system import train_system

CONFIG = TrainingConfig(epochs=30, batch=32, learning_rate=0.02)
READS: dict[str, set[str]] = {
    "session": {"session", "both"},
    "conversation": {"conversation", "both"},
    "conversation_keyword": {"conversation", "both"},
}


@pytest.mark.parametrize("name", SYSTEMS[1:])
def test_every_system_learns_a_planted_taste(name: str) -> None:
    """It ranks what was planted on each type of event that it can read; a uni-modal system is popularity on the others."""
    examples, fresh = mixed_purchases(500), mixed_purchases(300, first=500)
    config = msgspec.structs.replace(CONFIG, network=small(name))
    found = train_system(name, examples[:400], examples[400:], ITEMS, config)
    popular = {row.event_type: row.map3 for row in metrics_by_type(evaluate(popular_ranker(examples, ITEMS), fresh))}
    for row in metrics_by_type(evaluate(found.ranker, fresh))[:3]:
        if row.event_type in READS.get(name, {"session", "conversation", "both"}):
            assert row.map3 > 0.9, row
        else:
            assert row.map3 == pytest.approx(popular[row.event_type])


def test_popular_counts_training_and_validation() -> None:
    """And so does the prior of every other ranker."""
    examples = mixed_purchases(200)
    popular = train_system(POPULAR, examples[:150], examples[150:], ITEMS).ranker
    assert np.array_equal(popular.prior, popular_ranker(examples, ITEMS).prior)
    config = msgspec.structs.replace(CONFIG, network=small("session"), epochs=1)
    assert np.array_equal(train_system("session", examples[:150], examples[150:], ITEMS, config).ranker.prior, popular.prior)


def test_an_unknown_system_is_refused() -> None:
    with pytest.raises(KeyError, match="oracle"):
        train_system("oracle", purchases(60), purchases(20, first=60), ITEMS)


def test_late_fusion_holds_the_same_networks_as_its_parts_trained_alone() -> None:
    """Same seed, same weights: so the benchmark compares the fusion and not two trainings."""
    examples, config = mixed_purchases(200), msgspec.structs.replace(CONFIG, epochs=2)
    fused, session = (
        train_system(name, examples[:150], examples[150:], ITEMS, config_of(config, name)) for name in ("late_fusion", "session")
    )
    assert isinstance(fused.ranker, NeuralRanker)
    assert isinstance(session.ranker, NeuralRanker)
    inside = fused.ranker.network.state_dict()
    assert all(torch.equal(weight, inside[f"session.{name}"]) for name, weight in session.ranker.network.state_dict().items())


def config_of(config: TrainingConfig, name: str) -> TrainingConfig:
    return msgspec.structs.replace(config, network=small(name))


@pytest.mark.parametrize("name", ["knowledge_distillation", "generative_imputation", "relative_representation"])
def test_systems_of_several_stages_resume_in_the_interrupted_stage(name: str, tmp_path: Path) -> None:
    """Finished stages are not trained again, and the weights are those of an uninterrupted run."""
    examples, config = mixed_purchases(200), config_of(msgspec.structs.replace(CONFIG, epochs=2), name)

    def run(progress: ProgressReporter, folder: Path | None) -> dict[str, torch.Tensor]:
        ranker = train_system(name, examples[:150], examples[150:], ITEMS, config, progress=progress, checkpoints=folder).ranker
        assert isinstance(ranker, NeuralRanker)
        return ranker.network.state_dict()

    def until_the_third_stage(line: str) -> None:
        lines.append(line)
        if len([line for line in lines if line.startswith("epoch")]) == 5:
            raise KeyboardInterrupt

    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run(ProgressReporter(until_the_third_stage), tmp_path)
    resumed_lines: list[str] = []
    resumed, whole = run(ProgressReporter(resumed_lines.append), tmp_path), run(ProgressReporter(), None)
    assert len([line for line in resumed_lines if line.startswith("epoch")]) == 1
    assert all(torch.equal(weight, whole[key]) for key, weight in resumed.items())


def test_the_stage_without_examples_is_named() -> None:
    """Without events of both modalities, the student has none."""
    apart = [example for example in mixed_purchases(300) if example.type != "both"]
    config = config_of(msgspec.structs.replace(CONFIG, epochs=1), "knowledge_distillation")
    with pytest.raises(NothingToLearnError, match="student"):
        train_system("knowledge_distillation", apart[:-40], apart[-40:], ITEMS, config)


def test_without_an_event_of_one_session_and_one_conversation_there_are_no_anchors() -> None:
    """Then interactions cannot be compared with anything."""
    apart = [example for example in mixed_purchases(300) if example.type != "both"]
    with pytest.raises(NothingToLearnError, match="anchors: no purchase events"):
        train_system("relative_representation", apart[:-40], apart[-40:], ITEMS, CONFIG)


@pytest.mark.parametrize("name", ["session", "conversation", "conversation_keyword", "keyword"])
def test_a_system_without_inputs_that_it_reads_is_not_trained(name: str) -> None:
    """Conversations without keywords, zero vectors, sessions without a tag: it would be popularity under another name."""

    def without_inputs(example: TrainingExample) -> TrainingExample:
        silent = conversation_of([Part(0, 1, 1, bytes(2), "", "text-1")], "c")
        return msgspec.structs.replace(example, type="both", interactions=(session_of([(1, ())]), silent))

    examples = [without_inputs(example) for example in purchases(80)]
    with pytest.raises(NothingToLearnError, match=f"{name}: .* none shows any"):
        train_system(name, examples[:60], examples[60:], ITEMS, CONFIG)


def arrays(histories: list[list[Interaction]]) -> Examples:
    examples = purchases(len(histories))
    reader = fit_featurizer(["tags"], texts=True, interactions=[one for history in histories for one in history])
    return examples_as_arrays(examples, histories, reader, ITEMS)


def session(*tags: str) -> Interaction:
    return session_of([(1, tags)])


def call(sentences: int, *vector: float) -> Interaction:
    return conversation_of([Part(0, 1, sentences, np.array(vector, dtype="<f2").tobytes(), "", "text-1")], "c")


def test_a_mean_text_is_the_mean_over_all_sentences() -> None:
    """Not over conversations: a long one counts more."""
    found = mean_texts(arrays([[call(1, 4, 0), session("a"), call(3, 0, 4)], [call(2, 1, 1)]]).of_modality("conversation"))
    assert found.tolist() == [[1, 3], [1, 1]]


def test_sessions_to_generate_are_padded_in_front() -> None:
    """As the authors do: the last session is at the end."""
    examples = arrays([[session("a")], [session("a"), call(1, 1, 0), session("a", "b")], [call(1, 0, 1), session("b")]])
    found = _sessions_to_generate(examples, turns=3)
    assert found.labels.reshape(2, 3, 2).tolist() == [[[0, 0], [1, 0], [1, 1]], [[0, 0], [0, 0], [0, 1]]]
    assert found.features.texts[found.features.text_index[found.indices]].tolist() == [[1, 0], [0, 1]]


def test_events_of_the_rarer_modality_have_double_weight() -> None:
    """Events of both have the others' mean weight (the authors' formula)."""
    examples = arrays([[session("a")], [session("a")], [call(1, 1, 0)], [session("a"), call(1, 1, 0)]])
    assert weighted(examples).weights.tolist() == pytest.approx([1, 1, 2, 4 / 3])


def test_anchors_have_each_modality_once_and_are_spread_over_the_items() -> None:
    """At most the requested number; of each item at most its share, but at least one."""
    examples = mixed_purchases(400)
    arrays_of = examples_as_arrays(
        examples,
        [list(example.interactions) for example in examples],
        fit_featurizer(["tags"], texts=True, interactions=[one for example in examples for one in example.interactions]),
        ITEMS,
    )
    chosen = anchor_events(arrays_of, 25, np.random.default_rng(0))
    assert len(chosen) <= 25
    assert (np.diff(chosen) > 0).all()
    assert all(examples[index].type == "both" and len(examples[index].interactions) == 2 for index in chosen)
    by_item = arrays_of.labels[torch.from_numpy(chosen)].sum(dim=0)
    shares = arrays_of.labels.sum(dim=0) / arrays_of.labels.sum() * 25
    assert ((by_item >= 1) & (by_item <= shares.round().clamp(min=1))).all()
    assert len(anchor_events(arrays_of, 10_000, np.random.default_rng(0))) <= sum(example.type == "both" for example in examples)


ROOT = Path(__file__).parents[2]
TOGETHER = """
import sys
import numpy as np
import torch
from tests.unit.test_train_system import few_steps
from training import distributed

with distributed.process_group():
    np.savez(f"{sys.argv[1]}-{distributed.rank()}", **few_steps())
    assert distributed.world_size() == 2
    assert distributed.broadcast(lambda: ["made by", distributed.rank()]) == ["made by", 0]
    torch.distributed.barrier()  # gloo may abort at the exit of a process that leaves while another still receives
"""


def few_steps() -> dict[str, np.ndarray]:
    """Returns the weights after a few batches that do not divide evenly, without dropout."""
    examples = mixed_purchases(150)
    network = msgspec.structs.replace(small("latent_feature"), dropout=0.0)
    config = TrainingConfig(network=network, epochs=2, batch=33, learning_rate=0.002)
    ranker = train_system("latent_feature", examples[:119], examples[119:], ITEMS, config).ranker
    assert isinstance(ranker, NeuralRanker)
    return {name: weight.numpy() for name, weight in ranker.network.state_dict().items()}


@pytest.mark.timeout(600)  # three processes import torch: 15 s alone, minutes on a busy machine
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    """`torchrun` with gloo: both processes have the same weights, equal to those of a single process up to rounding."""
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*torchrun, str(script), str(tmp_path / "weights")]
    done = subprocess.run(command, check=False, capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    alone, first, second = few_steps(), np.load(tmp_path / "weights-0.npz"), np.load(tmp_path / "weights-1.npz")
    assert all(np.array_equal(first[name], second[name]) for name in first.files)
    assert all(np.allclose(first[name], weight, atol=1e-4) for name, weight in alone.items())
