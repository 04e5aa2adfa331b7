"""A model version as one folder: written by the trainer, verified and loaded by workers from anywhere that fsspec can open.

`manifest.json` names every file with its SHA-256; the manifest's own SHA-256 is the model's fingerprint and the one that an
announcement carries. A network's folder also holds its vocabularies, its configuration and its weights. Nothing is unpickled, and
nothing is allocated that is larger than the files (`models.trusted_folders` bounds these). MLflow is not imported here.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import numpy as np
from safetensors import SafetensorError

from models import folders
from models.popular import Popular
from models.reliability import Reliability
from models.systems import POPULAR, SYSTEMS, network_type
from models.trusted_folders import (
    ANYWHERE,
    FolderTooLargeError,
    FolderTrust,
    PlainNameError,
    TrustedFolder,
    UntrustedFolderError,
    shown,
)
from models.vocabulary import Vocabulary
from stream.core.calibration import Calibration
from stream.core.ranking import Ranker, Rows
from stream.errors import IsthmusError

if TYPE_CHECKING:
    from torch import Tensor, nn

MANIFEST: Final = "manifest.json"
UNREADABLE: Final = "unreadable"
"""The only refusal reason that may resolve itself: the folder's storage is unreachable."""
UNTRUSTED: Final = "untrusted"
_REASONS: Final[dict[type[folders.FolderError], str]] = {
    UntrustedFolderError: UNTRUSTED,
    FolderTooLargeError: "size",
    PlainNameError: "name",
}
_CALIBRATION: Final = "calibration.json"
_WIDEST_TEXT: Final = 1 << 16


class ModelRefused(IsthmusError):  # noqa: N818  (a refusal is an answer, not a fault)
    """A model folder must not be served. `reason` is one word for the metric; the message names the file and the cause."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `manifest.json`.

    Attributes:
        kind: the system's name.
        version: the number in the registry.
        text_model: the text model that encoded the conversations; None where the model reads none.
        training: the configuration that the model was trained with.
        metrics: from the evaluation after training.
        reliability: of its probabilities, from the same; None for a model that has none.
        last_event_ms: the time of the newest example seen.
        examples: how many the model was trained on.
        code_version: the version of Isthmus that trained it.
        files: name -> SHA-256.
    """

    kind: str
    version: str
    text_model: str | None
    training: dict[str, Any]
    metrics: dict[str, float]
    last_event_ms: int
    examples: int
    code_version: str
    files: dict[str, str]
    reliability: Reliability | None = None


class _ItemsFile(msgspec.Struct, frozen=True):
    """The content of `items.json`."""

    items: list[str]
    prior: list[float]


class _ReaderFile(msgspec.Struct, frozen=True):
    """The content of `reader.json`."""

    vocabularies: dict[str, list[str]]
    text_width: Annotated[int, msgspec.Meta(ge=0, le=_WIDEST_TEXT)]


def write_ranker(
    folder: Path | str,
    ranker: Ranker,
    *,
    version: str,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    reliability: Reliability | None = None,
    last_event_ms: int = 0,
    examples: int = 0,
    code_version: str = "",
) -> str:
    """Writes a ranker as a new folder, a path or a URL, and returns the SHA-256 of its manifest.

    The manifest is written last: a folder without one is unfinished. `training` is the configuration that the ranker was trained
    with.

    Raises:
        models.folders.FolderError: the folder exists already, or cannot be written.
    """
    folder = str(folder)
    folders.create(folder)
    items = {"items": ranker.items, "prior": [float(share) for share in ranker.prior]}
    contents = {"items.json": json.dumps(items).encode(), **_network_contents(ranker)}
    for name, content in contents.items():
        folders.write(folder, name, content)
    manifest = msgspec.json.encode(
        Manifest(
            kind=ranker.name,
            version=version,
            text_model=ranker.text_model,
            training=dict(training or {}),
            metrics=dict(metrics or {}),
            reliability=reliability,
            last_event_ms=last_event_ms,
            examples=examples,
            code_version=code_version,
            files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        )
    )
    folders.write(folder, MANIFEST, manifest)
    return hashlib.sha256(manifest).hexdigest()


