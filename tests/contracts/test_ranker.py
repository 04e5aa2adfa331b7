"""One suite on every ranker: one interaction at a time gives what the whole history gives."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.folder import MANIFEST, ModelRefused, load_ranker, write_folder
from models.popular import prior_of
from models.vocabulary import Vocabulary
from stream.core.interactions import Interaction, Part, conversation_of, session_of
from stream.core.ranking import Ranker

ITEMS = ("a", "b", "c", "d", "e")
TAGS = ("car", "claim", "dog", "home", "price")
WIDTH = 384


def write(folder: Path, kind: str, **changes: object) -> str:
    fields: dict[str, object] = {"kind": kind, "version": "7", "items": ITEMS, "prior": prior_of([["a"], ["b", "a"]], ITEMS)}
    if kind == "latent_feature":
        import torch
        from safetensors.torch import save

        from models.latent_feature import LatentFeatureConfig, LatentFeatureNetwork

        torch.manual_seed(1)
        config = LatentFeatureConfig(latent=12, hidden=24, dense=10)
        network = LatentFeatureNetwork(config, len(TAGS), len(ITEMS))
        fields |= {
            "text_model": "text-1",
            "vocabulary": Vocabulary(TAGS),
            "weights": save(dict(network.state_dict())),
            "config": {"latent": 12, "hidden": 24, "dense": 10},
        }
    return write_folder(folder, **(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(params=["popular", "latent_feature"])
def ranker(request: pytest.FixtureRequest, tmp_path: Path) -> Ranker:
    """Written and loaded as a worker does."""
    return load_ranker(str(tmp_path / "model"), write(tmp_path / "model", request.param))


def history(rng: np.random.Generator, length: int) -> list[Interaction]:
    made: list[Interaction] = []
    for number in range(length):
        if rng.random() < 0.3:
            vector = rng.normal(size=WIDTH).astype("<f2").tobytes()
            made.append(conversation_of([Part(number, number, 2, vector, (), "text-1")], f"c{number}"))
        else:
            tags = tuple(rng.choice([*TAGS, "unknown"], size=int(rng.integers(1, 4))).tolist())
            made.append(session_of([(number, tags)]))
    return made


def test_advancing_one_by_one_gives_what_encoding_gives(ranker: Ranker) -> None:
    """Same first three for at least 99.9 % of users, scores within 1e-3."""
    rng = np.random.default_rng(0)
    histories = [history(rng, int(rng.integers(0, 11))) for _ in range(1_000)]
    encoded = ranker.rank_many(ranker.encode_many(histories))
    rows = np.tile(ranker.initial(), (len(histories), 1))
    for turn in range(10):
        due = [row for row, one in enumerate(histories) if len(one) > turn]
        rows[due] = ranker.advance_many(rows[due], [histories[row][turn] for row in due])
    advanced = ranker.rank_many(rows)
    assert np.abs(encoded - advanced).max() < 1e-3
    same = (np.argsort(-encoded, axis=1, kind="stable")[:, :3] == np.argsort(-advanced, axis=1, kind="stable")[:, :3]).all(axis=1)
    assert same.mean() >= 0.999


def test_scores_are_one_per_item_between_nought_and_one(ranker: Ranker) -> None:
    """Also for users without interactions; the prior has one share per item."""
    scores = ranker.rank_many(ranker.encode_many([[], history(np.random.default_rng(1), 3)]))
    assert scores.shape == (2, len(ITEMS))
    assert ((scores >= 0) & (scores <= 1)).all()
    assert ranker.prior.tolist() == [1.0, 0.5, 0.0, 0.0, 0.0]


def test_names_version_and_fingerprint_come_from_the_folder(ranker: Ranker, tmp_path: Path) -> None:
    """The fingerprint is the manifest's hash: two trainings never share it."""
    assert ranker.version == "7"
    assert ranker.items == ITEMS
    other = load_ranker(str(tmp_path / "other"), write(tmp_path / "other", ranker.name, version="8"))
    assert other.fingerprint != ranker.fingerprint


def test_latent_feature_reads_order_and_both_modalities(tmp_path: Path) -> None:
    """The same interactions in another order, or one modality less, are another representation."""
    ranker = load_ranker(str(tmp_path / "m"), write(tmp_path / "m", "latent_feature"))
    one, two = session_of([(1, ("car",))]), session_of([(2, ("dog",))])
    call = conversation_of([Part(3, 3, 1, np.ones(WIDTH, dtype="<f2").tobytes(), (), "text-1")], "c")
    rows = ranker.encode_many([[one, two], [two, one], [one, two, call]])
    assert not np.allclose(rows[0], rows[1])
    assert not np.allclose(rows[0], rows[2])


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / MANIFEST).unlink(), "unreadable"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "manifest"),
        (lambda folder: (folder / "weights.safetensors").write_bytes(b"x"), "hash"),
        (lambda folder: (folder / "vocabulary.json").unlink(), "unreadable"),
        (lambda folder: rewrite(folder, kind="oracle"), "kind"),
        (lambda folder: rewrite(folder, config={"latent": 13}), "weights"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_with_its_reason(tmp_path: Path, harm: object, reason: str) -> None:
    """The worker keeps what it has and says why."""
    write(tmp_path / "m", "latent_feature")
    harm(tmp_path / "m")  # type: ignore[operator]
    with pytest.raises(ModelRefused) as refused:
        load_ranker(str(tmp_path / "m"))
    assert refused.value.reason == reason


def rewrite(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_another_manifest_than_the_announced_one_is_refused(tmp_path: Path) -> None:
    """Whoever can write to the folder cannot change what is served."""
    write(tmp_path / "m", "popular")
    with pytest.raises(ModelRefused, match="not the announced one"):
        load_ranker(str(tmp_path / "m"), "0" * 64)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    """A diverged training is not served."""
    import torch
    from safetensors.torch import load, save

    write(tmp_path / "good", "latent_feature")
    weights = load((tmp_path / "good" / "weights.safetensors").read_bytes())
    weights["tag_bias"] = torch.full_like(weights["tag_bias"], float("nan"))
    write(tmp_path / "bad", "latent_feature", weights=save(weights))
    with pytest.raises(ModelRefused, match="not finite"):
        load_ranker(str(tmp_path / "bad"))
