"""One suite for every ranker: advancing by one interaction at a time agrees with encoding the whole history."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load, save

from models.artifact import MANIFEST, ModelRefused, load_ranker, write_ranker
from models.popular import prior_of
from models.systems import DEFAULT, POPULAR, SYSTEMS, network_type
from stream.core.interactions import Part, conversation_of, session_of
from stream.core.ranking import Holdings, Ranker, readable_by, score_rows
from tests.rankers import TEXT_WIDTH, random_history, random_ranker

ITEMS = ("a", "b", "c", "d", "e")


def write(folder: Path, name: str, version: str = "7") -> str:
    return write_ranker(folder, random_ranker(name, ITEMS, prior_of([["a"], ["b", "a"]], ITEMS)), version=version)


@pytest.fixture(params=SYSTEMS)
def ranker(request: pytest.FixtureRequest, tmp_path: Path) -> Ranker:
    """Written, then loaded as a worker loads it."""
    return load_ranker(str(tmp_path / "model"), write(tmp_path / "model", request.param))


@pytest.mark.parametrize("conversations", [0.0, 0.4, 1.0], ids=["sessions", "both", "conversations"])
def test_advancing_one_by_one_gives_what_encoding_gives(ranker: Ranker, conversations: float) -> None:
    """The same first three for at least 99.9 % of users, scores within 1e-3; one modality or both, 0 to 10 interactions."""
    rng = np.random.default_rng(0)
    lengths = [0, 10, *rng.integers(0, 11, size=400)]
    histories = [random_history(rng, int(length), conversations=conversations) for length in lengths]
    encoded = ranker.rank_many(ranker.encode_many(histories))
    rows = np.tile(ranker.initial(), (len(histories), 1))
    for turn in range(10):
        due = [row for row, history in enumerate(histories) if len(history) > turn]
        rows[due] = ranker.advance_many(rows[due], [histories[row][turn] for row in due])
    advanced = ranker.rank_many(rows)
    assert rows.dtype == np.float32
    assert rows.shape == (len(histories), ranker.width)
    assert np.abs(encoded - advanced).max() < 1e-3
    same = (np.argsort(-encoded, axis=1, kind="stable")[:, :3] == np.argsort(-advanced, axis=1, kind="stable")[:, :3]).all(axis=1)
    assert same.mean() >= 0.999


def test_what_users_own_leaves_representations_alone(ranker: Ranker) -> None:
    """Advancing agrees with encoding whatever users own. Unknown holdings give the scores without holdings."""
    rng = np.random.default_rng(1)
    histories = [random_history(rng, int(length)) for length in rng.integers(1, 11, size=200)]
    holdings = [Holdings(*(tuple(rng.choice(ITEMS, size=2, replace=False)) for _ in range(2))) for _ in histories]
    encoded, advanced = ranker.encode_many(histories), np.tile(ranker.initial(), (len(histories), 1))
    for turn in range(10):
        due = [row for row, history in enumerate(histories) if len(history) > turn]
        advanced[due] = ranker.advance_many(advanced[due], [histories[row][turn] for row in due])
    assert np.abs(score_rows(ranker, encoded, holdings) - score_rows(ranker, advanced, holdings)).max() < 1e-3
    assert np.allclose(score_rows(ranker, encoded, [None] * len(histories)), ranker.rank_many(encoded))
    assert np.allclose(score_rows(ranker, encoded[:3], holdings[:3]), score_rows(ranker, encoded, holdings)[:3], atol=1e-6)


def test_what_users_own_moves_the_scores_of_rankers_that_read_it_and_of_no_other(ranker: Ranker) -> None:
    """Owning an item, or not being eligible for it, moves other items' scores; an item that the model does not know moves none."""
    rows = ranker.encode_many([random_history(np.random.default_rng(3), 3)] * 5)
    empty, *others = Holdings((), ()), Holdings(("a",), ()), Holdings((), ("a",)), Holdings(("unknown",), ("unknown",))
    nothing, owned, ineligible, strange, unknown = score_rows(ranker, rows, [empty, *others, None])
    assert np.allclose(nothing, strange)
    moved = [not np.allclose(nothing[1:], scores[1:]) for scores in (owned, ineligible, unknown)]
    assert moved == [ranker.name != POPULAR and network_type(ranker.name).uses_holdings] * 3


