"""One training run: examples -> split -> training -> registry -> gate -> champion. Whatever fails, the champion stays in place.

The newest tenth of the examples is held out of training and of nothing else: on the part of it that is also newer than all that
the champion was trained on, the gate compares both.
"""

import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import msgspec
import numpy as np
from safetensors.torch import save

from models.folder import ModelRefused, load_ranker, read_manifest, write_folder
from models.latent_feature import LatentFeature
from models.popular import prior_of
from stream.core.announcements import ModelAnnouncement
from stream.core.outputs import Role, TrainingExample
from stream.core.ranking import Ranker
from training.gate import Verdict, decide, too_few
from training.loop import Trained, TrainingConfig, train
from training.measures import judge, popular_of, table
from training.registry import Registry, Version
from training.split import split

MIN_EXAMPLES = 50
Say = Callable[[str], None]


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is made with; `margin` and `min_judged` are the gate's."""

    training: TrainingConfig = TrainingConfig()
    margin: float = 0.01
    min_judged: int = 200


class Result(NamedTuple):
    """What a run brought: the announcement of a new champion, or None, and why."""

    announcement: ModelAnnouncement | None
    reason: str


class TooFewExamplesError(Exception):
    """There is not enough to train on yet."""


def publish_popular(examples: Sequence[TrainingExample], items: Sequence[str], registry: Registry) -> Result:
    """The first version of all: popularity, champion until something beats it."""
    number = registry.next_version()
    folder = registry.new_folder(number)
    prior = prior_of((example.items for example in examples), items)
    last_ms = max((example.occurred_at for example in examples), default=0)
    sha256 = write_folder(
        folder,
        kind="popular",
        version=number,
        items=tuple(items),
        prior=prior,
        last_event_ms=last_ms,
        examples=len(examples),
        code_version=code_version(),
    )
    registry.register(number, folder, sha256, "popular", {"examples": len(examples), "last_event_ms": last_ms}, {})
    reason = "the first model: popularity"
    registry.say_why(number, reason)
    return Result(announcement_of(registry.promote(number)), reason)


def train_once(
    examples: Sequence[TrainingExample], items: Sequence[str], registry: Registry, config: RunConfig, say: Say = lambda _: None
) -> Result:
    """Trains on `examples` (newest revisions, in order of time), registers the version and lets the gate decide.

    Raises:
        TooFewExamplesError: under 50 examples.
        training.loop.NotFiniteError: training broke off; nothing was registered.
        training.registry.RegistryError: the registry cannot be used.
    """
    if len(examples) < MIN_EXAMPLES:
        raise TooFewExamplesError(
            f"{len(examples)} examples; {MIN_EXAMPLES} are needed: wait for purchases with interactions before them"
        )
    training, validation, held_out = split(examples)
    champion = registry.holder("champion")
    served, served_last_ms = _load(champion, say)
    last_ms = max(example.occurred_at for example in [*training, *validation])
    fresh = [example for example in held_out if example.occurred_at > max(last_ms, served_last_ms)]
    if (refusal := too_few(len(fresh), config.min_judged)) is not None:
        return Result(None, refusal.reason)  # before training: nothing that it could bring would pass
    warm = served if isinstance(served, LatentFeature) else None
    started = time.monotonic()
    trained = train(training, validation, items, config.training, warm=warm, say=say)
    say(f"trained on {len(training)} examples in {time.monotonic() - started:.1f} s")
    number, ranker = _register(trained, registry, config, fresh, last_ms, len(training) + len(validation))
    verdict = _gate(ranker, served, fresh, [*training, *validation], config, same=_same(champion, config))
    registry.say_why(number, verdict.reason)
    if not verdict.promoted:
        return Result(None, f"version {number} refused: {verdict.reason}")
    return Result(announcement_of(registry.promote(number)), f"version {number} promoted: {verdict.reason}")


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
    """What makes two runs of one configuration: all but the seed."""
    found: dict[str, Any] = msgspec.to_builtins(config.training)
    found.pop("seed")
    return found


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
    return manifest.config.get("training") == configuration_of(config)


def _register(
    trained: Trained, registry: Registry, config: RunConfig, fresh: Sequence[TrainingExample], last_ms: int, count: int
) -> tuple[str, Ranker]:
    """Writes the folder, registers it, and gives version and ranker as a worker would load it."""
    number = registry.next_version()
    folder = registry.new_folder(number)
    metrics = {"validation_loss": trained.validation}
    for row in table(judge(trained.ranker(), fresh)):
        metrics |= {f"hr3_{row.event_type}": row.hr3, f"map3_{row.event_type}": row.map3}
    network_config: dict[str, Any] = msgspec.to_builtins(config.training.network)
    sha256 = write_folder(
        folder,
        kind="latent_feature",
        version=number,
        items=trained.items,
        prior=trained.prior,
        text_model=trained.text_model,
        vocabulary=trained.vocabulary,
        weights=save({name: weight.contiguous() for name, weight in trained.network.state_dict().items()}),
        config={**network_config, "training": configuration_of(config)},
        metrics=metrics,
        last_event_ms=last_ms,
        examples=count,
        code_version=code_version(),
    )
    params = {"examples": count, "epochs": trained.epochs, "seed": config.training.seed, "last_event_ms": last_ms}
    registry.register(number, folder, sha256, "latent_feature", params, metrics)
    return number, load_ranker(str(folder), sha256)


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
        judge(ranker, fresh).average_precisions,
        None if served is None else judge(served, fresh).average_precisions,
        judge(popular, fresh).average_precisions,
        same_configuration=same,
        margin=config.margin,
        min_judged=config.min_judged,
        rng=np.random.default_rng(config.training.seed),
    )
