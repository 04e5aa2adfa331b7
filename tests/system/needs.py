"""The requirements of tests on real Kafka. If they are missing, tests are skipped locally and fail in CI."""

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