def test_a_folder_without_weights_for_holdings_is_read_as_one_that_ignores_them(tmp_path: Path) -> None:
    """As 0.1.0 wrote it: its scores stay what they were, whatever users own."""
    write(tmp_path / "m", DEFAULT)
    weights = load((tmp_path / "m" / "weights.safetensors").read_bytes())
    del weights["holdings.weight"]
    replaced(tmp_path / "m", "weights.safetensors", save(weights))
    former, whole = load_ranker(str(tmp_path / "m")), random_ranker(DEFAULT, ITEMS, prior_of([["a"], ["b", "a"]], ITEMS))
    rows = former.encode_many([random_history(np.random.default_rng(3), 3)])
    assert np.allclose(score_rows(former, rows, [Holdings(("a",), ("b",))]), whole.rank_many(rows))


def test_a_batch_of_one_or_none_gives_what_a_large_batch_gives(ranker: Ranker) -> None:
    """A user's list does not depend on which other users are in the batch."""
    rng = np.random.default_rng(2)
    histories = [random_history(rng, length) for length in (3, 1, 10, 0)]
    together = ranker.rank_many(ranker.encode_many(histories))
    alone = np.concatenate([ranker.rank_many(ranker.encode_many([history])) for history in histories])
    assert np.allclose(together, alone, atol=1e-6)
    assert ranker.encode_many([]).shape == (0, ranker.width)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name not in {POPULAR, "session", "conversation_keyword"}])
def test_what_a_system_reads_moves_its_scores(name: str) -> None:
    """Sessions and conversations, unless it reads conversations only."""
    ranker = random_ranker(name, ITEMS, prior_of([["a"]], ITEMS))
    session = random_history(np.random.default_rng(3), 1, conversations=0)
    call = random_history(np.random.default_rng(4), 1, conversations=1)
    scores = ranker.rank_many(ranker.encode_many([[], session, call, session + call]))
    assert not np.allclose(scores[0], scores[2])
    assert name == "conversation" or not np.allclose(scores[1], scores[3])
    assert name == "conversation" or not np.allclose(scores[2], scores[3])


def test_a_ranker_declares_what_moves_its_scores(ranker: Ranker) -> None:
    """Serving counts only what is declared, and leaves the rest out of histories."""
    session = random_history(np.random.default_rng(3), 1, conversations=0)
    call = random_history(np.random.default_rng(4), 1, conversations=1)
    read = readable_by(ranker, [*session, *call])
    scores = ranker.rank_many(ranker.encode_many([[], session, call, [*session, *call], read]))
    assert ranker.reads_sessions == any(interaction.modality == "session" for interaction in read)
    assert (ranker.text_model is not None) == any(interaction.modality == "conversation" for interaction in read)
    assert ranker.reads_sessions or np.allclose(scores[0], scores[1])
    assert ranker.text_model is not None or np.allclose(scores[0], scores[2])
    assert np.allclose(scores[3], scores[4])


@pytest.mark.parametrize(("name", "other"), [("session", 1.0), ("conversation", 0.0), ("conversation_keyword", 0.0)])
def test_a_uni_modal_system_gives_popularity_where_its_modality_is_missing(name: str, other: float) -> None:
    """Interactions of the other modality do not change its scores."""
    ranker = random_ranker(name, ITEMS, prior_of([["a"], ["b", "a"]], ITEMS))
    readable, unreadable = (random_history(np.random.default_rng(5), 3, conversations=share) for share in (1 - other, other))
    scores = ranker.rank_many(ranker.encode_many([unreadable, readable, [*unreadable, *readable, *unreadable]]))
    assert np.allclose(scores[0], ranker.prior)
    assert np.allclose(scores[1], scores[2])
    assert not np.allclose(scores[1], ranker.prior)


