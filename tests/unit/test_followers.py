"""What a worker accepts from `items` and `models`, and what it refuses while it keeps serving what it has."""

from dataclasses import dataclass

import msgspec
import pytest

from models.artifact import ModelRefused
from stream.api.api_keys import ApiKeys, Scope, encode_api_key, make_api_key
from stream.core.announcements import ModelAnnouncement, encode_announcement
from stream.core.events import Item
from stream.core.ranking import Ranker
from stream.core.records import PlainRecord
from stream.core.unreadable import UnreadableValue
from stream.kafka.agents.followers import ServedModelFollower
from stream.kafka.agents.served_model import ServedModel
from stream.metrics import Metrics
from tests import world


@dataclass
class Registry:
    """Models by URI; others are refused as unreadable."""

    models: dict[str, Ranker]

    def load(self, uri: str, sha256: str) -> Ranker:
        del sha256
        if uri not in self.models:
            raise ModelRefused("unreadable", f"{uri} cannot be read")
        return self.models[uri]


def announced(uri: str) -> PlainRecord:
    announcement = ModelAnnouncement(role="champion", name="order", version=uri, uri=uri, sha256=uri, published_at=0)
    return PlainRecord(0, 0, b"champion", encode_announcement(announcement))


def item(name: str) -> PlainRecord:
    return PlainRecord(0, 0, name.encode(), msgspec.json.encode(Item(name, name)))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def follower(metrics: Metrics) -> ServedModelFollower:
    """With a catalogue of the test's items and three models: two that fit it, and one for other items."""
    foreign = world.OrderRanker(version="foreign", items=tuple(f"foreign-{number}" for number in range(6)))
    registry = Registry({"1": world.OrderRanker("1"), "2": world.OrderRanker("2"), "foreign": foreign})
    return ServedModelFollower(ServedModel(catalogue=world.catalogue()), metrics, registry.load)


async def test_a_model_for_other_items_is_refused_and_the_old_one_stays(follower: ServedModelFollower, metrics: Metrics) -> None:
    """Its lists would be empty. The refusal is counted with its reason."""
    await follower.on_models([announced("1")])
    await follower.on_models([announced("foreign")])
    assert follower._served.ranker is not None
    assert follower._served.ranker.version == "1"
    assert metrics.total("model_refusals", "items") == 1


async def test_a_model_may_lack_new_items_and_hold_withdrawn_ones(follower: ServedModelFollower) -> None:
    """Catalogue and model are rarely of the same day."""
    await follower.on_items([item(name) for name in (*world.ITEMS[2:], "item-new", "item-newer")])
    await follower.on_models([announced("2")])
    assert follower._served.ranker is not None


async def test_a_starting_worker_takes_the_newest_champion_that_it_can_load(
    follower: ServedModelFollower, metrics: Metrics
) -> None:
    """If the newest is refused, it takes the one announced before it, because it has none to keep."""
    await follower.on_models([announced("1"), announced("2"), announced("nowhere")])
    assert follower._served.ranker is not None
    assert follower._served.ranker.version == "2"
    assert metrics.total("model_refusals", "unreadable") == 1


async def test_a_model_that_could_not_be_read_is_loaded_once_its_registry_is_back(metrics: Metrics) -> None:
    """It need not be promoted again; until then a worker without a model reports it."""
    registry = Registry({})
    follower = ServedModelFollower(ServedModel(), metrics, registry.load)
    await follower.on_models([announced("1")])
    assert "order version 1 cannot be read from 1" in str(follower.missing())
    await follower.retry()
    assert metrics.total("model_refusals", "unreadable") == 2  # so that the alert stays on
    registry.models["1"] = world.OrderRanker("1")
    await follower.retry()
    assert follower.missing() is None
    assert follower._served.ranker is not None


async def test_a_newer_champion_ends_the_retries_of_an_unreadable_one(metrics: Metrics) -> None:
    """Even if the older one has become readable."""
    registry = Registry({"2": world.OrderRanker("2")})
    follower = ServedModelFollower(ServedModel(), metrics, registry.load)
    await follower.on_models([announced("1")])
    await follower.on_models([announced("2")])
    registry.models["1"] = world.OrderRanker("1")
    await follower.retry()
    assert follower._served.ranker is registry.models["2"]


