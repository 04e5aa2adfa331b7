"""From an Avro topic under a real schema registry on a secured broker to recommendations, with the example of a producer."""

import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaProducer

from stream.application import worker_group
from stream.core.framing import framed
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.local_broker import free_port
from stream.services.child_processes import ChildProcess, wait_for
from tests.schema_registry import FakeRegistry
from tests.system.exact import newest, read_all
from tests.system.local_registry import LocalRegistry
from tests.system.readiness import readiness
from tests.system.secured_broker import PASSWORD, SecuredBroker
from tests.system.test_schema_gate import CLICK, USERS, click

MAPPING = {"user_id": "customer.id", "occurred_at": "viewedAt", "tags": "[page.section, page.object, action]", "event_id": "uuid"}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    with LocalRegistry(tmp_path_factory.mktemp("registry")) as server:
        yield server


class Shop:
    """An application on the secured broker whose clicks are Avro."""

    def __init__(self, broker: SecuredBroker, registry_url: str, folder: Path, name: str) -> None:
        self.broker, self.folder, self.name = broker, folder, name
        self.clicks, self.items = f"{name}.page-views", "items"
        (folder / "password").write_text(f"{PASSWORD}\n")
        kafka = broker.settings()
        self.variables = {
            "ISTHMUS_APPLICATION": name,
            "ISTHMUS_KAFKA__BOOTSTRAP": kafka.bootstrap,
            "ISTHMUS_KAFKA__DEV": "true",
            "ISTHMUS_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "ISTHMUS_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
            "ISTHMUS_KAFKA__USERNAME": "app",
            "ISTHMUS_KAFKA__PASSWORD_FILE": str(folder / "password"),
            "ISTHMUS_KAFKA__CA_FILE": str(kafka.ca_file),
            "ISTHMUS_SCHEMA_REGISTRY__URL": registry_url,
            "ISTHMUS_SCHEMA_REGISTRY__TIMEOUT_S": "2",
            "ISTHMUS_FORMATS__CLICKS": "avro",
            "ISTHMUS_TOPICS__CLICKS": self.clicks,
            "ISTHMUS_TOPICS__PARTITIONS": "2",
            "ISTHMUS_CACHE_DIR": str(folder / "cache"),
            "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        }

    def run(self, *arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-m", "stream.cli.main", *arguments]
        done = subprocess.run(command, env={**os.environ, **self.variables}, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def worker(self, port: int = 0) -> ChildProcess:
        arguments = ["worker", "--metrics-port", str(port)]
        return ChildProcess(arguments, self.variables, self.folder / "worker.log")

    def lists(self) -> dict[bytes, bytes]:
        return newest(read_all(self.broker.plain, f"{self.name}-recommendations"))

    def flat_lists(self, registry: LocalRegistry) -> dict[tuple[str, int], dict[str, Any] | None]:
        """The newest row of each user and rank, read as a stock consumer does: with the schemas that the registry has."""
        found: dict[tuple[str, int], dict[str, Any] | None] = {}
        for records in read_all(self.broker.plain, f"{self.name}-flat-recommendations").values():
            for record in records:
                key = registry.read(record.key or b"")
                found[key["user_id"], key["rank"]] = None if record.value is None else registry.read(record.value)
        return dict(sorted(found.items()))

    def dead_letters(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(value) for value in newest(read_all(self.broker.plain, f"{self.name}-dead-letters")).values()]

    def send(self, key: str, *values: bytes) -> None:
        """In one batch."""
        producer = KafkaProducer(bootstrap_servers=self.broker.plain, acks="all", linger_ms=200)
        sent = [producer.send(self.clicks, key=key.encode(), value=value) for value in values]
        for one in sent:
            one.get(30)
        producer.close()

    def lag(self) -> int:
        return group_lag(self.broker.plain, worker_group(self.name), [self.clicks]).lag


@pytest.mark.timeout(600)
def test_from_an_avro_topic_on_a_secured_broker_to_recommendations(
    secured_broker: SecuredBroker, registry: LocalRegistry, tmp_path: Path, unique: str
) -> None:
    """A dead letter keeps the bytes as they came, and so does its replay. The lists are there as flat Avro too, until the user is
    erased; a worker whose lists are longer than the topic is noted for does not start.
    """
    shop = Shop(secured_broker, registry.url, tmp_path, unique)
    shop.variables |= {f"ISTHMUS_MAPPING__CLICKS__{name.upper()}": expression for name, expression in MAPPING.items()}
    shop.variables |= {"ISTHMUS_TOPICS__FLAT": "true", "ISTHMUS_STEP__LIST_LENGTH": "3"}
    shop.run("topics", "--dev")
    secured = [
        "--username",
        "app",
        "--password-file",
        str(tmp_path / "password"),
        "--ca-file",
        str(secured_broker.authority.ca_file),
    ]
    address = ["--bootstrap", secured_broker.address("SCRAM"), "--registry", registry.url, "--topic", shop.clicks]
    subprocess.run([sys.executable, "-m", "examples.produce_avro", *address, *secured], check=True)
    denied = framed(1_000_000, b"whatever it is")
    shop.send("c-17", denied)
    worker = shop.worker()
    try:
        wait_for(lambda: b"c-17" in shop.lists() and len(shop.dead_letters()) == 1, [worker], 120, "a list and a dead letter")
        assert "cannot be decoded: the schema registry has no schema 1000000" in shop.run("doctor", "worker", code=1)
        (letter,) = shop.dead_letters()
        assert letter["reason"] == "unknown_schema"
        coordinates = "/".join(str(part) for part in letter["origin"].values())
        assert f"schema 1000000, in base64 with its frame: {b64encode(denied).decode()}" in shop.run(
            "dead-letters", "show", coordinates
        )
        shop.run("dead-letters", "replay", "--all")
        wait_for(lambda: len(shop.dead_letters()) == 2, [worker], 60, "the dead letter of what was replayed")
        items = [item["item"] for item in msgspec.json.decode(shop.lists()[b"c-17"])["items"]]
        flat = shop.flat_lists(registry).items()
        assert [(rank, (row or {})["item"]) for (_, rank), row in flat] == list(enumerate(items, start=1))
        shop.run("erase", "c-17", "--yes")
        wait_for(lambda: not any(shop.flat_lists(registry).values()), [worker], 60, "the tombstones of all ranks")
        assert list(shop.flat_lists(registry)) == [("c-17", rank) for rank in (1, 2, 3)]
    finally:
        worker.stop()
    shop.variables["ISTHMUS_STEP__LIST_LENGTH"] = "4"
    refused = "is noted for lists of 3 items, and step.list_length is 4: run `isthmus topics`"
    assert refused in shop.run("worker", code=2)
    assert refused in shop.run("doctor", "worker", code=1)
    values = [record.value for found in read_all(secured_broker.plain, shop.clicks).values() for record in found]
    assert values.count(denied) == 2


@pytest.mark.timeout(600)
def test_a_partition_waits_on_kafka_as_on_the_embedded_log(secured_broker: SecuredBroker, tmp_path: Path, unique: str) -> None:
    """It is not fetched again while it waits, nothing behind it is committed, and it is read on without a restart."""
    with FakeRegistry() as registry:
        registry.add(CLICK)
        shop, port = Shop(secured_broker, registry.url, tmp_path, unique), free_port()
        shop.run("topics", "--dev")
        waiting, going_on = USERS
        shop.send(waiting, *(click(number, waiting) for number in range(3)))
        worker = shop.worker(port)
        try:
            wait_for(lambda: waiting.encode() in shop.lists(), [worker], 120, "the first list")
            registry.go()
            other = registry.add(CLICK, "other")
            shop.send(waiting, click(3, waiting), click(4, waiting, other), click(5, waiting, other))
            shop.send(going_on, click(6, going_on))
            wait_for(lambda: going_on.encode() in shop.lists(), [worker], 60, "the list of the other partition")
            wait_for(lambda: "has schema 2, which is not known (" in readiness(port), [worker], 60, "the word of what waits")
            wait_for(lambda: shop.lag() == 2, [worker], 60, "the commit of what came before")
            assert not shop.dead_letters()
            registry.come()
            wait_for(lambda: readiness(port) == "ok\n", [worker], 60, "readiness")
            wait_for(lambda: shop.lag() == 0, [worker], 60, "the commit of what waited")
        finally:
            worker.stop()
        log = (tmp_path / "worker.log").read_text()
        assert log.count("has schema 2, which") == 1
        assert not shop.dead_letters()
