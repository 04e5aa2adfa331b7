"""Requests to the broker run in a thread and never take longer than a rebalance can wait."""

import threading
from typing import Any
from uuid import UUID

import pytest

from stream.kafka.cluster import admin_requests
from stream.kafka.cluster.view import KafkaClusterView


class Broker:
    """Answers, or hangs until `answers` is set; counts connections."""

    def __init__(self) -> None:
        self.connections = 0
        self.answers = threading.Event()

    def connect(self, bootstrap: str, answer_ms: int) -> Any:
        del bootstrap, answer_ms
        self.connections += 1
        return self

    def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        self.answers.wait(10)
        known = {"clicks": UUID(int=7 << 65)}
        return [{"name": name, "topic_id": known.get(name, UUID(int=0)), "error_code": 0 if name in known else 3} for name in names]

    def close(self) -> None:
        """Nothing to close."""


async def test_a_broker_that_hangs_fails_requests_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request fails at once; requests succeed again once the broker answers. Missing topics have no epoch."""
    broker = Broker()
    monkeypatch.setattr(admin_requests, "admin_client", broker.connect)
    cluster_view = KafkaClusterView("nowhere:9", "group", answer_s=0.2)
    for _ in range(2):
        with pytest.raises(OSError):  # noqa: PT011  (a timeout, then a refusal)
            await cluster_view.epochs(["clicks"])
    broker.answers.set()
    while True:
        try:
            epochs = await cluster_view.epochs(["clicks", "gone"])
        except OSError:
            continue  # the thread of the first request has not ended yet
        break
    assert epochs == {"clicks": 7}
    assert broker.connections == 1
    await cluster_view.close()


async def test_after_an_error_the_next_request_reconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the client raises."""
    broker = Broker()
    broker.answers.set()
    monkeypatch.setattr(admin_requests, "admin_client", broker.connect)
    cluster_view = KafkaClusterView("nowhere:9", "group", answer_s=5)
    with monkeypatch.context() as patched:
        patched.setattr(broker, "describe_topics", lambda _: 1 / 0)
        with pytest.raises(ConnectionError, match="does not answer \\(ZeroDivisionError\\)"):
            await cluster_view.epochs(["clicks"])
    assert await cluster_view.epochs(["clicks"]) == {"clicks": 7}
    assert broker.connections == 2
