"""`isthmus topics skip` where deletions may be lost: what a batch held is not known, so the command says what has to follow."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from stream.application import worker_group
from stream.cli.topics import app
from stream.errors import IsthmusError
from stream.kafka.cluster import owners, skips, topic_reader
from stream.kafka.cluster.corrupt_batches import CorruptBatch
from stream.kafka.cluster.topics import changelog_name

CHANGELOG = changelog_name(worker_group("isthmus"))


@pytest.fixture
def skipped(monkeypatch: pytest.MonkeyPatch) -> list[CorruptBatch]:
    """What was given up, where every topic has a damaged batch at its offsets 3 to 6."""
    found: list[CorruptBatch] = []

    @contextmanager
    def reader(_: str, *, skips: bool) -> Iterator[Any]:
        assert not skips
        yield SimpleNamespace(damage_at=lambda topic, number, _: CorruptBatch(topic, number, 3, 7))

    monkeypatch.setattr(owners, "require_access", lambda *_: None)
    monkeypatch.setattr(topic_reader, "open_topic_reader", reader)
    monkeypatch.setattr(skips, "allow_skip", lambda _, batch: found.append(batch))
    return found


def test_a_part_of_the_changelog_is_given_up_with_a_word_of_its_own_only(skipped: list[CorruptBatch]) -> None:
    """Without it nothing is skipped, even if nobody is asked."""
    refused = CliRunner().invoke(app, ["skip", CHANGELOG, "0", "3", "--yes"])
    assert isinstance(refused.exception, IsthmusError)
    assert "users would go back to older states, and erased ones come back. Nothing is skipped" in str(refused.exception)
    assert not skipped
    done = CliRunner().invoke(app, ["skip", CHANGELOG, "0", "3", "--yes", "--lose-states"])
    assert done.exit_code == 0, done.output
    assert [batch.topic for batch in skipped] == [CHANGELOG]
    assert "send each erasure again that erasures no longer holds" in done.output
    assert "run `isthmus reset`" in done.output


@pytest.mark.parametrize(
    ("topic", "told"),
    [
        ("recommendations", "erase again"),
        ("training-examples", "erase again"),
        ("api-keys", "a revoked key would be accepted again"),
        ("items", "withdrawn"),
        ("erasures", "send each erasure again"),
        ("shop-profiles-users-changelog", "ISTHMUS_APPLICATION"),
    ],
)
def test_every_topic_with_deletions_needs_the_word_and_says_what_has_to_follow(
    skipped: list[CorruptBatch], topic: str, told: str
) -> None:
    """Not the own changelog alone: what was deleted would come back from any of them."""
    refused = CliRunner().invoke(app, ["skip", topic, "0", "3", "--yes"])
    assert told in str(refused.exception)
    assert not skipped
    done = CliRunner().invoke(app, ["skip", topic, "0", "3", "--yes", "--lose-states"])
    assert told in done.output
    assert len(skipped) == 1


def test_a_batch_of_another_topic_needs_no_more_than_consent(skipped: list[CorruptBatch]) -> None:
    """As before."""
    done = CliRunner().invoke(app, ["skip", "web-clicks", "0", "3", "--yes"])
    assert done.output == "offsets 3 to 6 of web-clicks-0 will be skipped; a stopped partition goes on within 10 s\n"
    assert len(skipped) == 1
