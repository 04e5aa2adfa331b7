"""The catalogue is an input like any other: every reader uses the same records, and none stops at one that it cannot use."""

import json
from collections.abc import Iterable, Iterator
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.api.api_keys import ApiKeys
from stream.api.catalogue import CurrentCatalogue
from stream.core.announcements import ModelAnnouncement, encode_announcement
from stream.core.catalogue_records import ItemFormat, ItemTable, RejectedItem, item_dead_letters, read_item
from stream.core.event_times import TimeUnit
from stream.core.events import NATIVE_FORMAT_HEADER, Item, Reason, Rejection
from stream.core.interactions import Conversation, session_of
from stream.core.outputs import DeadLetter, TrainingExample, encode_example
from stream.core.records import PlainRecord
from stream.core.unreadable import UnreadableValue
from stream.errors import IsthmusError
from stream.kafka.agents.catalogue_dead_letters import count_items, rejected_items
from stream.kafka.agents.followers import ServedModelFollower
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.cluster.compacted_topic import CompactedTopic, examples_in, read_items
from stream.kafka.cluster.dead_letter_replay import RUN_KEY, DeadLetterFilter, read_dead_letters, read_replayed
from stream.kafka.cluster.topic_reader import TopicReader
from stream.metrics import Metrics
from stream.services.process import item_format
from stream.services.trainer import _source_of_topics
from stream.settings import MappingSettings, Settings, TimeSettings
from tests.world import ITEMS, NOW, OrderRanker, catalogue

DEEP = b"[" * 100_000
SECONDS = 1_790_000_000


def record(value: object, key: bytes | None = b"18", offset: int = 0, headers: tuple[tuple[str, bytes], ...] = ()) -> PlainRecord:
    encoded = value if value is None or isinstance(value, bytes) else json.dumps(value).encode()
    return PlainRecord(offset, 5, key, encoded, headers)