def test_scores_are_one_per_item_between_zero_and_one(ranker: Ranker) -> None:
    """Also for users without interactions. The prior is each item's share of purchase events."""
    scores = ranker.rank_many(ranker.encode_many([[], random_history(np.random.default_rng(1), 3)]))
    assert scores.shape == (2, len(ITEMS))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert ranker.prior.tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]


def test_names_version_and_fingerprint_come_from_the_folder(ranker: Ranker, tmp_path: Path) -> None:
    """The fingerprint is the manifest's hash, so two trainings never share it."""
    assert ranker.version == "7"
    assert ranker.items == ITEMS
    other = load_ranker(str(tmp_path / "other"), write(tmp_path / "other", ranker.name, "8"))
    assert other.fingerprint != ranker.fingerprint


def test_latent_feature_reads_order_and_both_modalities(tmp_path: Path) -> None:
    """Another order of the same interactions, or a missing modality, gives another representation."""
    ranker = load_ranker(str(tmp_path / "m"), write(tmp_path / "m", "latent_feature"))
    first, second = session_of([(1, ("car",))]), session_of([(2, ("dog",))])
    call = conversation_of([Part(3, 3, 1, np.ones(TEXT_WIDTH, dtype="<f2").tobytes(), "", "text-1")], "c")
    rows = ranker.encode_many([[first, second], [second, first], [first, second, call]])
    assert not np.allclose(rows[0], rows[1])
    assert not np.allclose(rows[0], rows[2])


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "unreadable"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "manifest"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x"), "hash"),
        (lambda folder: (folder / "reader.json").unlink(), "unreadable"),
        (lambda folder: rewrite(folder, kind="oracle"), "kind"),
        (lambda folder: rewrite(folder, kind="keyword"), "weights"),
        (lambda folder: replaced(folder, "network.json", b'{"latent":13}'), "weights"),
        (lambda folder: replaced(folder, "network.json", b"[]"), "weights"),
        (lambda folder: replaced(folder, "reader.json", b'{"vocabularies":{},"text_width":384}'), "weights"),
        (lambda folder: replaced(folder, "reader.json", b'{"vocabularies":[1]}'), "weights"),
        (lambda folder: replaced(folder, "weights.safetensors", b"x"), "weights"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_with_its_reason(tmp_path: Path, harm: object, reason: str) -> None:
    """The worker keeps its present model and logs the reason."""
    write(tmp_path / "m", "latent_feature")
    harm(tmp_path / "m")  # type: ignore[operator]
    with pytest.raises(ModelRefused) as refused:
        load_ranker(str(tmp_path / "m"))
    assert refused.value.reason == reason


def rewrite(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(manifest))


def replaced(folder: Path, name: str, content: bytes) -> None:
    """Replaces a file and its hash in the manifest."""
    (folder / name).write_bytes(content)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    rewrite(folder, files=files | {name: hashlib.sha256(content).hexdigest()})


def test_another_manifest_than_the_announced_one_is_refused(tmp_path: Path) -> None:
    """Write access to the folder alone cannot change what is served."""
    write(tmp_path / "m", "popular")
    with pytest.raises(ModelRefused, match="not the announced one"):
        load_ranker(str(tmp_path / "m"), "0" * 64)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """A diverged training is not served."""
    from models.network import NeuralRanker

    ranker = random_ranker("latent_feature", ITEMS, prior_of([["a"]], ITEMS))
    assert isinstance(ranker, NeuralRanker)
    ranker.network.state_dict()["tags.bias"].fill_(float("nan"))
    write_ranker(tmp_path / "bad", ranker, version="1")
    with pytest.raises(ModelRefused, match="not finite"):
        load_ranker(str(tmp_path / "bad"))
