"""Requests to the broker run in a thread and never take longer than a rebalance can wait."""

import threading
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.protocol.consumer import IsolationLevel

from stream.kafka.cluster import admin_requests
from stream.kafka.cluster.lag import group_offsets
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


def test_only_partitions_with_records_that_are_not_committed_are_asked_for_open_transactions() -> None:
    """All that is committed is stable, so a worker that stands ready saves a request."""
    read, behind = TopicPartition("clicks", 0), TopicPartition("clicks", 1)
    asked: list[list[TopicPartition]] = []

    def ends(partitions: dict[Any, OffsetSpec], isolation_level: Any = IsolationLevel.READ_UNCOMMITTED) -> dict[Any, Any]:
        is_stable = isolation_level == IsolationLevel.READ_COMMITTED
        asked.extend([list(partitions)] if is_stable else [])
        return {tp: SimpleNamespace(offset=7 if is_stable else 9) for tp in partitions}

    committed = {read: SimpleNamespace(offset=9), behind: SimpleNamespace(offset=4)}
    admin = SimpleNamespace(list_partition_offsets=ends, list_group_offsets=lambda _: {"group": committed})
    assert group_offsets(admin, "group", [read, behind]) == ({read: 9, behind: 4}, {read: 9, behind: 9}, {read: 9, behind: 7})
    assert asked == [[behind]]
    committed[behind] = SimpleNamespace(offset=9)
    assert group_offsets(admin, "group", [read, behind])[2] == {read: 9, behind: 9}
    assert asked == [[behind]]
