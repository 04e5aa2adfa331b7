"""One training run: examples -> split -> training -> registry -> gate -> champion. Whatever fails, the champion stays.

The newest tenth of the examples is held out of training. The gate compares candidate and champion on the part of it that is also
newer than everything the champion was trained on.
"""

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from models.artifact import UNTRUSTED, ModelRefused, load_ranker, read_manifest, write_ranker
from models.reliability import Reliability
from models.systems import DEFAULT, POPULAR, network_type
from models.trusted_folders import FolderTrust
from stream.core.announcements import ModelAnnouncement
from stream.core.outputs import Role, TrainingExample
from stream.core.ranking import Ranker
from stream.errors import IsthmusError
from training import distributed
from training.calibration import reliability
from training.gate import Verdict, decide, refuse_too_few
from training.loop import TrainingConfig
from training.metrics import evaluate, metrics_by_type, popular_ranker
from training.progress import SILENT, ProgressReporter
from training.registry import ModelVersion, Registry, RegistryError
from training.split import MIN_EXAMPLES, split
from training.text_vectors import TextVectors
from training.train_system import TrainedSystem, train_system


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of a run.

    Attributes:
        system: its name.
        training: how it is trained.
        margin: the gate's: how much worse in MAP@3 the same configuration may be than the champion.
        min_judged: the gate's: fewer fresh purchase events are not enough for a verdict.
        grows: whether waiting brings more examples.
    """

    system: str = DEFAULT
    training: TrainingConfig = TrainingConfig()
    margin: float = 0.01
    min_judged: int = 200
    grows: bool = True


class RunResult(NamedTuple):
    """The outcome of a run: the announcement of a new champion, or None, and the reason."""

    announcement: ModelAnnouncement | None
    reason: str


class TooFewExamplesError(IsthmusError):
    """There are not enough examples to train on yet."""


def publish_popular(examples: Sequence[TrainingExample], items: Sequence[str], registry: Registry) -> RunResult:
    """Registers and promotes the first version: popularity, champion until a model beats it."""
    number = registry.next_version()
    last_ms = max((example.occurred_at for example in examples), default=0)
    params = {"examples": len(examples), "last_event_ms": last_ms}
    _write(popular_ranker(examples, items), number, registry, {}, params, {})
    reason = "the first model: popularity"
    registry.set_reason(number, reason)
    return RunResult(announcement_of(registry.promote(number)), reason)


def train_once(
    examples: Sequence[TrainingExample],
    items: Sequence[str],
    registry: Registry,
    config: RunConfig,
    progress: ProgressReporter = SILENT,
    checkpoints: Path | None = None,
    texts: TextVectors | None = None,
) -> RunResult:
    """Trains on `examples` (newest revisions, in order of time), registers the version and lets the gate decide.

    With several processes (`training.distributed`) all of them train and the main process registers and evaluates. `checkpoints`: a
    folder from which an interrupted training resumes. `texts`: of the items, where they are known.

    Raises:
        TooFewExamplesError: fewer than 50 examples.
        training.loop.NotFiniteError: training diverged; nothing was registered.
        training.stages.NothingToLearnError: the examples lack the events that the system needs.
        training.checkpoints.CheckpointError: the folder holds another training's checkpoints.
        training.registry.RegistryError: the registry cannot be used.
    """
    if len(examples) < MIN_EXAMPLES:
        raise TooFewExamplesError(
            f"{len(examples)} examples; {MIN_EXAMPLES} are needed: wait for purchases with interactions before them"
        )
    training, validation, held_out = split(examples)
    champion = registry.version_in_role("champion")
    served, served_last_ms = _load_champion(champion, registry.trust, progress)
    last_ms = max(example.occurred_at for example in [*training, *validation])
    fresh = [example for example in held_out if example.occurred_at > max(last_ms, served_last_ms)]
    if (refusal := refuse_too_few(len(fresh), config.min_judged, grows=config.grows)) is not None:
        return RunResult(None, refusal.reason)  # before training, because no candidate could pass
    started = time.monotonic()
    trained = train_system(
        config.system,
        training,
        validation,
        items,
        config.training,
        warm=served,
        progress=progress,
        checkpoints=checkpoints,
        texts=texts,
    )
    progress.log(f"{config.system}: trained on {len(training)} examples in {time.monotonic() - started:.1f} s")
    if distributed.rank() > 0:
        return RunResult(None, "trained; the main process registers and evaluates")
    number, ranker = _register(trained, registry, config, fresh, last_ms, len(training) + len(validation))
    same_configuration = _has_configuration(champion, registry.trust, config)
    verdict = _gate(ranker, served, fresh, [*training, *validation], config, same_configuration=same_configuration)
    registry.set_reason(number, verdict.reason)
    if not verdict.promoted:
        return RunResult(None, f"version {number} refused: {verdict.reason}")
    return RunResult(announcement_of(registry.promote(number)), f"version {number} promoted: {verdict.reason}")


def champion_announcement(registry: Registry) -> ModelAnnouncement | None:
    """Returns the announcement of the registry's present champion, or None."""
    champion = registry.version_in_role("champion")
    return None if champion is None else announcement_of(champion)


