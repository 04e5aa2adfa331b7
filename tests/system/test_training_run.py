"""Training runs with a real registry: the first champion, better ones, refusals, and runs that die midway."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import training.training_run
from models.artifact import load_ranker, read_manifest, write_ranker
from stream.core.outputs import TrainingExample
from tests.purchases import ITEMS, purchases, small_run
from tests.system.registries import registry_in, uri_of
from training.loop import NotFiniteError
from training.registry import Registry, RegistryError
from training.training_run import TooFewExamplesError, publish_popular, train_once


def with_popular(registry: Registry, examples: list[TrainingExample]) -> str:
    """Publishes Popular as the first champion, trained on what a first run trains on."""
    result = publish_popular(examples[: len(examples) * 8 // 10], ITEMS, registry)
    assert result.announcement is not None
    return result.announcement.version


def champion(registry: Registry) -> str | None:
    version = registry.version_in_role("champion")
    return None if version is None else version.version


def test_popular_is_the_first_champion_and_a_network_that_beats_it_the_next(registry_folder: Path) -> None:
    registry, examples = registry_in(registry_folder), purchases(600)
    assert with_popular(registry, examples) == "1"
    result = train_once(examples, ITEMS, registry, small_run())
    assert result.announcement is not None, result.reason
    assert "better than" in result.reason
    assert (champion(registry), result.announcement.version) == ("2", "2")


def test_the_announced_folder_loads_with_the_announced_version_and_fingerprint(registry_folder: Path) -> None:
    """As a worker loads it, without MLflow."""
    registry, examples = registry_in(registry_folder), purchases(600)
    announced = train_once(examples, ITEMS, registry, small_run()).announcement
    assert announced is not None
    ranker = load_ranker(announced.uri, announced.sha256)
    assert (ranker.version, ranker.fingerprint, ranker.items) == (announced.version, announced.sha256, ITEMS)
    manifest, _ = read_manifest(announced.uri, announced.sha256)
    assert manifest.last_event_ms == examples[539].occurred_at  # the newest tenth is held out
    assert manifest.examples == 540
    assert manifest.metrics == registry.get("2" if champion(registry) == "2" else "1").metrics


def test_the_same_configuration_on_newer_data_is_no_worse_and_promoted(registry_folder: Path) -> None:
    registry = registry_in(registry_folder)
    train_once(purchases(600), ITEMS, registry, small_run())
    result = train_once(purchases(900), ITEMS, registry, small_run(seed=1))
    assert result.announcement is not None, result.reason
    assert "no worse than the champion" in result.reason
    assert champion(registry) == "2"


def test_a_retrained_network_starts_from_the_champions_weights(registry_folder: Path) -> None:
    """With a learning rate of 0 it equals the champion."""
    registry = registry_in(registry_folder)
    first = train_once(purchases(600), ITEMS, registry, small_run()).announcement
    assert first is not None
    config = small_run()
    still = msgspec.structs.replace(config, training=msgspec.structs.replace(config.training, learning_rate=0.0, epochs=1))
    train_once(purchases(900), ITEMS, registry, still)
    former, retrained = load_ranker(first.uri), load_ranker(registry.get("2").uri)
    histories = [example.interactions for example in purchases(50, first=900)]
    assert np.array_equal(former.rank_many(former.encode_many(histories)), retrained.rank_many(retrained.encode_many(histories)))


def test_a_new_configuration_that_is_not_better_is_refused_with_the_numbers(registry_folder: Path) -> None:
    registry = registry_in(registry_folder)
    train_once(purchases(600), ITEMS, registry, small_run())
    result = train_once(purchases(900), ITEMS, registry, small_run(hidden=12))
    assert result.announcement is None
    assert "version 2 refused: a new configuration, and not better than the champion" in result.reason
    assert "interval" in result.reason
    assert champion(registry) == "1"
    assert registry.get("2").reason in result.reason


def test_a_model_that_learned_nothing_is_refused_and_popular_stays(registry_folder: Path) -> None:
    registry, examples = registry_in(registry_folder), purchases(600, planted=False)
    with_popular(registry, examples)
    result = train_once(examples, ITEMS, registry, small_run())
    assert result.announcement is None
    assert "not better than Popular" in result.reason
    assert champion(registry) == "1"


def test_too_few_fresh_events_are_refused_before_anything_is_trained(
    registry_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_in(registry_folder)
    monkeypatch.setattr(training.training_run, "train_system", pytest.fail)
    result = train_once(purchases(600), ITEMS, registry, small_run(min_judged=200))
    assert result.announcement is None
    assert "only 60 fresh purchase events" in result.reason
    assert "200 are needed" in result.reason
    assert registry.versions() == []


def test_events_that_the_champion_was_trained_on_do_not_count_as_fresh(registry_folder: Path) -> None:
    """Of 700 examples the newest 70 are held out; a champion trained up to number 680 leaves 19."""
    registry = registry_in(registry_folder)
    publish_popular(purchases(681), ITEMS, registry)
    assert "only 19 fresh" in train_once(purchases(700), ITEMS, registry, small_run()).reason


def test_too_few_examples_say_how_many_are_needed(registry_folder: Path) -> None:
    with pytest.raises(TooFewExamplesError, match="10 examples; 50 are needed"):
        train_once(purchases(10), ITEMS, registry_in(registry_folder), small_run())


def test_a_training_that_diverges_leaves_champion_and_registry_unchanged(
    registry_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, examples = registry_in(registry_folder), purchases(600)
    with_popular(registry, examples)

    def diverges(*_: object, **__: object) -> Any:
        raise NotFiniteError("the loss is nan")

    monkeypatch.setattr(training.training_run, "train_system", diverges)
    with pytest.raises(NotFiniteError):
        train_once(examples, ITEMS, registry, small_run())
    assert [version.version for version in registry.versions()] == ["1"]
    assert champion(registry) == "1"


def test_a_champion_that_the_registry_names_elsewhere_ends_the_run(registry_folder: Path, tmp_path: Path) -> None:
    """Whoever may write to the registry must not decide what a trainer reads, nor open the gate by a champion that nobody can
    judge.
    """
    registry, examples = registry_in(registry_folder), purchases(600)
    with_popular(registry, examples)
    elsewhere = tmp_path / "elsewhere"
    sha256 = write_ranker(elsewhere, load_ranker(registry.get("1").uri), version="2")
    registry.register("2", elsewhere, sha256, "popular", {}, {})
    registry.promote("2")
    with pytest.raises(RegistryError, match=r"the champion, version 2, cannot be judged: .* below a trusted folder"):
        train_once(examples, ITEMS, registry, small_run())
    assert champion(registry) == "2"


class KilledError(BaseException):
    """Simulates the end of the process: nothing in the run may catch it."""


def dies(*_: object, **__: object) -> Any:
    raise KilledError


@pytest.mark.parametrize(
    "effect",
    [
        (training.training_run, "write_ranker"),
        (Registry, "register"),
        (training.training_run, "load_ranker"),
        (Registry, "set_reason"),
        (Registry, "promote"),
    ],
    ids=lambda effect: effect[1],
)
def test_dying_before_any_effect_of_a_run_leaves_the_champion_and_the_next_run_succeeds(
    effect: tuple[Any, str], registry_folder: Path
) -> None:
    registry, examples = registry_in(registry_folder), purchases(600)
    with_popular(registry, examples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*effect, dies)
        with pytest.raises(KilledError):
            train_once(examples, ITEMS, registry, small_run())
    assert champion(registry) == "1"
    result = train_once(examples, ITEMS, registry_in(registry_folder), small_run())
    assert result.announcement is not None, result.reason
    assert champion(registry) == result.announcement.version


def test_dying_between_alias_and_former_champion_keeps_a_champion(registry_folder: Path) -> None:
    """`previous` is written first: the champion is one of both at every moment."""
    registry, examples = registry_in(registry_folder), purchases(600)
    with_popular(registry, examples)
    set_alias: Callable[..., Any] = registry._client.set_registered_model_alias

    def dies_at_champion(model: str, alias: str, version: str) -> None:
        if alias == "champion":
            raise KilledError
        set_alias(model, alias, version)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry._client, "set_registered_model_alias", dies_at_champion)
        with pytest.raises(KilledError):
            train_once(examples, ITEMS, registry, small_run())
    assert champion(registry_in(registry_folder)) == "1"


ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.purchases import ITEMS, purchases, small_run
from tests.system.registries import registry_in
from training.progress import ProgressReporter
from training.training_run import train_once

def log(line):
    if line.startswith("epoch  3"):
        os.kill(os.getpid(), signal.SIGKILL)

train_once(purchases(600), ITEMS, registry_in(Path(sys.argv[1])), small_run(), ProgressReporter(log))
"""


def test_a_process_killed_during_training_leaves_the_champion(registry_folder: Path) -> None:
    """A real process and a real kill -9."""
    registry = registry_in(registry_folder)
    with_popular(registry, purchases(600))
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(registry_folder)],
        check=False,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    again = registry_in(registry_folder)
    assert champion(again) == "1"
    assert len(again.versions()) == 1


def test_a_registry_that_cannot_look_up_its_champion_stops_the_run(registry_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = registry_in(registry_folder)
    with_popular(registry, purchases(600))

    def fails(*_: object) -> Any:
        raise registry._error("the database is locked")

    monkeypatch.setattr(registry._client, "get_model_version_by_alias", fails)
    with pytest.raises(RegistryError, match="the database is locked"):
        train_once(purchases(600), ITEMS, registry, small_run())
    assert uri_of(registry_folder) in registry._uri