BAD = {
    "the seen one": (record({"item_id": 18}), Reason.INVALID),
    "no name": (record({"item_id": "18"}), Reason.INVALID),
    "not JSON": (record(b"{"), Reason.NOT_JSON),
    "nested too deeply": (record(DEEP), Reason.INVALID),
    "another key": (record({"item_id": "19", "name": "n"}), Reason.KEY_MISMATCH),
    "no key": (record({"item_id": "18", "name": "n"}, key=None), Reason.MISSING_KEY),
    "seconds": (record({"item_id": "18", "name": "n", "offered_until": SECONDS}), Reason.IMPLAUSIBLE_TIME),
    "ends before it begins": (
        record({"item_id": "18", "name": "n", "offered_from": "2026-02-01T00:00:00Z", "offered_until": "2026-01-01T00:00:00Z"}),
        Reason.INVALID,
    ),
    "unreadable": (PlainRecord(0, 5, b"18", UnreadableValue.of("a length is wrong")), Reason.UNREADABLE),
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_that_is_no_item_has_a_reason(name: str) -> None:
    """As for every other input."""
    bad, reason = BAD[name]
    rejection = read_item(bad, ItemFormat())
    assert isinstance(rejection, Rejection)
    assert rejection.reason == reason


@pytest.mark.parametrize(
    "offer",
    [
        {"offered_from": "1900-01-01T00:00:00Z", "offered_until": "9999-12-31T23:59:59Z"},
        {"offered_from": -2_208_988_800_000, "offered_until": 253_402_300_799_000},
        {"offered_from": None, "offered_until": ""},
    ],
)
def test_an_offer_may_lie_anywhere(offer: dict[str, object]) -> None:
    """1900 and 9999 are usual ways to say "always"."""
    assert isinstance(read_item(record({"item_id": "18", "name": "n", **offer}), ItemFormat()), Item)


def test_the_catalogue_has_a_mapping_and_a_unit_and_honours_the_native_header() -> None:
    """`mapping.items` and `times.items_unit`; a wrong mapping is named by its setting."""
    mapping = MappingSettings(items={"item_id": "to_string(sku)", "name": "title", "offered_until": "until"})  # type: ignore[call-arg]
    form = item_format(Settings(mapping=mapping, times=TimeSettings(items_unit=TimeUnit.SECONDS)))  # type: ignore[call-arg]
    assert form.unit is TimeUnit.SECONDS
    assert read_item(record({"sku": 18, "title": "Dog insurance", "until": SECONDS}), form) == Item(
        "18", "Dog insurance", offered_until=SECONDS * 1_000
    )
    native = record({"item_id": "18", "name": "n", "offered_until": SECONDS * 1_000}, headers=((NATIVE_FORMAT_HEADER, b"1"),))
    assert read_item(native, form) == Item("18", "n", offered_until=SECONDS * 1_000)
    with pytest.raises(IsthmusError, match=r"setting mapping\.items\.name"):
        item_format(Settings(mapping=MappingSettings(items={"name": "["})))  # type: ignore[call-arg]


class StoredTopic:
    """Stands for a topic on a broker, for the readers of the trainer and of commands."""

    def __init__(self, records: Iterable[PlainRecord]) -> None:
        self.stored = list(records)
        self.values = {one.key: one.value for one in self.stored if one.key is not None and one.value is not None}

    def new_records(self) -> tuple[Iterator[PlainRecord], bool]:
        return iter(self.stored), False

    def records(self, topic: str) -> Iterator[PlainRecord]:
        del topic
        yield from self.stored


def no_prior(uri: str, sha256: str) -> Any:
    raise IsthmusError(f"{uri} {sha256} cannot be read")


async def test_every_reader_has_the_same_items_whatever_the_topic_holds(caplog: pytest.LogCaptureFixture) -> None:
    """Worker, API and trainer: a record that cannot be used leaves its item as it was, is logged and counted."""
    records = [
        record({"item_id": "18", "name": "former"}),
        *(bad for bad, _ in BAD.values()),
        record({"item_id": "19", "name": "new"}, b"19"),
        record({"item_id": "20", "name": "gone"}, b"20"),
        record(None, b"20"),
    ]
    metrics, served = Metrics(), ServedModel()
    await ServedModelFollower(served, metrics).on_items(records)
    api = CurrentCatalogue(no_prior, Metrics())
    await api.on_items(records)
    trainers = read_items(cast("CompactedTopic", StoredTopic(records)), ItemTable())
    expected = {"18": Item("18", "former"), "19": Item("19", "new")}
    assert served.catalogue.items == api.catalogue.items == {item.item_id: item for item in trainers} == expected
    assert metrics.total("unreadable_records", "items") == 1
    assert f"{len(BAD)} records of the catalogue cannot be used" in caplog.text
    assert "publish it again" in caplog.text


def test_a_trainer_does_not_train_for_withdrawn_items(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only before the first record of the catalogue are the items those that were bought."""
    topic = StoredTopic([])
    monkeypatch.setattr("stream.services.trainer.CompactedTopic", lambda *_: topic)
    monkeypatch.setattr("stream.services.trainer.require_access", lambda *_: None)
    bought = TrainingExample(
        user_id="u", purchase_id="p", occurred_at=NOW, revision=1, type="session", items=("18",), excluded=(), interactions=()
    )
    monkeypatch.setattr("stream.services.trainer.examples_in", lambda _: [bought])
    source = _source_of_topics(Settings())
    assert source.item_ids() == ["18"]
    topic.stored = [record({"item_id": "18", "name": "n"}), record(None)]
    with pytest.raises(IsthmusError, match="every item of topic items is withdrawn"):
        source.item_ids()


async def test_an_item_counts_as_unusable_until_it_is_published_again_or_withdrawn() -> None:
    """The gauge that the alert reads goes back to 0, also after a restart."""
    metrics = Metrics()
    follower = ServedModelFollower(ServedModel(), metrics)
    for records, unusable in (
        ([record({"item_id": 18}), record({"item_id": 19}, b"19")], 2),
        ([record({"item_id": "18", "name": "n"})], 1),
        ([record(None, b"19")], 0),
    ):
        await follower.on_items(records)
        assert metrics.registry.get_sample_value("isthmus_unusable_items") == unusable


def test_an_unusable_item_is_counted_like_any_event_and_its_dead_letter_holds_the_original() -> None:
    """One per record, keyed by coordinates, so that copies are one."""
    metrics = Metrics()
    rejected = rejected_items([record({"item_id": "18", "name": "n"}), record({"item_id": 18}, offset=7)], ItemFormat())
    count_items(2, rejected, metrics)
    assert metrics.total("events", "item", "applied") == metrics.total("events", "item", "dead_letter") == 1
    assert metrics.total("dead_letters", "invalid") == 1
    (output,) = item_dead_letters("items", 3, 0, rejected)
    assert output.key == b"items/3/0/7"
    letter = msgspec.json.decode(output.value or b"", type=DeadLetter)
    assert (letter.original, letter.key, letter.reason) == (b'{"item_id": 18}', b"18", "invalid")


keys = st.none() | st.sampled_from([b"1", b"2"]) | st.binary(max_size=4)
items = st.fixed_dictionaries({"item_id": st.sampled_from(["1", "2", 1, "\ud800"]), "name": st.text(max_size=3)})
values = st.none() | st.binary(max_size=20) | items.map(lambda fields: json.dumps(fields).encode())


@given(st.lists(st.tuples(keys, values), max_size=8))
def test_any_bytes_are_an_item_a_tombstone_or_a_dead_letter(pairs: list[tuple[bytes | None, bytes | None]]) -> None:
    """No record stops a reader, and an item is known by its key."""
    table = ItemTable()
    records = [PlainRecord(offset, 0, key, value) for offset, (key, value) in enumerate(pairs)]
    rejected: list[RejectedItem] = table.apply(records)
    assert all(key == item.item_id.encode() for key, item in table.items.items())
    assert len(item_dead_letters("items", 1, 0, rejected)) == len(rejected)


def test_a_bug_costs_one_record_of_the_catalogue() -> None:
    """Every process reads the topic whole, and would end at this record at each start."""

    def broken(theirs: Any) -> Any:
        if theirs["item_id"] == "18":
            raise KeyError("a value of the record")
        return theirs

    form, records = ItemFormat(broken), [record({"item_id": "18", "name": "n"}), record({"item_id": "19", "name": "n"}, b"19", 1)]
    table = ItemTable(form)
    (rejected,) = table.apply(records)
    assert (rejected.record.offset, rejected.rejection.reason) == (0, Reason.POISON)
    assert "KeyError at" in rejected.rejection.error
    assert "a value" not in rejected.rejection.error
    assert list(table.items) == [b"19"]
    assert rejected_items(records, form) == [rejected]


def test_an_item_whose_mapping_compares_a_text_with_a_number_is_one_dead_letter() -> None:
    """JMESPath raises Python's own TypeError there, which ended every worker at each start."""
    fields = {"item_id": "id", "name": "name", "repeatable": "most > `1`"}
    form = item_format(Settings(mapping=MappingSettings.model_validate({"items": fields})))
    (rejected,) = ItemTable(form).apply([record({"id": "18", "name": "n", "most": "unlimited"})])
    assert rejected.rejection.reason == Reason.MAPPING


async def test_a_bug_in_reading_a_model_costs_that_model_and_neither_worker_nor_api() -> None:
    """The one announced before it is served."""
    announced = ModelAnnouncement(role="champion", name="order", version="1", uri="1", sha256="1", published_at=0)
    broken = msgspec.structs.replace(announced, uri="2", sha256="2")
    records = [PlainRecord(offset, 0, b"champion", encode_announcement(model)) for offset, model in enumerate((announced, broken))]
    metrics, served = Metrics(), ServedModel(catalogue=catalogue())

    def load(uri: str, _: str) -> OrderRanker:
        return {"1": OrderRanker("1")}[uri]

    await ServedModelFollower(served, metrics, load).on_models(records)
    read = CurrentCatalogue(lambda uri, _: {"1": (ITEMS, cast("Any", None), None)}[uri], metrics)
    await read.on_models(records)
    assert served.ranker is not None
    assert read.popularity is not None
    assert read._unread == []
    assert metrics.total("model_refusals", "poison") == 2


UNDECODABLE = (b"{", b"\xff", DEEP, b'{"role": 1}', b'"\\ud800"')


@pytest.mark.parametrize("value", UNDECODABLE)
async def test_an_announcement_that_cannot_be_decoded_is_refused_and_counted_by_worker_and_api(value: bytes) -> None:
    """Both go on; the API does not try it again and again."""
    announced = ModelAnnouncement(role="champion", name="order", version="1", uri="1", sha256="s", published_at=0)
    records = [PlainRecord(0, 0, b"champion", encode_announcement(announced)), PlainRecord(1, 0, b"champion", value)]
    metrics, api_metrics = Metrics(), Metrics()
    served = ServedModel(catalogue=catalogue())
    await ServedModelFollower(served, metrics, lambda *_: OrderRanker("1")).on_models(records)
    read = CurrentCatalogue(lambda *_: (ITEMS, cast("Any", None), None), api_metrics)
    await read.on_models(records)
    assert served.ranker is not None
    assert read.popularity is not None
    assert read._unread == []
    assert metrics.total("model_refusals", "announcement") == api_metrics.total("model_refusals", "announcement") == 1


def example(**changes: Any) -> bytes:
    made = TrainingExample(
        user_id="u",
        purchase_id="p",
        occurred_at=1,
        revision=1,
        type="session",
        items=("a",),
        excluded=(),
        interactions=(session_of([(0, ("home",))]),),
    )
    return encode_example(msgspec.structs.replace(made, **changes))


@pytest.mark.parametrize(
    "value",
    [
        *(b"\xc1", b"\x01", b"\x91" * 100_000, b""),
        example(items=tuple(map(str, range(10_001)))),
        example(interactions=(session_of([(0, ("home",))]),) * 11),
        example(interactions=(Conversation(0, 0, "c", ()),)),
    ],
)
def test_a_training_example_that_cannot_be_decoded_is_left_out_and_told(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Training goes on with the others. What an example names decides how much memory training takes."""
    assert examples_in(cast("CompactedTopic", StoredTopic([record(value, b"k")]))) == []
    assert "1 of 1 records are no training examples" in caplog.text


@pytest.mark.parametrize("value", UNDECODABLE)
def test_dead_letters_and_replays_that_cannot_be_decoded_stop_no_command(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A replayed record is known by its key; an invalid dead letter is left out; both are reported."""
    reader = cast("TopicReader", StoredTopic([record(value, b"items/3/0/7"), record(value, RUN_KEY)]))
    replayed = read_replayed(reader, "replayed-dead-letters")
    assert {key: entry.replayed_at for key, entry in replayed.items()} == {b"items/3/0/7": 5, RUN_KEY: 5}
    assert list(read_dead_letters(reader, "dead-letters", DeadLetterFilter())) == []
    assert "replayed-dead-letters, offset 0 cannot be read" in caplog.text
    assert "2 records of dead-letters are no dead letters" in caplog.text


@pytest.mark.parametrize("value", UNDECODABLE)
async def test_an_api_key_that_cannot_be_decoded_opens_nothing_and_is_told(value: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The others stay."""
    await ApiKeys().on_records([record(value, b"k")])
    assert "opens nothing" in caplog.text


@pytest.mark.parametrize("timestamp", [-62_135_600_400_000, 1_790_000_000_000_000, 2**63 - 1, -(2**63)])
def test_a_dead_letter_can_be_built_whatever_timestamp_the_producer_gave(timestamp: int) -> None:
    """`items` keeps the producer's timestamp: .NET's smallest time, microseconds."""
    rejected = ItemTable().apply([PlainRecord(0, timestamp, b"18", b"{}")])
    (letter,) = item_dead_letters("items", 1, 0, rejected)
    assert dict(letter.headers)["ce_time"][:4] in {b"0001", b"9999"}
