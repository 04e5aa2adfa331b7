"""Periodic training: runs, skipped runs, failures, failed announcements, and the end."""

import logging
import threading
from collections.abc import Callable, Sequence

import msgspec
import pytest

from stream.core.announcements import ModelAnnouncement
from stream.core.outputs import TrainingExample
from stream.kafka.cluster.clients import TopicError
from tests.purchases import purchases
from training.loop import NotFiniteError
from training.retraining import Announcer, StoppedError, retrain
from training.training_run import RunResult

Examples = Sequence[TrainingExample]


def champion(version: str) -> RunResult:
    announcement = ModelAnnouncement(
        role="champion", name="latent_feature", version=version, uri="nowhere", sha256=version, published_at=0
    )
    return RunResult(announcement, f"version {version} promoted")


def no_champion() -> ModelAnnouncement | None:
    return None


def retrain_on(loads: Sequence[Examples | Exception], run: Callable[[Examples], RunResult], announcer: Announcer) -> None:
    """Trains once per load, without waiting; the trainer is stopped during the last."""
    stop, remaining = threading.Event(), list(loads)

    def load() -> Examples:
        loaded = remaining.pop(0)
        if not remaining:
            stop.set()
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    retrain(load, run, announcer, 0.0, stop)


def test_new_examples_are_trained_on_and_the_champion_announced() -> None:
    runs: list[int] = []
    announced: list[ModelAnnouncement] = []

    def run(examples: Examples) -> RunResult:
        runs.append(len(examples))
        return champion(str(len(examples)))

    retrain_on([purchases(3), purchases(5)], run, Announcer(announced.append, no_champion))
    assert runs == [3, 5]
    assert [announcement.version for announcement in announced] == ["3", "5"]


def test_a_run_without_new_examples_is_skipped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[int] = []

    def run(examples: Examples) -> RunResult:
        runs.append(len(examples))
        return RunResult(None, "refused")

    with caplog.at_level(logging.INFO):
        retrain_on([purchases(3), purchases(3)], run, Announcer(lambda _: None, no_champion))
    assert runs == [3]
    assert "nothing new" in caplog.text


def test_one_example_erased_and_one_added_is_something_new() -> None:
    """The number of examples is the same, the examples are not."""
    runs: list[int] = []

    def run(examples: Examples) -> RunResult:
        runs.append(len(examples))
        return RunResult(None, "refused")

    retrain_on([purchases(3), purchases(3, first=1)], run, Announcer(lambda _: None, no_champion))
    assert runs == [3, 3]


def test_another_content_under_an_equal_or_lower_revision_is_something_new() -> None:
    """After a worker's crash, the last record of a key may repeat or lower the revision; a resent content is nothing new."""
    examples = [msgspec.structs.replace(example, revision=5) for example in purchases(3)]
    changes: list[dict[str, object]] = [
        {"revision": 5, "items": ("item-5",)},
        {"revision": 2, "interactions": examples[0].interactions},
        {"revision": 5, "excluded": ("item-4",)},
        {"revision": 9, "excluded": ("item-4",)},
    ]
    loads = [examples]
    for change in changes:
        loads.append([*loads[-1][:1], msgspec.structs.replace(loads[-1][1], **change), *loads[-1][2:]])
    seen: list[TrainingExample] = []

    def run(examples: Examples) -> RunResult:
        seen.append(examples[1])
        return RunResult(None, "refused")

    retrain_on(loads, run, Announcer(lambda _: None, no_champion))
    assert seen == [load[1] for load in loads[:4]]


@pytest.mark.parametrize("failure", [NotFiniteError("the loss is nan"), MemoryError("no memory"), KeyError("a bug")])
def test_a_failed_run_is_logged_and_the_next_one_tries_again(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Even with the same examples: nothing has been learned from them yet."""
    announced: list[ModelAnnouncement] = []
    failures = [failure]

    def run(_: Examples) -> RunResult:
        if failures:
            raise failures.pop()
        return champion("1")

    retrain_on([purchases(3), purchases(3)], run, Announcer(announced.append, no_champion))
    assert len(announced) == 1
    assert "the champion stays" in caplog.text


def test_a_topic_that_cannot_be_read_is_read_again_later() -> None:
    announced: list[ModelAnnouncement] = []
    retrain_on([TopicError("no broker"), purchases(3)], lambda _: champion("1"), Announcer(announced.append, no_champion))
    assert len(announced) == 1


def test_a_failed_announcement_is_repeated_without_another_run(caplog: pytest.LogCaptureFixture) -> None:
    """Until then the registry has a champion that no worker knows of."""
    announced: list[ModelAnnouncement] = []
    runs: list[int] = []
    failures = [TopicError("no broker")]

    def send(announcement: ModelAnnouncement) -> None:
        if failures:
            raise failures.pop()
        announced.append(announcement)

    def run(examples: Examples) -> RunResult:
        runs.append(len(examples))
        return champion("1")

    retrain_on([purchases(3), purchases(3)], run, Announcer(send, lambda: champion("1").announcement if runs else None))
    assert runs == [3]
    assert [announcement.version for announcement in announced] == ["1"]
    assert "could not be announced" in caplog.text


def test_after_a_failed_announcement_the_current_champion_is_announced() -> None:
    """Two announcements failed, then an operator rolled back to a third version: that one is announced, once."""
    announced: list[ModelAnnouncement] = []
    failures = [TopicError("no broker"), TopicError("no broker"), TopicError("no broker")]

    def send(announcement: ModelAnnouncement) -> None:
        if failures:
            raise failures.pop()
        announced.append(announcement)

    announcer = Announcer(send, lambda: champion("3").announcement)
    for version in ("4", "5"):
        with pytest.raises(TopicError):
            announcer.announce(champion(version))
    with pytest.raises(TopicError):
        announcer.catch_up()
    assert announcer.is_behind
    announcer.catch_up()
    announcer.catch_up()
    assert [announcement.version for announcement in announced] == ["3"]


def test_a_refusal_is_not_announced() -> None:
    announced: list[ModelAnnouncement] = []
    Announcer(announced.append, no_champion).announce(RunResult(None, "refused"))
    assert announced == []


def test_an_interrupted_run_ends_the_trainer() -> None:
    def run(_: Examples) -> RunResult:
        raise StoppedError

    retrain_on([purchases(3), purchases(5)], run, Announcer(lambda _: None, no_champion))
