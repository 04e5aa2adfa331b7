"""What a test on real Kafka needs; without it, it is skipped by hand and fails in CI."""

import os

import pytest

from stream.kafka.cluster.local_broker import missing_requirement


def broker_or_skip() -> None:
    reason = missing_requirement()
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
