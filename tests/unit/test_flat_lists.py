"""Recommendations as flat Avro: a record a user and rank, and tombstones for the ranks that a list does not have."""

import io
import json
from collections.abc import Iterable
from typing import Any

import fastavro
import pytest

from stream.core.events import Click, Erasure, Source
from stream.core.framing import FRAME_BYTES, schema_id_of
from stream.core.outputs import Output
from stream.errors import IsthmusError
from stream.formats.flat import KEY_SCHEMA, VALUE_SCHEMA, FlatLists
from stream.formats.registry import RegistryError
from stream.formats.schemas import Schemas
from stream.kafka.cluster.owners import Owner, _note
from stream.kafka.cluster.rights import Kind, Process, Right, rights_of
from stream.kafka.cluster.topics import specs
from stream.process_settings import StepSettings
from stream.services.formats import flat_lists
from stream.settings import Settings, TopicSettings, load
from tests.schema_registry import FakeRegistry
from tests.world import NOW, OrderRanker, Store, batch_of, run, settings

KEY, VALUE = (fastavro.parse_schema(json.loads(schema)) for schema in (KEY_SCHEMA, VALUE_SCHEMA))


def read(framed: bytes, schema: Any, schema_id: int) -> Any:
    assert schema_id_of(framed) == schema_id
    return fastavro.schemaless_reader(io.BytesIO(framed[FRAME_BYTES:]), schema, None)


def rows(outputs: Iterable[Output]) -> list[tuple[str, int, str | None]]:
    """User, rank and item; None for a tombstone."""
    found = []
    for output in outputs:
        key = read(output.key, KEY, 1)
        item = None if output.value is None else read(output.value, VALUE, 2)["item"]
        found.append((key["user_id"], key["rank"], item))
    return found


def lists(store: Store, length: int, now: int = NOW) -> list[Output]:
    """What the step sends for a click."""
    click = Click("u", now, ("home", f"tag-{now}"))
    return run(
        store, batch_of(Source.CLICK, [(now - NOW, click)]), OrderRanker(), config=settings(list_length=length)
    ).recommendations


def test_a_list_is_a_record_a_rank_with_primitive_fields() -> None:
    sent = lists(Store(), 3)
    flat = list(FlatLists(1, 2, longest=3).outputs(sent))
    made = json.loads(sent[0].value or b"")
    assert rows(flat) == [("u", item["rank"], item["item"]) for item in made["items"]]
    first = read(flat[0].value or b"", VALUE, 2)
    assert first["recommendation_id"] == made["recommendation_id"]
    assert (first["score"], first["model"], first["model_version"]) == (made["items"][0]["score"], "order", "1")
    assert (first["occurred_at"].timestamp() * 1_000, first["fallback"]) == (NOW, None)
    assert first["probability"] is None
    assert all(not isinstance(value, dict | list) for value in first.values())


def test_a_probability_is_a_field_of_its_own() -> None:
    """Readers of the schema without it go on: the field is optional."""
    (sent,) = lists(Store(), 1)
    made = json.loads(sent.value or b"")
    made["items"][0]["probability"] = 0.25
    (row,) = FlatLists(1, 2, longest=1).outputs([sent._replace(value=json.dumps(made).encode())])
    assert read(row.value or b"", VALUE, 2)["probability"] == 0.25
    assert {"name": "probability", "type": ["null", "double"], "default": None} in json.loads(VALUE_SCHEMA)["fields"]


def test_ranks_that_a_list_does_not_have_get_tombstones_up_to_the_longest_ever_sent() -> None:
    """After `step.list_length` became shorter; and an empty list leaves no rank."""
    store = Store()
    lists(store, 3)
    shorter = lists(store, 2, NOW + 1)
    flat = rows(FlatLists(1, 2, longest=4).outputs(shorter))
    assert [(rank, item is None) for _, rank, item in flat] == [(1, False), (2, False), (3, True), (4, True)]
    value = json.loads(shorter[0].value or b"")
    empty = Output(b"u", json.dumps({**value, "items": []}).encode())
    assert rows(FlatLists(1, 2, longest=2).outputs([empty])) == [("u", 1, None), ("u", 2, None)]


