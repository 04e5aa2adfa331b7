"""One real Kafka broker for each worker process of the suite, emptied between tests; a registry per test.

Without Java or jars the tests that need a broker are skipped on a developer's machine and fail in CI.
"""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from stream.kafka.cluster.local_broker import LocalKafka
from tests.postgres import Database, LocalPostgres
from tests.system.needs import broker_or_skip, postgres_or_skip
from tests.system.registries import copy_of, registry_in
from tests.system.secured_broker import SecuredBroker
from tests.system.shared_broker import SharedBroker


@pytest.fixture(scope="session")
def shared_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedBroker]:
    broker_or_skip()
    broker = SharedBroker(lambda: LocalKafka(tmp_path_factory.mktemp("kafka")))
    yield broker
    broker.stop()


@pytest.fixture
def kafka(shared_broker: SharedBroker) -> str:
    """The broker's address, for tests with their own topics and groups."""
    return shared_broker.bootstrap


@pytest.fixture
def empty_kafka(shared_broker: SharedBroker) -> str:
    """The address of a broker without topics or groups, for tests whose processes use the default names."""
    shared_broker.empty()
    return shared_broker.bootstrap


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[LocalPostgres]:
    """A PostgreSQL server for all tests that leave it running."""
    postgres_or_skip()
    server = LocalPostgres().start()
    yield server
    server.remove()


@pytest.fixture
def database(postgres_server: LocalPostgres) -> Database:
    """An empty database of the test's own."""
    return postgres_server.new_database()


@pytest.fixture(scope="session")
def secured_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredBroker]:
    """A broker with TLS, SASL and an authorizer, started once; `app` may do everything."""
    broker_or_skip()
    with SecuredBroker(tmp_path_factory.mktemp("secured")) as broker:
        broker.add_users(["app"])
        yield broker


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
