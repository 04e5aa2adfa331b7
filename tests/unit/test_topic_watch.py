"""Settings of topics that are changed while a process runs."""

import asyncio
import logging
from contextlib import suppress
from typing import Any

import pytest

from stream.errors import IsthmusError
from stream.kafka.cluster import topics
from stream.kafka.cluster.topics import specs
from stream.metrics import Metrics
from stream.services import topic_watch
from stream.services.topic_watch import misfits, watch_topics
from stream.settings import Settings

CHANGELOG = "isthmus-profiles-users-changelog"
PROBLEM = f"{CHANGELOG}: cleanup.policy is delete, not compact: kafka-configs --alter"


class Admin:
    """Describes topics as they must be, but for one setting of the changelog, and without `items`."""

    def __init__(self, policy: str) -> None:
        self._policy = policy

    def describe_topics(self, names: list[str]) -> list[dict[str, Any]]:
        counts = {spec.name: spec.partitions for spec in specs(Settings().topics)}
        return [{"name": one, "error_code": int(one == "items"), "partitions": [{}] * counts[one]} for one in names]

    def describe_configs(self, resources: list[Any], config_filter: str) -> dict[str, Any]:
        assert config_filter == "all"
        (name,) = (one.name for one in resources)
        (spec,) = (one for one in specs(Settings().topics) if one.name == name)
        changed = {"cleanup.policy": self._policy} if name == CHANGELOG else {}
        values = {"delete.retention.ms": str(topics.TOMBSTONE_RETENTION_MS), **spec.settings, **changed}
        return {"topic": {name: {key: {"value": value} for key, value in values.items()}}}

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("policy", "found"), [("compact", 0), ("delete", 1)])
def test_a_topic_whose_policy_was_changed_is_named_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, policy: str, found: int
) -> None:
    """A missing topic is not: the watchdog waits for it. Nor are those that the process does not use."""
    monkeypatch.setattr(topic_watch, "admin_client", lambda _: Admin(policy))
    problems = misfits(Settings(), [CHANGELOG, "items", "web-clicks"])
    assert len(problems) == found
    assert all(f"--topic {CHANGELOG} --add-config cleanup.policy=compact" in one for one in problems)
    assert not misfits(Settings(), ["web-clicks"])


async def test_a_change_is_logged_once_counted_while_it_lasts_and_survives_a_broker_that_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And its end is logged too."""
    looks: list[set[str] | None] = [set(), {PROBLEM}, None, {PROBLEM}, set()]
    seen, metrics = list[float](), Metrics()

    def look(*_: object) -> set[str]:
        seen.append(metrics.gauge("misfit_topics")._value.get())
        if not looks:
            raise asyncio.CancelledError
        found = looks.pop(0)
        if found is None:
            raise IsthmusError("away")
        return found

    monkeypatch.setattr(topic_watch, "misfits", look)
    monkeypatch.setattr(topic_watch, "EVERY_S", 0.0)
    caplog.set_level(logging.INFO, "isthmus")
    with suppress(asyncio.CancelledError):
        await watch_topics(Settings(), [CHANGELOG], metrics)
    assert seen == [0, 0, 1, 1, 1, 0]
    assert [record.levelname for record in caplog.records if CHANGELOG in record.message] == ["ERROR", "INFO"]


def test_looks_are_minutes_apart() -> None:
    """An idle worker must not use a hundredth of a core."""
    assert topic_watch.EVERY_S >= 300
