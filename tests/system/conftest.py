"""One real Kafka broker for the session; without Java or jars its tests are skipped by hand and fail in CI. A registry per test."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from stream.kafka.cluster.local_broker import LocalKafka
from tests.system.needs import broker_or_skip
from tests.system.registries import copy_of, registry_in


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


@pytest.fixture(scope="session")
def registry_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty registry, never written to."""
    folder = tmp_path_factory.mktemp("registry")
    registry_in(folder)
    return folder


@pytest.fixture
def registry_folder(registry_template: Path, tmp_path: Path) -> Path:
    """A folder with an empty registry of the test's own."""
    return copy_of(registry_template, tmp_path / "registry")