def _network_contents(ranker: Ranker) -> dict[str, bytes]:
    if ranker.name == POPULAR:
        return {}
    from safetensors.torch import save  # noqa: PLC0415

    from models.network import NeuralRanker  # noqa: PLC0415  (torch: 600 MB, only where a network is written)

    if not isinstance(ranker, NeuralRanker):
        raise TypeError(f"{type(ranker).__name__} cannot be written as a model folder")
    featurizer = {
        "vocabularies": {name: vocabulary.tokens for name, vocabulary in ranker.featurizer.vocabularies.items()},
        "text_width": ranker.featurizer.text_width,
    }
    weights = {name: weight.contiguous() for name, weight in ranker.network.state_dict().items()}
    calibration = {} if ranker.calibration is None else {_CALIBRATION: msgspec.json.encode(ranker.calibration)}
    return {
        "reader.json": json.dumps(featurizer).encode(),
        "network.json": msgspec.json.encode(ranker.config),
        "weights.safetensors": save(weights),
        **calibration,
    }


def read_manifest(uri: str, sha256: str | None = None, trust: FolderTrust = ANYWHERE) -> tuple[Manifest, str]:
    """Returns the manifest and its SHA-256.

    Raises:
        ModelRefused: the folder is not trusted, or the manifest is missing, broken, too large or not the announced one.
    """
    with _refusals():
        return _manifest(TrustedFolder(uri, trust), uri, sha256)


def load_ranker(uri: str, sha256: str | None = None, trust: FolderTrust = ANYWHERE) -> Ranker:
    """Returns the ranker in a folder, after verifying every file. A folder that somebody else names needs a `trust`.

    Raises:
        ModelRefused: the folder is not trusted or too large, a file is missing or changed, the kind is unknown, sizes do not match,
            or a weight is not finite.
    """
    with _refusals():
        folder = TrustedFolder(uri, trust)
        manifest, fingerprint = _manifest(folder, uri, sha256)
        folder.check(manifest.files)
        contents = {name: _verified(folder, uri, name, expected) for name, expected in manifest.files.items()}
    items, prior = _items_and_prior(uri, contents)
    if manifest.kind == POPULAR:
        return Popular(manifest.version, fingerprint, items, prior)
    _check_kind(uri, manifest)
    return _neural(uri, manifest, fingerprint, items, prior, contents)


def verify_folder(uri: str, sha256: str, trust: FolderTrust = ANYWHERE) -> Manifest:
    """Returns the manifest of a folder whose every file is what it says. It loads nothing.

    Raises:
        ModelRefused: the folder is not trusted or too large, a file is missing or changed, or the kind is unknown.
    """
    with _refusals():
        folder = TrustedFolder(uri, trust)
        manifest, _ = _manifest(folder, uri, sha256)
        folder.check(manifest.files)
        for name, expected in manifest.files.items():
            _verified(folder, uri, name, expected)
    _check_kind(uri, manifest)
    return manifest


def read_prior(uri: str, sha256: str, trust: FolderTrust = ANYWHERE) -> tuple[tuple[str, ...], Rows]:
    """Returns the items of a model folder and their popularity prior, verified. It reads no weights.

    Raises:
        ModelRefused: the folder is not trusted, or manifest or `items.json` is missing, changed, too large or not usable.
    """
    with _refusals():
        folder = TrustedFolder(uri, trust)
        manifest, _ = _manifest(folder, uri, sha256)
        content = _verified(folder, uri, "items.json", manifest.files.get("items.json", ""))
    return _items_and_prior(uri, {"items.json": content})


def _manifest(folder: TrustedFolder, uri: str, sha256: str | None) -> tuple[Manifest, str]:
    content = folder.read(MANIFEST)
    fingerprint = hashlib.sha256(content).hexdigest()
    if sha256 is not None and fingerprint != sha256:
        raise ModelRefused("hash", f"{shown(uri)}: the manifest is not the announced one")
    try:
        return msgspec.json.decode(content, type=Manifest), fingerprint
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelRefused("manifest", f"{shown(uri)}: {error}") from None


