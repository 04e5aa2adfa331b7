"""One real Kafka broker for the session; without Java or jars its tests are skipped by hand and fail in CI."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from stream.broker.local import LocalKafka
from tests.system.needs import broker_or_skip


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The broker's address; every test makes topics of its own."""
    broker_or_skip()
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.bootstrap


@pytest.fixture
def unique() -> str:
    """A prefix for the topics and groups of one test."""
    return f"t{uuid4().hex[:8]}"