def test_an_erased_user_loses_every_rank_before_a_later_list_comes() -> None:
    store = Store()
    lists(store, 3)
    lists(store, 3, NOW + 10)
    outcome = run(store, batch_of(Source.ERASURE, [(0, Erasure("u", NOW + 5))]), OrderRanker(), config=settings(list_length=2))
    flat = rows(FlatLists(1, 2, longest=3).outputs(outcome.recommendations))
    assert flat[:3] == [("u", rank, None) for rank in (1, 2, 3)]
    assert [(rank, item is None) for _, rank, item in flat[3:]] == [(1, False), (2, False), (3, True)]
    gone = run(store, batch_of(Source.ERASURE, [(1, Erasure("u", NOW + 50))]), OrderRanker())
    assert rows(FlatLists(1, 2, longest=3).outputs(gone.recommendations)) == [("u", rank, None) for rank in (1, 2, 3)]


def test_the_longest_list_is_noted_and_never_falls_while_the_topic_is_the_same() -> None:
    flat = (Kind.TOPIC, "flat-recommendations")

    def note(length: int, epoch: int, before: Owner | None) -> int:
        own = Settings(topics=TopicSettings(flat=True), step=StepSettings(list_length=length))
        return _note(own, flat, {flat[1]: epoch}, before).longest

    assert note(5, 1, None) == 5
    assert note(3, 1, Owner("isthmus", "recommendations", 1, 5)) == 5
    assert note(7, 1, Owner("isthmus", "recommendations", 1, 5)) == 7
    assert note(3, 2, Owner("isthmus", "recommendations", 1, 5)) == 3  # deleted and made again
    other = _note(Settings(topics=TopicSettings(flat=True)), (Kind.TOPIC, "recommendations"), {"recommendations": 1}, None)
    assert other.longest == 0


def test_the_topic_its_rights_and_its_name_are_there_with_the_setting_only() -> None:
    on, off = TopicSettings(flat=True), TopicSettings()
    assert {spec.name for spec in specs(on)} - {spec.name for spec in specs(off)} == {"flat-recommendations"}
    for process in Process:
        written = Right("WRITE", Kind.TOPIC, "flat-recommendations") in rights_of(process, Settings(topics=on))
        assert written == (process in {Process.WORKER, Process.RESET})
        assert "flat-recommendations" not in {right.name for right in rights_of(process, Settings(topics=off))}
    assert load(application="shop").topics.flat_recommendations == "shop-flat-recommendations"


def test_schemas_are_registered_once_and_known_without_the_registry(tmp_path: Any) -> None:
    with FakeRegistry() as registry:
        first = Schemas(registry.client(), tmp_path)
        number = first.registered("lists-key", KEY_SCHEMA)
        assert first.registered("lists-key", KEY_SCHEMA) == number
        assert first.registered("lists-value", VALUE_SCHEMA) == number + 1
        registry.go()
        assert Schemas(registry.client(), tmp_path).registered("lists-key", KEY_SCHEMA) == number
        with pytest.raises(RegistryError, match="does not answer"):
            Schemas(registry.client(), tmp_path).registered("lists-key", VALUE_SCHEMA)
        registry.come()
        registry.answer = (409, b'{"error_code":409}')
        with pytest.raises(RegistryError, match="the subject has another that is not compatible"):
            Schemas(registry.client(), None).registered("lists-key", KEY_SCHEMA)


def test_flat_lists_need_a_registry() -> None:
    assert flat_lists(Settings()) is None
    with pytest.raises(IsthmusError, match=r"schema_registry\.url"):
        flat_lists(Settings(topics=TopicSettings(flat=True)))