def _verified(folder: TrustedFolder, uri: str, name: str, sha256: str) -> bytes:
    content = folder.read(name)
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ModelRefused("hash", f"{shown(uri)}: {name} does not have the manifest's SHA-256")
    return content


@contextmanager
def _refusals() -> Iterator[None]:
    """Raises what storage and bounds refuse as ModelRefused."""
    try:
        yield
    except folders.FolderError as error:
        raise ModelRefused(_REASONS.get(type(error), UNREADABLE), str(error)) from None


def _check_kind(uri: str, manifest: Manifest) -> None:
    if manifest.kind != POPULAR and manifest.kind not in SYSTEMS:
        raise ModelRefused("kind", f"{shown(uri)}: this version of Isthmus has no model of kind {shown(manifest.kind)}")


def _items_and_prior(uri: str, contents: Mapping[str, bytes]) -> tuple[tuple[str, ...], Rows]:
    try:
        catalogue = msgspec.json.decode(contents["items.json"], type=_ItemsFile)
        items, prior = tuple(catalogue.items), np.array(catalogue.prior, dtype=np.float32)
    except (KeyError, ValueError, RecursionError) as error:
        raise ModelRefused("items", f"{shown(uri)}: items.json is not usable ({type(error).__name__})") from None
    if len(items) != len(prior) or len(set(items)) != len(items) or not np.isfinite(prior).all():
        raise ModelRefused("items", f"{shown(uri)}: items and popularity prior do not match")
    return items, prior


def _neural(
    uri: str, manifest: Manifest, fingerprint: str, items: tuple[str, ...], prior: Rows, contents: Mapping[str, bytes]
) -> Ranker:
    import torch  # noqa: PLC0415  (600 MB: only where a network is served)
    from safetensors.torch import load  # noqa: PLC0415

    from models.features import Featurizer  # noqa: PLC0415
    from models.network import NeuralRanker  # noqa: PLC0415

    try:
        fields = msgspec.json.decode(contents["reader.json"], type=_ReaderFile)
        vocabularies = {name: Vocabulary(tokens) for name, tokens in fields.vocabularies.items()}
        featurizer = Featurizer(vocabularies, fields.text_width)
        network_class = network_type(manifest.kind)
        config = msgspec.json.decode(contents["network.json"], type=type(network_class.default))
        weights = load(contents["weights.safetensors"])
        with torch.device("meta"):  # allocates nothing: sizes in network.json are somebody else's choice, the weights are bounded
            planned = network_class(config, featurizer, torch.from_numpy(prior))
        _refuse_other_sizes(planned, weights)
        network = network_class(config, featurizer, torch.from_numpy(prior))
        network.load_state_dict(weights)
    except (
        *(KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError, MemoryError),
        *(SafetensorError, msgspec.MsgspecError),
    ) as error:
        text = f"{shown(uri)}: weights, vocabularies and configuration do not match: {error}"
        raise ModelRefused("weights", text) from None
    if not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise ModelRefused("weights", f"{shown(uri)}: a weight is not finite")
    return NeuralRanker(
        manifest.kind,
        manifest.version,
        fingerprint,
        items,
        prior,
        manifest.text_model,
        featurizer,
        network,
        config,
        _calibration(uri, contents),
    )


def _calibration(uri: str, contents: Mapping[str, bytes]) -> Calibration | None:
    """Returns the calibration; None for a folder without one, as those of 0.1.0."""
    if _CALIBRATION not in contents:
        return None
    try:
        calibration = msgspec.json.decode(contents[_CALIBRATION], type=Calibration)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ModelRefused("calibration", f"{shown(uri)}: {_CALIBRATION}: {error}") from None
    if not (math.isfinite(calibration.intercept) and 0 < calibration.slope < math.inf):
        raise ModelRefused("calibration", f"{shown(uri)}: {_CALIBRATION}: a slope above 0 and an intercept are needed")
    return calibration


def _refuse_other_sizes(planned: "nn.Module", weights: "dict[str, Tensor]") -> None:
    """Raises ValueError if the weights do not fit. The network decides which of them an earlier version may lack."""
    try:
        planned.load_state_dict(weights, assign=True)
    except RuntimeError:
        raise ValueError("network.json asks for other sizes than the weights have") from None
