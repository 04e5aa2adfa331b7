"""Periodic training: turns, skips, failures, announcements that do not arrive, and the end."""

import logging
import threading
from collections.abc import Callable, Sequence

import pytest

from stream.core.announcements import ModelAnnouncement
from stream.core.outputs import TrainingExample
from stream.kafka.cluster.clients import TopicError
from tests.purchases import purchases
from training.loop import NotFiniteError
from training.retraining import Announcer, StoppedError, retrain
from training.training_run import Result

Examples = Sequence[TrainingExample]


def champion(version: str) -> Result:
    announcement = ModelAnnouncement(
        role="champion", name="latent_feature", version=version, uri="nowhere", sha256=version, published_at=0
    )
    return Result(announcement, f"version {version} promoted")


def nobody() -> ModelAnnouncement | None:
    return None


def turns(loads: Sequence[Examples | Exception], run: Callable[[Examples], Result], announcer: Announcer) -> None:
    """One turn per load, none waiting for another; the trainer is told to stop in the last."""
    stop, left = threading.Event(), list(loads)

    def load() -> Examples:
        found = left.pop(0)
        if not left:
            stop.set()
        if isinstance(found, Exception):
            raise found
        return found

    retrain(load, run, announcer, 0.0, stop)


def test_each_turn_with_something_new_runs_and_announces() -> None:
    runs: list[int] = []
    told: list[ModelAnnouncement] = []

    def run(examples: Examples) -> Result:
        runs.append(len(examples))
        return champion(str(len(examples)))

    turns([purchases(3), purchases(5)], run, Announcer(told.append, nobody))
    assert runs == [3, 5]
    assert [announcement.version for announcement in told] == ["3", "5"]


def test_nothing_new_is_skipped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    runs: list[int] = []

    def run(examples: Examples) -> Result:
        runs.append(len(examples))
        return Result(None, "refused")

    with caplog.at_level(logging.INFO):
        turns([purchases(3), purchases(3)], run, Announcer(lambda _: None, nobody))
    assert runs == [3]
    assert "nothing new" in caplog.text


def test_one_erased_and_one_come_is_something_new() -> None:
    """As many examples as before, but not the same."""
    runs: list[int] = []

    def run(examples: Examples) -> Result:
        runs.append(len(examples))
        return Result(None, "refused")

    turns([purchases(3), purchases(3, first=1)], run, Announcer(lambda _: None, nobody))
    assert runs == [3, 3]


@pytest.mark.parametrize("failure", [NotFiniteError("the loss is nan"), MemoryError("no memory"), KeyError("a bug")])
def test_a_failed_run_is_told_and_the_next_turn_tries_again(failure: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Also with the same examples: nothing has been learned from them yet."""
    told: list[ModelAnnouncement] = []
    failures = [failure]

    def run(_: Examples) -> Result:
        if failures:
            raise failures.pop()
        return champion("1")

    turns([purchases(3), purchases(3)], run, Announcer(told.append, nobody))
    assert len(told) == 1
    assert "the champion stays" in caplog.text


def test_a_topic_that_cannot_be_read_is_read_at_the_next_turn() -> None:
    told: list[ModelAnnouncement] = []
    turns([TopicError("no broker"), purchases(3)], lambda _: champion("1"), Announcer(told.append, nobody))
    assert len(told) == 1


def test_an_announcement_that_failed_is_made_at_the_next_turn_without_another_run(caplog: pytest.LogCaptureFixture) -> None:
    """Until then the registry has a champion that no worker knows."""
    told: list[ModelAnnouncement] = []
    runs: list[int] = []
    failures = [TopicError("no broker")]

    def send(announcement: ModelAnnouncement) -> None:
        if failures:
            raise failures.pop()
        told.append(announcement)

    def run(examples: Examples) -> Result:
        runs.append(len(examples))
        return champion("1")

    turns([purchases(3), purchases(3)], run, Announcer(send, lambda: champion("1").announcement if runs else None))
    assert runs == [3]
    assert [announcement.version for announcement in told] == ["1"]
    assert "could not be announced" in caplog.text


def test_after_an_announcement_that_failed_whoever_is_champion_then_is_told() -> None:
    """Two runs could tell nobody, and an operator went back to a third version meanwhile: that one, once."""
    told: list[ModelAnnouncement] = []
    failures = [TopicError("no broker"), TopicError("no broker"), TopicError("no broker")]

    def send(announcement: ModelAnnouncement) -> None:
        if failures:
            raise failures.pop()
        told.append(announcement)

    announcer = Announcer(send, lambda: champion("3").announcement)
    for version in ("4", "5"):
        with pytest.raises(TopicError):
            announcer.tell(champion(version))
    with pytest.raises(TopicError):
        announcer.catch_up()
    assert announcer.is_behind
    announcer.catch_up()
    announcer.catch_up()
    assert [announcement.version for announcement in told] == ["3"]


def test_a_refusal_is_not_announced() -> None:
    told: list[ModelAnnouncement] = []
    Announcer(told.append, nobody).tell(Result(None, "refused"))
    assert told == []


def test_a_run_that_is_broken_off_ends_the_trainer() -> None:
    def run(_: Examples) -> Result:
        raise StoppedError

    turns([purchases(3), purchases(5)], run, Announcer(lambda _: None, nobody))