async def test_any_model_is_accepted_while_the_catalogue_is_empty(metrics: Metrics) -> None:
    """`items` may be filled later."""
    follower = ServedModelFollower(ServedModel(), metrics, Registry({"1": world.OrderRanker("1")}).load)
    await follower.on_models([announced("1")])
    assert follower._served.ranker is not None


async def test_no_model_is_accepted_after_the_last_item_is_withdrawn(metrics: Metrics) -> None:
    """A tombstone is enough. A record that cannot be used says nothing of what was on offer."""
    served = ServedModel()
    follower = ServedModelFollower(served, metrics, Registry({"1": world.OrderRanker("1"), "2": world.OrderRanker("2")}).load)
    await follower.on_items([PlainRecord(0, 0, b"b", b"{")])
    await follower.on_models([announced("1")])
    assert served.ranker is not None
    await follower.on_items([PlainRecord(1, 0, b"a", None)])
    await follower.on_models([announced("2")])
    assert served.ranker.version == "1"
    assert metrics.total("model_refusals", "items") == 1


async def test_an_item_that_cannot_be_used_is_counted_until_it_is_published_again(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Its former version stays, each item counts once however often it is wrong, and the log says why."""
    served = ServedModel()
    follower = ServedModelFollower(served, metrics)
    wrong = [
        PlainRecord(7, 0, b"a", b'{"item_id":"a","name":"A","offered_until":1790000000}'),
        PlainRecord(8, 0, b"b", b'{"item_id":18}'),
        PlainRecord(9, 0, b"b", b"{"),
    ]
    await follower.on_items([item("a"), *wrong])
    assert list(served.catalogue.items) == ["a"]
    assert metrics.registry.get_sample_value("isthmus_unusable_items") == 2
    assert "offset 7" in caplog.text
    assert "looks like seconds" in caplog.text
    await follower.on_items([item("a"), PlainRecord(10, 0, b"b", None)])
    assert metrics.registry.get_sample_value("isthmus_unusable_items") == 0


async def test_unreadable_records_of_followed_topics_are_counted_and_left_out() -> None:
    """The former value is kept, a withdrawal is not invented, and the alert sees it."""
    served, metrics, ranker = ServedModel(), Metrics(), world.OrderRanker("1")
    follower = ServedModelFollower(served, metrics, Registry({"1": ranker}).load)
    await follower.on_models([announced("1"), PlainRecord(1, 0, b"champion", UnreadableValue.of("a length is wrong"))])
    await follower.on_items([item("a"), PlainRecord(1, 0, b"a", UnreadableValue.of("a length is wrong"))])
    assert set(served.catalogue.items) == {"a"}
    assert served.ranker is ranker
    assert [metrics.total("unreadable_records", topic) for topic in ("items", "models")] == [1.0, 1.0]


async def test_a_topic_that_is_read_again_replaces_the_catalogue() -> None:
    """What the recreated topic does not hold is no longer offered, nor counted as unusable."""
    served, metrics = ServedModel(None), Metrics()
    follower = ServedModelFollower(served, metrics)
    await follower.on_items([item("a"), item("b"), PlainRecord(2, 0, b"c", b"{")])
    await follower.on_items([item("b")], replace=True)
    assert set(served.catalogue.items) == {"b"}
    assert metrics.total("unusable_items") == 0


async def test_a_topic_of_keys_that_is_read_again_revokes_those_that_it_does_not_hold() -> None:
    keys = ApiKeys()
    (_, first), (secret, second) = (make_api_key(name, [Scope.READ], 0) for name in "ab")
    await keys.on_records([PlainRecord(0, 0, key.key_id.encode(), encode_api_key(key)) for key in (first, second)])
    await keys.on_records([PlainRecord(0, 0, second.key_id.encode(), encode_api_key(second))], replace=True)
    assert keys.all() == [second]
    assert keys.find(secret, 1) == second
