"""A model version as one folder: written by the trainer, verified and loaded by workers, wherever fsspec can open it.

`manifest.json` names every file with its SHA-256; the manifest's own SHA-256 is the model's fingerprint and what an announcement
carries. Nothing is unpickled. MLflow is not imported here.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import fsspec
import msgspec
import numpy as np

from models.popular import Popular
from models.vocabulary import Vocabulary
from stream.core.ranking import Ranker, Rows

MANIFEST: Final = "manifest.json"


class ModelRefused(Exception):  # noqa: N818  (a refusal is an answer, not a fault)
    """A model folder that must not be served. `reason` is one word for the metric; the text says which file and why."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a folder says of itself. `last_event` is (occurred_at ms, user id) of the newest example seen; `files` name ->
    SHA-256.
    """

    kind: str
    version: str
    text_model: str | None
    config: dict[str, Any]
    metrics: dict[str, float]
    last_event_ms: int
    examples: int
    code_version: str
    files: dict[str, str]


def write_folder(
    folder: Path,
    *,
    kind: str,
    version: str,
    items: tuple[str, ...],
    prior: Rows,
    text_model: str | None = None,
    vocabulary: Vocabulary | None = None,
    weights: bytes | None = None,
    config: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    last_event_ms: int = 0,
    examples: int = 0,
    code_version: str = "",
) -> str:
    """Writes a new folder and gives the SHA-256 of its manifest, which is written last: a folder without one is unfinished."""
    folder.mkdir(parents=True)
    contents = {"items.json": json.dumps({"items": items, "prior": [float(share) for share in prior]}).encode()}
    if vocabulary is not None:
        contents["vocabulary.json"] = json.dumps(vocabulary.tags).encode()
    if weights is not None:
        contents["weights.safetensors"] = weights
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    manifest = msgspec.json.encode(
        Manifest(
            kind=kind,
            version=version,
            text_model=text_model,
            config=dict(config or {}),
            metrics=dict(metrics or {}),
            last_event_ms=last_event_ms,
            examples=examples,
            code_version=code_version,
            files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        )
    )
    (folder / MANIFEST).write_bytes(manifest)
    return hashlib.sha256(manifest).hexdigest()


def read_manifest(uri: str, sha256: str | None = None) -> tuple[Manifest, str]:
    """The manifest and its SHA-256; refused where it is missing, broken or not the announced one."""
    content = _read(uri, MANIFEST)
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ModelRefused("hash", f"{uri}: the manifest is not the announced one")
    try:
        return msgspec.json.decode(content, type=Manifest), found
    except msgspec.MsgspecError as error:
        raise ModelRefused("manifest", f"{uri}: {error}") from None


def load_ranker(uri: str, sha256: str | None = None) -> Ranker:
    """The ranker in a folder, verified.

    Raises:
        ModelRefused: a file is missing or changed, the kind is unknown, sizes do not fit, or a weight is not finite.
    """
    manifest, found = read_manifest(uri, sha256)
    contents = {name: _verified(uri, name, wanted) for name, wanted in manifest.files.items()}
    try:
        listed = json.loads(contents["items.json"])
        items, prior = tuple(listed["items"]), np.array(listed["prior"], dtype=np.float32)
    except (KeyError, ValueError) as error:
        raise ModelRefused("items", f"{uri}: items.json is not usable ({type(error).__name__})") from None
    if len(items) != len(prior) or len(set(items)) != len(items) or not np.isfinite(prior).all():
        raise ModelRefused("items", f"{uri}: items and popularity prior do not fit each other")
    if manifest.kind == "popular":
        return Popular(manifest.version, found, items, prior)
    if manifest.kind == "latent_feature":
        return _latent_feature(uri, manifest, found, items, prior, contents)
    raise ModelRefused("kind", f"{uri}: this version of Isthmus knows no model of kind {manifest.kind!r}")


def _latent_feature(
    uri: str, manifest: Manifest, found: str, items: tuple[str, ...], prior: Rows, contents: Mapping[str, bytes]
) -> Ranker:
    import torch  # noqa: PLC0415  (600 MB: only where a network is served)
    from safetensors.torch import load  # noqa: PLC0415

    from models.latent_feature import LatentFeature, LatentFeatureConfig, LatentFeatureNetwork  # noqa: PLC0415

    try:
        vocabulary = Vocabulary(json.loads(contents["vocabulary.json"]))
        config = msgspec.convert(manifest.config, LatentFeatureConfig)
        weights = load(contents["weights.safetensors"])
        network = LatentFeatureNetwork(config, len(vocabulary), len(items))
        network.load_state_dict(weights)
    except (KeyError, ValueError, RuntimeError, msgspec.MsgspecError) as error:
        raise ModelRefused("weights", f"{uri}: weights, vocabulary and configuration do not fit: {error}") from None
    if not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise ModelRefused("weights", f"{uri}: a weight is not finite")
    return LatentFeature(manifest.version, found, items, prior, manifest.text_model, vocabulary, network)


def _verified(uri: str, name: str, wanted: str) -> bytes:
    content = _read(uri, name)
    if hashlib.sha256(content).hexdigest() != wanted:
        raise ModelRefused("hash", f"{uri}: {name} is not what the manifest says")
    return content


def _read(uri: str, name: str) -> bytes:
    try:
        with fsspec.open(f"{uri.rstrip('/')}/{name}", "rb") as file:
            content: bytes = file.read()
            return content
    except (OSError, ValueError, ImportError) as error:
        raise ModelRefused("unreadable", f"{uri}: {name} cannot be read ({type(error).__name__})") from None
