"""What a process asks of its topics at its start."""

from typing import Any

import pytest

from stream.kafka.cluster import owners, topics
from stream.kafka.cluster.rights import Process
from stream.services.process import check_topics
from stream.settings import Settings

DAY_S = 86_400


@pytest.mark.parametrize(
    ("process", "relied_ms"),
    [
        (Process.API, 10 * DAY_S * 1_000 + 1),
        (Process.POSTGRES, 2 * DAY_S * 1_000 + 1),
        (Process.WEBHOOK, 6 * DAY_S * 1_000 + 1),
        (Process.WORKER, topics.TOMBSTONE_RETENTION_MS),
        (Process.ENCODER, topics.TOMBSTONE_RETENTION_MS),
    ],
)
def test_tombstones_must_outlive_the_absence_that_a_process_bears(
    monkeypatch: pytest.MonkeyPatch, process: Process, relied_ms: int
) -> None:
    """A store that was away for less than `reconcile_after_s` goes on where it was, and needs all tombstones since."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(owners, "require_access", lambda *_: None)
    monkeypatch.setattr(topics, "create_or_check", lambda *_, **wanted: asked.update(wanted))
    settings = Settings.model_validate({"api": {"reconcile_after_s": 10 * DAY_S}, "postgres": {"reconcile_after_s": 2 * DAY_S}})
    check_topics(process, settings)
    assert asked["tombstones_ms"] == relied_ms