def announcement_of(version: ModelVersion, role: Role = "champion") -> ModelAnnouncement:
    """Returns what tells the workers to load a version in a role."""
    return ModelAnnouncement(
        role=role,
        name=version.kind,
        version=version.version,
        uri=version.uri,
        sha256=version.sha256,
        published_at=int(time.time() * 1_000),
    )


def code_version() -> str:
    try:
        return version("isthmus")
    except PackageNotFoundError:
        return "unknown"


def configuration_of(config: RunConfig) -> dict[str, Any]:
    """Returns what two runs of the same configuration have in common: the system and all of its settings but the seed."""
    network = config.training.network
    if network is None and config.system != POPULAR:
        network = network_type(config.system).default
    training: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(config.training, network=network))
    training.pop("seed")
    return {"system": config.system, **training}


def _load_champion(champion: ModelVersion | None, trust: FolderTrust, progress: ProgressReporter) -> tuple[Ranker | None, int]:
    """Returns the champion's ranker and the time of the last event that it was trained on, in ms.

    Raises:
        RegistryError: its folder is not a trusted one.
    """
    if champion is None:
        return None, 0
    try:
        manifest, _ = read_manifest(champion.uri, champion.sha256, trust)
        return load_ranker(champion.uri, champion.sha256, trust), manifest.last_event_ms
    except ModelRefused as refused:
        if refused.reason == UNTRUSTED:  # without a champion to compare with, the gate would be open
            raise RegistryError(f"the champion, version {champion.version}, cannot be judged: {refused}") from None
        progress.log(f"the champion, version {champion.version}, cannot be loaded ({refused}): comparing with Popular only")
        return None, 0


def _has_configuration(champion: ModelVersion | None, trust: FolderTrust, config: RunConfig) -> bool:
    if champion is None:
        return False
    try:
        manifest, _ = read_manifest(champion.uri, champion.sha256, trust)
    except ModelRefused:
        return False
    return manifest.training == configuration_of(config)


def _register(
    trained: TrainedSystem, registry: Registry, config: RunConfig, fresh: Sequence[TrainingExample], last_ms: int, count: int
) -> tuple[str, Ranker]:
    """Registers the trained version; returns its number, and its ranker as a worker would load it."""
    number = registry.next_version()
    metrics = {"validation_loss": trained.validation_loss}
    for by_type in metrics_by_type(evaluate(trained.ranker, fresh)):
        metrics |= {f"hr3_{by_type.event_type}": by_type.hr3, f"map3_{by_type.event_type}": by_type.map3}
    judged = reliability(trained.ranker, fresh)
    if judged is not None:
        metrics["calibration_error"] = judged.error
    params = {"examples": count, "epochs": trained.epochs, "seed": config.training.seed, "last_event_ms": last_ms}
    return number, _write(trained.ranker, number, registry, configuration_of(config), params, metrics, judged)


def _write(
    ranker: Ranker,
    number: str,
    registry: Registry,
    training: Mapping[str, Any],
    params: Mapping[str, int],
    metrics: Mapping[str, float],
    judged: Reliability | None = None,
) -> Ranker:
    """Writes the version's folder, registers it, and returns the ranker as a worker would load it."""
    folder = registry.new_folder(number)
    sha256 = write_ranker(
        folder,
        ranker,
        version=number,
        training=training,
        metrics=metrics,
        reliability=judged,
        last_event_ms=params["last_event_ms"],
        examples=params["examples"],
        code_version=code_version(),
    )
    registry.register(number, folder, sha256, ranker.name, params, metrics)
    return load_ranker(folder, sha256)


def _gate(
    ranker: Ranker,
    served: Ranker | None,
    fresh: Sequence[TrainingExample],
    known: Sequence[TrainingExample],
    config: RunConfig,
    *,
    same_configuration: bool,
) -> Verdict:
    popular = popular_ranker(known, ranker.items)
    return decide(
        evaluate(ranker, fresh).average_precisions,
        None if served is None else evaluate(served, fresh).average_precisions,
        evaluate(popular, fresh).average_precisions,
        same_configuration=same_configuration,
        margin=config.margin,
        min_judged=config.min_judged,
        rng=np.random.default_rng(config.training.seed),
    )
