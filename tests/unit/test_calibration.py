"""Probabilities: fitted on what the model did not learn from, kept in its folder, told with each item that it scored."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.artifact import ModelRefused, load_ranker, read_manifest, write_ranker
from models.network import Network, NeuralRanker
from stream.core.calibration import Calibration, logits
from stream.core.events import Click, Source
from stream.core.ranking import Catalogue
from tests import world
from tests.contracts.test_ranker import replaced
from tests.purchases import ITEMS, mixed_purchases
from tests.rankers import random_ranker, small
from tests.world import NOW, OrderRanker, Store, batch_of, run
from training.calibration import Pairs, fit_calibration, pairs_of, reliability, reliability_of
from training.loop import FitResult, StageOptions, TrainingConfig
from training.stages import StageTrainer
from training.train_system import train_system

PAIRS = 20_000


class CalibratedRanker(OrderRanker):
    """An OrderRanker whose scores are twice too sure."""

    calibration = Calibration(0.5, 0.25)


def drawn(slope: float, intercept: float, seed: int = 0) -> Pairs:
    """Pairs whose true probability is this calibration of their scores."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(0.5, 2, PAIRS)
    bought = rng.random(PAIRS) < Calibration(slope, intercept).probabilities(scores)
    return Pairs(scores, bought, np.ones(PAIRS, dtype=bool))


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, 0.0), (0.5, 0.25), (2.0, -1.0)])
def test_a_fit_finds_the_calibration_that_the_purchases_follow(slope: float, intercept: float) -> None:
    """Within the error of 20,000 pairs. Afterwards the probabilities of other pairs are true, and the scores are not."""
    fitted = fit_calibration(drawn(slope, intercept))
    assert fitted is not None
    assert (fitted.slope, fitted.intercept) == pytest.approx((slope, intercept), abs=0.1)
    others = drawn(slope, intercept, seed=1)
    assert reliability_of(fitted.probabilities(others.scores).astype(np.float64), others.bought).error < 0.01
    assert slope == 1 or reliability_of(others.scores, others.bought).error > 0.05


@pytest.mark.parametrize(
    ("scores", "bought"),
    [
        (np.zeros(0), np.zeros(0, dtype=bool)),
        (np.full(200, 0.5), np.zeros(200, dtype=bool)),
        (np.full(200, 0.5), np.ones(200, dtype=bool)),
        (np.linspace(0.1, 0.9, 200), np.arange(200) < 100),
    ],
    ids=["nothing", "nothing bought", "all bought", "the scores are upside down"],
)
def test_where_the_purchases_do_not_bear_the_scores_out_there_is_no_calibration(scores: Any, bought: Any) -> None:
    """Instead of probabilities that mean nothing, or that turn the order of the items around."""
    assert fit_calibration(Pairs(scores, bought, bought)) is None


@given(st.lists(st.floats(0, 1, width=32), min_size=2), st.floats(0.01, 10), st.floats(-10, 10))
def test_probabilities_keep_the_order_of_scores(scores: list[float], slope: float, intercept: float) -> None:
    ordered = np.sort(np.array(scores, dtype=np.float32))
    found = Calibration(slope, intercept).probabilities(ordered)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= 0).all()


def test_scores_of_nothing_and_of_certainty_have_finite_odds() -> None:
    assert np.isfinite(logits(np.array([0.0, 1.0], dtype=np.float32))).all()


def listed(ranker: OrderRanker, items: Catalogue | None = None) -> dict[str, Any]:
    store = Store()
    run(store, batch_of(Source.CLICK, [(0, Click("u", NOW - 1_000, ("home",)))]), ranker, items)
    made: dict[str, Any] = msgspec.json.decode(store.recommendations[b"u"] or b"")
    return made


def test_each_scored_item_of_a_list_and_its_reserve_says_its_probability() -> None:
    made = listed(CalibratedRanker())
    for item in (*made["items"], *made["reserve"]):
        assert item["probability"] == pytest.approx(
            CalibratedRanker.calibration.probabilities(np.array([item["score"]]))[0], abs=1e-3
        )
    assert [item["item"] for item in made["items"]] == [item["item"] for item in listed(OrderRanker())["items"]]


def test_what_no_model_scored_has_no_probability() -> None:
    """Without a calibration, under a fallback, and of items that the model does not know."""
    assert not any("probability" in item for item in listed(OrderRanker())["items"])
    foreign = CalibratedRanker(reads_sessions=False)
    assert not any("probability" in item for item in listed(foreign)["items"])
    filled = listed(CalibratedRanker(items=world.ITEMS[:2]))["items"]
    assert [("probability" in item) for item in filled] == [True, True, *([False] * (len(filled) - 2))]


def test_pairs_leave_out_what_could_not_be_offered_and_what_the_model_cannot_read() -> None:
    """The first because it is on no list, the second because popularity ranks there."""
    examples = mixed_purchases(40)
    ranker = OrderRanker(items=ITEMS, text_model=None)
    readable = sum(example.type != "conversation" for example in examples)
    assert 0 < readable < len(examples)
    pairs = pairs_of(ranker, examples)
    assert len(pairs.scores) == readable * len(ITEMS)
    assert pairs.listed.sum() == readable * 3
    excluded = [msgspec.structs.replace(example, excluded=(ITEMS[0],)) for example in examples]
    assert len(pairs_of(ranker, excluded).scores) == readable * (len(ITEMS) - 1)


def test_a_model_is_calibrated_on_events_that_it_did_not_learn_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The last training of isthmus learns from validation too, and so cannot be judged there: the one before it is.

    The folder keeps the calibration.
    """
    networks: list[Network] = []
    refit = StageTrainer.refit

    def remember(self: StageTrainer, network: Network, options: StageOptions, epochs: int, validated: Network) -> FitResult:
        networks.append(copy.deepcopy(validated))
        return refit(self, network, options, epochs, validated)

    monkeypatch.setattr(StageTrainer, "refit", remember)
    examples = mixed_purchases(400)
    config = TrainingConfig(epochs=6, batch=32, learning_rate=0.02, network=small("isthmus"))
    ranker = train_system("isthmus", examples[:300], examples[300:], ITEMS, config).ranker
    assert isinstance(ranker, NeuralRanker)
    assert ranker.calibration == fit_calibration(pairs_of(replace(ranker, network=networks[0]), examples[300:]))
    assert ranker.calibration != fit_calibration(pairs_of(ranker, examples[300:]))
    judged = reliability(ranker, mixed_purchases(200, first=400))
    assert judged is not None
    sha256 = write_ranker(tmp_path / "m", ranker, version="1", reliability=judged)
    read = load_ranker(str(tmp_path / "m"), sha256)
    assert isinstance(read, NeuralRanker)
    assert read.calibration == ranker.calibration
    assert read_manifest(str(tmp_path / "m"))[0].reliability == judged


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b'{"slope":0,"intercept":0}', b'{"slope":-1,"intercept":0}', b'{"slope":1,"intercept":1e999}']
)
def test_a_folder_with_a_calibration_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    ranker = random_ranker("isthmus", ITEMS, np.full(len(ITEMS), 0.1, dtype=np.float32))
    assert isinstance(ranker, NeuralRanker)
    write_ranker(tmp_path / "m", replace(ranker, calibration=Calibration(1.0, 0.0)), version="1")
    replaced(tmp_path / "m", "calibration.json", content)
    with pytest.raises(ModelRefused, match=r"calibration\.json") as refused:
        load_ranker(str(tmp_path / "m"))
    assert refused.value.reason == "calibration"
