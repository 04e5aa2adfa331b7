"""The requirements of tests on real Kafka and PostgreSQL. If they are missing, tests are skipped locally and fail in CI."""

import os

import pytest

from stream.kafka.cluster.local_broker import missing_requirement
from tests.postgres import binaries


def broker_or_skip() -> None:
    reason = missing_requirement()
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def postgres_or_skip() -> None:
    if binaries() is not None:
        return
    reason = "no PostgreSQL (initdb): `make setup-kafka` installs it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
