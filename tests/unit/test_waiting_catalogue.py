"""Whoever reads the catalogue whole waits for its schemas: processes for as long as it takes, commands for half a minute."""

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from stream.core.catalogue_records import ItemFormat, ItemTable
from stream.core.events import ValueFormat
from stream.core.records import PlainRecord
from stream.formats import topic_decoder
from stream.formats.registry import RegistryError
from stream.formats.topic_decoder import TopicDecoder, fetch_schemas
from stream.kafka.agents.followers import ServedModelFollower
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.cluster.compacted_topic import read_items
from stream.metrics import Metrics
from stream.services.doctor.checks import TopicFormat, check_formats
from stream.services.doctor.findings import Status
from tests.avro import avro_value
from tests.schema_registry import FakeRegistry

ITEM = {"type": "record", "name": "Item", "fields": [{"name": "item_id", "type": "string"}, {"name": "name", "type": "string"}]}


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as server:
        server.add(ITEM)
        yield server


def record(item: str, offset: int = 0) -> PlainRecord:
    return PlainRecord(offset, 0, item.encode(), avro_value(1, ITEM, {"item_id": item, "name": "n"}))


def form(registry: FakeRegistry) -> ItemFormat:
    return ItemFormat(to_json=TopicDecoder("formats.items", ValueFormat.AVRO, registry.known()))


async def test_a_worker_keeps_its_catalogue_until_the_registry_is_back(
    registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Told once, and no item is unusable meanwhile."""
    served, metrics = ServedModel(), Metrics()
    follower = ServedModelFollower(served, metrics, items=form(registry))
    registry.go()
    with caplog.at_level(logging.ERROR, logger="isthmus"):
        applying = asyncio.create_task(follower.on_items([record("18"), record("19", 1)]))
        async with asyncio.timeout(20):
            while not caplog.records:
                await asyncio.sleep(0.01)
        assert "records with the schemas [1] wait: the schema registry at" in caplog.text
        assert not applying.done()
        assert not served.catalogue.items
        registry.come()
        async with asyncio.timeout(20):
            await applying
    assert set(served.catalogue.items) == {"18", "19"}
    assert len(caplog.records) == 1


def test_a_command_ends_with_what_the_registry_says(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_decoder, "_COMMAND_WAITS_S", 0.0)
    registry.answer = (503, b"")
    with pytest.raises(RegistryError, match="cannot answer now"):
        fetch_schemas(form(registry).to_json, [record("18")])
    registry.answer = None
    fetch_schemas(form(registry).to_json, [record("18")])
    fetch_schemas(None, [record("18")])


class Topic:
    """A compacted topic that gives each record once, unless what was read is forgotten."""

    def __init__(self, records: list[PlainRecord]) -> None:
        self._records = records
        self._left = records

    def new_records(self) -> tuple[Iterator[Any], bool]:
        given, self._left = self._left, []
        return iter(given), False

    def forget(self) -> None:
        self._left = self._records


def test_a_trainer_misses_no_item_whose_schema_was_not_to_be_had(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads on where it was; what it could not use then is read again."""
    monkeypatch.setattr(topic_decoder, "_COMMAND_WAITS_S", 0.0)
    topic, table = Topic([record("18")]), ItemTable(form(registry))
    registry.answer = (503, b"")
    with pytest.raises(RegistryError):
        read_items(topic, table)  # type: ignore[arg-type]
    registry.answer = None
    assert [item.item_id for item in read_items(topic, table)] == ["18"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "status", "text"),
    [
        (TopicFormat("c", "avro", 7), Status.OK, "c: the newest record is avro and decodes"),
        (
            TopicFormat("c", "avro", 7, "it looks like JSON"),
            Status.FAILED,
            "c: the newest record, at offset 7, cannot be decoded: it",
        ),
        (TopicFormat("c", "avro", None), Status.OK, "c has no record yet; http://r has the subject c-value"),
        (TopicFormat("d", "avro", None), Status.WARNING, "d has no record, and http://r no subject d-value"),
    ],
)
def test_the_doctor_says_of_each_topic_whether_its_newest_record_decodes(found: TopicFormat, status: Status, text: str) -> None:
    (finding,) = check_formats("http://r", ["c-value"], [found])
    assert finding.status is status
    assert text in finding.found
