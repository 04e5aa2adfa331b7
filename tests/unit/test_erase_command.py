"""`isthmus erase`: what it sends, whatever the clock of the machine on which it is run."""

import time
from collections.abc import Iterable
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest
from typer.testing import CliRunner

from stream.cli.erase import app
from stream.core.events import Click, Erasure, Source
from stream.core.records import Batch, PlainRecord
from stream.errors import IsthmusError
from stream.kafka.cluster import example_erasure, owners, producer, topics
from stream.kafka.cluster.producer import InputEvent
from tests.world import MINUTE, NOW, OrderRanker, Store, batch_of, run

HOUR = 60 * MINUTE


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[InputEvent]:
    """What the command gives the producer."""
    events: list[InputEvent] = []

    async def keep(_: str, made: Iterable[InputEvent], *rest: Any) -> int:
        del rest
        events.extend(made)
        return len(events)

    monkeypatch.setattr(owners, "read_notes", lambda _: [])
    monkeypatch.setattr(producer, "produce", keep)
    monkeypatch.setattr(example_erasure, "erase_examples", lambda *_: 0)
    monkeypatch.setattr(topics, "require_one_count", lambda *_: None)
    return events


@pytest.mark.parametrize("error", [-HOUR, 0, HOUR])
def test_a_wrong_clock_of_the_operators_machine_keeps_no_event(
    sent: list[InputEvent], monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Behind, its time would spare the newest events; ahead, the erasure would be a dead letter. The broker's time counts."""
    store = Store()
    run(store, batch_of(Source.CLICK, [(0, Click("u", NOW - MINUTE, ("secret",)))]), OrderRanker())
    monkeypatch.setattr(time, "time_ns", lambda: (NOW + error) * 1_000_000)
    result = CliRunner().invoke(app, ["u", "--yes"])
    assert result.exit_code == 0, result.output
    (erasure,) = sent
    assert erasure.key == "u"
    outcome = run(store, Batch(Source.ERASURE, "erasures", 1, 0, [PlainRecord(0, NOW, b"u", erasure.value)]), OrderRanker())
    assert not outcome.dead_letters
    assert "secret" not in repr(store.records)


def test_a_given_time_is_sent_and_must_not_lie_in_the_future(sent: list[InputEvent], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: NOW * 1_000_000)
    assert CliRunner().invoke(app, ["u", "--at", "2h", "--yes"]).exit_code == 0
    assert msgspec.json.decode(sent.pop().value or b"", type=Erasure).occurred_at == NOW - 2 * HOUR
    result = CliRunner().invoke(app, ["u", "--at", "2099-01-01T00:00:00Z", "--yes"])
    assert isinstance(result.exception, IsthmusError)
    assert not sent


@pytest.mark.parametrize("at", ["1899-12-31T23:00:00Z", "1970-01-20T00:00:00Z"])
def test_a_time_that_workers_refuse_is_refused_before_any_example_is_removed(
    sent: list[InputEvent], monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """The erasure would become a dead letter, and nothing would bring the right examples back."""
    removed = Mock(return_value=0)
    monkeypatch.setattr(example_erasure, "erase_examples", removed)
    result = CliRunner().invoke(app, ["u", "--at", at, "--yes"])
    assert isinstance(result.exception, IsthmusError)
    assert "times.erasures_earliest" in str(result.exception)
    assert not sent
    assert not removed.called
