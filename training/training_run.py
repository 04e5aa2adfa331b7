"""One training run: examples -> split -> training -> registry -> gate -> champion. Whatever fails, the champion stays in place.

The newest tenth of the examples is held out of training and of nothing else: on the part of it that is also newer than all that
the champion was trained on, the gate compares both.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from models.artifact import ModelRefused, load_ranker, read_manifest, write_ranker
from models.systems import DEFAULT, POPULAR, network_type
from stream.core.announcements import ModelAnnouncement
from stream.core.outputs import Role, TrainingExample
from stream.core.ranking import Ranker
from stream.errors import IsthmusError
from training import distributed
from training.gate import Verdict, decide, too_few
from training.loop import TrainingConfig
from training.metrics import evaluate, popular_of, table
from training.progress import SILENT, ProgressReporter
from training.registry import Registry, Version
from training.split import MIN_EXAMPLES, split
from training.train_system import TrainedSystem, train_system

Say = Callable[[str], None]


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is made with; `margin` and `min_judged` are the gate's, `grows` is whether waiting brings more examples."""

    system: str = DEFAULT
    training: TrainingConfig = TrainingConfig()
    margin: float = 0.01
    min_judged: int = 200
    grows: bool = True


class Result(NamedTuple):
    """What a run brought: the announcement of a new champion, or None, and why."""

    announcement: ModelAnnouncement | None
    reason: str


class TooFewExamplesError(IsthmusError):
    """There is not enough to train on yet."""


def publish_popular(examples: Sequence[TrainingExample], items: Sequence[str], registry: Registry) -> Result:
    """The first version of all: popularity, champion until something beats it."""
    number = registry.next_version()
    last_ms = max((example.occurred_at for example in examples), default=0)
    params = {"examples": len(examples), "last_event_ms": last_ms}
    _write(popular_of(examples, items), number, registry, {}, params, {})
    reason = "the first model: popularity"
    registry.say_why(number, reason)
    return Result(announcement_of(registry.promote(number)), reason)


def train_once(
    examples: Sequence[TrainingExample],
    items: Sequence[str],
    registry: Registry,
    config: RunConfig,
    watch: ProgressReporter = SILENT,
    checkpoints: Path | None = None,
) -> Result:
    """Trains on `examples` (newest revisions, in order of time), registers the version and lets the gate decide.

    Of several processes (`training.distributed`) all train; the first alone registers and judges. `checkpoints`: a folder from
    which
    an interrupted training goes on.

    Raises:
        TooFewExamplesError: under 50 examples.
        training.loop.NotFiniteError: training broke off; nothing was registered.
        training.stages.NothingToLearnError: the examples lack the events that the system is made of.
        training.checkpoints.CheckpointError: the folder holds another run's checkpoints.
        training.registry.RegistryError: the registry cannot be used.
    """
    if len(examples) < MIN_EXAMPLES:
        raise TooFewExamplesError(
            f"{len(examples)} examples; {MIN_EXAMPLES} are needed: wait for purchases with interactions before them"
        )
    training, validation, held_out = split(examples)
    champion = registry.holder("champion")
    served, served_last_ms = _load(champion, watch.say)
    last_ms = max(example.occurred_at for example in [*training, *validation])
    fresh = [example for example in held_out if example.occurred_at > max(last_ms, served_last_ms)]
    if (refusal := too_few(len(fresh), config.min_judged, grows=config.grows)) is not None:
        return Result(None, refusal.reason)  # before training: nothing that it could bring would pass
    started = time.monotonic()
    trained = train_system(
        config.system, training, validation, items, config.training, warm=served, watch=watch, checkpoints=checkpoints
    )
    watch.say(f"{config.system}: trained on {len(training)} examples in {time.monotonic() - started:.1f} s")
    if distributed.rank() > 0:
        return Result(None, "trained; the first process registers and judges")
    number, ranker = _register(trained, registry, config, fresh, last_ms, len(training) + len(validation))
    verdict = _gate(ranker, served, fresh, [*training, *validation], config, same=_same(champion, config))
    registry.say_why(number, verdict.reason)
    if not verdict.promoted:
        return Result(None, f"version {number} refused: {verdict.reason}")
    return Result(announcement_of(registry.promote(number)), f"version {number} promoted: {verdict.reason}")


def champion_of(registry: Registry) -> ModelAnnouncement | None:
    """What the workers are told of the champion as the registry has it now; None where there is none."""
    champion = registry.holder("champion")
    return None if champion is None else announcement_of(champion)


def announcement_of(version: Version, role: Role = "champion") -> ModelAnnouncement:
    """What the workers are told of a version in a role."""
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
    """What makes two runs of one configuration: the system and all of its settings but the seed."""
    network = config.training.network
    if network is None and config.system != POPULAR:
        network = network_type(config.system).default
    found: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(config.training, network=network))
    found.pop("seed")
    return {"system": config.system, **found}


def _load(champion: Version | None, say: Say) -> tuple[Ranker | None, int]:
    """The champion and the time of the last event that it was trained on, ms."""
    if champion is None:
        return None, 0
    try:
        manifest, _ = read_manifest(champion.uri, champion.sha256)
        return load_ranker(champion.uri, champion.sha256), manifest.last_event_ms
    except ModelRefused as refused:
        say(f"the champion, version {champion.version}, cannot be loaded ({refused}): judged against Popular only")
        return None, 0


def _same(champion: Version | None, config: RunConfig) -> bool:
    if champion is None:
        return False
    try:
        manifest, _ = read_manifest(champion.uri, champion.sha256)
    except ModelRefused:
        return False
    return manifest.training == configuration_of(config)


def _register(
    trained: TrainedSystem, registry: Registry, config: RunConfig, fresh: Sequence[TrainingExample], last_ms: int, count: int
) -> tuple[str, Ranker]:
    """The version's number, and its ranker as a worker would load it."""
    number = registry.next_version()
    metrics = {"validation_loss": trained.validation}
    for row in table(evaluate(trained.ranker, fresh)):
        metrics |= {f"hr3_{row.event_type}": row.hr3, f"map3_{row.event_type}": row.map3}
    params = {"examples": count, "epochs": trained.epochs, "seed": config.training.seed, "last_event_ms": last_ms}
    return number, _write(trained.ranker, number, registry, configuration_of(config), params, metrics)


def _write(
    ranker: Ranker,
    number: str,
    registry: Registry,
    training: Mapping[str, Any],
    params: Mapping[str, int],
    metrics: Mapping[str, float],
) -> Ranker:
    """Writes the version's folder, registers it, and gives the ranker as a worker would load it."""
    folder = registry.new_folder(number)
    sha256 = write_ranker(
        folder,
        ranker,
        version=number,
        training=training,
        metrics=metrics,
        last_event_ms=params["last_event_ms"],
        examples=params["examples"],
        code_version=code_version(),
    )
    registry.register(number, folder, sha256, ranker.name, params, metrics)
    return load_ranker(str(folder), sha256)


def _gate(
    ranker: Ranker,
    served: Ranker | None,
    fresh: Sequence[TrainingExample],
    known: Sequence[TrainingExample],
    config: RunConfig,
    *,
    same: bool,
) -> Verdict:
    popular = popular_of(known, ranker.items)
    return decide(
        evaluate(ranker, fresh).average_precisions,
        None if served is None else evaluate(served, fresh).average_precisions,
        evaluate(popular, fresh).average_precisions,
        same_configuration=same,
        margin=config.margin,
        min_judged=config.min_judged,
        rng=np.random.default_rng(config.training.seed),
    )
