"""Lists over HTTP: judged again at the moment of reading, named, cached by ETag, never an error for a stranger."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from models.artifact import write_ranker
from models.popular import Popular
from stream.api.answers import Popularity
from stream.core.announcements import ModelAnnouncement
from stream.core.outputs import ModelName, Output, Reasoning
from tests import api
from tests.api import ITEMS, NOW, TOPICS, Replica, replica


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Replica]:
    """A catalogue, and one user `u` with a list, who owns an item of its reserve."""
    log = api.new_log()
    api.put_items(log)
    api.put_list(log, "u")
    api.put_state(log, "u", owned=["item-05"])
    async with replica(log, tmp_path, placements=("home",)) as started:
        await started.until(lambda: catalogue_of(started, 20))
        yield started


async def catalogue_of(running: Replica, count: int) -> bool:
    return len(running.parts.current.catalogue.items) == count


async def test_a_list_has_names_its_id_its_model_and_its_age(running: Replica) -> None:
    """Everything that a page needs to show it and to say later what it showed."""
    answer = (await running.get("/v1/users/u/recommendations")).json()
    assert [one["item"] for one in answer["items"]] == list(ITEMS[:5])
    assert answer["items"][0] == {"item": "item-00", "rank": 1, "name": "Item-00", "score": 0.99}
    assert answer["recommendation_id"].startswith("id-u-")
    assert answer["model"] == {"name": "fusion", "version": "7", "role": "champion"}
    assert 0 <= answer["age_s"] < 5
    assert "changed" not in answer
    assert "fallback" not in answer


async def test_probabilities_and_reasons_are_those_of_the_list(running: Replica) -> None:
    """Of items of the reserve too; reasons only where asked for."""
    why = Reasoning("session", NOW - 1, 0.99, 0.1, 0.98)
    made = api.make_list("sure")
    items = [msgspec.structs.replace(one, probability=0.5, because=(why,)) for one in made.items]
    reserve = [msgspec.structs.replace(one, probability=0.25) for one in made.reserve]
    record = msgspec.json.encode(msgspec.structs.replace(made, items=tuple(items), reserve=tuple(reserve)))
    api.append(running.log, TOPICS.recommendations, "sure", Output(b"sure", record))
    api.withdraw(running.log, ITEMS[0])
    await running.until(lambda: catalogue_of(running, 19))
    await running.until(lambda: knows(running, "sure"))
    answer = (await running.get("/v1/users/sure/recommendations?explain=true")).json()
    assert [one["probability"] for one in answer["items"]] == [0.5] * 4 + [0.25]
    assert [one.get("because") for one in answer["items"]] == [[msgspec.to_builtins(why)]] * 4 + [None]
    answer = (await running.get("/v1/users/sure/recommendations")).json()
    assert not any("because" in one for one in answer["items"])


async def knows(running: Replica, user: str) -> bool:
    answer = (await running.get(f"/v1/users/{user}/recommendations")).json()
    return "recommendation_id" in answer


async def test_withdrawn_items_are_replaced_although_no_event_came(running: Replica) -> None:
    """Two of five withdrawn: still five, none owned, none withdrawn; the order is the model's."""
    api.withdraw(running.log, "item-01", "item-03")
    await running.until(lambda: catalogue_of(running, 18))
    answer = (await running.get("/v1/users/u/recommendations")).json()
    assert [one["item"] for one in answer["items"]] == ["item-00", "item-02", "item-04", "item-06", "item-07"]
    assert [one["rank"] for one in answer["items"]] == [1, 2, 3, 4, 5]
    assert answer["changed"] == "filled"


async def test_an_ended_offer_is_replaced(running: Replica) -> None:
    """By the clock of the reading process; no record says that it ended."""
    api.put_items(running.log, ["item-02"], offered_until=NOW - 1)
    await running.until(lambda: ended(running))
    assert await running.items_of("u") == ["item-00", "item-01", "item-03", "item-04", "item-06"]


async def ended(running: Replica) -> bool:
    return "item-02" not in running.parts.current.catalogue.offered_at(NOW)


async def test_where_the_reserve_is_used_up_popular_items_follow(running: Replica) -> None:
    """They carry no score: no model ranked them for this user."""
    api.withdraw(running.log, *ITEMS[:14])
    await running.until(lambda: catalogue_of(running, 6))
    answer = (await running.get("/v1/users/u/recommendations")).json()
    assert [one["item"] for one in answer["items"]] == ["item-14", "item-15", "item-16", "item-17", "item-18"]
    assert [("score" in one) for one in answer["items"]] == [True, False, False, False, False]


async def test_a_list_with_nothing_to_fill_it_is_filtered(running: Replica) -> None:
    """Shorter rather than wrong."""
    api.withdraw(running.log, *ITEMS[3:])
    await running.until(lambda: catalogue_of(running, 3))
    answer = (await running.get("/v1/users/u/recommendations")).json()
    assert [one["item"] for one in answer["items"]] == list(ITEMS[:3])
    assert answer["changed"] == "filtered"


async def test_after_the_last_item_is_withdrawn_nothing_is_served(running: Replica) -> None:
    """Neither to a user with a list nor to a stranger."""
    api.withdraw(running.log, *ITEMS)
    await running.until(lambda: catalogue_of(running, 0))
    assert await running.items_of("u") == []
    assert await running.items_of("stranger") == []


async def test_an_item_bought_since_is_not_served(running: Replica) -> None:
    """The state may be newer than the list: both topics are followed, and neither waits for the other."""
    api.put_state(running.log, "u", owned=["item-00"], excluded=["item-01"])
    await running.settled()
    assert await running.items_of("u", limit=3) == ["item-02", "item-03", "item-04"]


@pytest.mark.parametrize("limit", ["null", "%6Eull", "0", "101", "1.5", "", "two"])
async def test_a_limit_is_a_number_within_its_bounds(running: Replica, limit: str) -> None:
    """`null` too is none."""
    answer = await running.get(f"/v1/users/u/recommendations?limit={limit}")
    assert (answer.status_code, "limit" in answer.text) == (400, True)


async def test_what_follows_a_list_shorter_than_the_limit_replaces_nothing(running: Replica) -> None:
    """`changed` is absent until an item of the list goes."""
    api.put_list(running.log, "v")

    async def answered() -> dict[str, object]:
        return dict((await running.get("/v1/users/v/recommendations?limit=19")).json())

    async def is_known() -> bool:
        return "recommendation_id" in await answered()

    await running.until(is_known)
    assert "changed" not in await answered()
    api.withdraw(running.log, "item-01")
    await running.until(lambda: catalogue_of(running, 19))
    assert (await answered())["changed"] == "filled"


async def test_limit_reaches_into_the_reserve(running: Replica) -> None:
    """Fewer, or more than the step's list length."""
    assert await running.items_of("u", limit=2) == ["item-00", "item-01"]
    assert await running.items_of("u", limit=8) == [*ITEMS[:5], "item-06", "item-07", "item-08"]


async def test_a_stranger_gets_the_catalogue_and_then_popularitys_list(running: Replica, tmp_path: Path) -> None:
    """Under a fallback, not an error; popularity comes with the first model."""
    before = (await running.get("/v1/users/nobody/recommendations")).json()
    assert (before["fallback"], [one["item"] for one in before["items"]]) == ("catalogue", list(ITEMS[:5]))
    prior = np.linspace(0.1, 0.9, len(ITEMS), dtype=np.float32)
    folder = tmp_path / "popular"
    sha256 = write_ranker(folder, Popular("3", "", ITEMS, prior), version="3")
    announced = ModelAnnouncement(role="champion", name="popular", version="3", uri=str(folder), sha256=sha256, published_at=NOW)
    running.log.append(api.TOPICS.models, "champion", msgspec.json.encode(announced))
    await running.until(lambda: has_popularity(running))
    answer = (await running.get("/v1/users/nobody/recommendations")).json()
    assert (answer["fallback"], answer["model"]["version"]) == ("popularity", "3")
    assert [one["item"] for one in answer["items"]] == list(ITEMS[:-6:-1])


async def test_a_model_elsewhere_than_the_settings_say_is_not_read(
    running: Replica, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """What was there before stays; the refusal is counted, and said with what to do."""
    folder = tmp_path_factory.mktemp("elsewhere") / "1"
    sha256 = write_ranker(folder, Popular("1", "", ITEMS, np.ones(len(ITEMS), dtype=np.float32)), version="1")
    announced = ModelAnnouncement(role="champion", name="popular", version="1", uri=str(folder), sha256=sha256, published_at=NOW)
    running.log.append(api.TOPICS.models, "champion", msgspec.json.encode(announced))
    await running.until(lambda: asyncio.sleep(0, "model refused (untrusted)" in caplog.text))
    assert running.parts.current.popularity is None
    assert running.parts.api.metrics.total("model_refusals", "untrusted") == 1
    assert "see registry.trusted_folders" in caplog.text


async def test_items_that_no_model_scored_have_no_score(running: Replica) -> None:
    """Those that the step filled in from the catalogue, and whole lists by popularity or in the catalogue's order."""
    api.put_list(running.log, "u", ITEMS[:5], filled_from=3)
    api.put_list(running.log, "v", ITEMS[:5], fallback="catalogue")
    api.put_list(running.log, "w", ITEMS[:5], fallback="popularity")
    await running.settled()
    for user, scored in (("u", [True, True, False, False, False]), ("v", [False] * 5), ("w", [False] * 5)):
        answer = (await running.get(f"/v1/users/{user}/recommendations")).json()
        assert ["score" in one for one in answer["items"]] == scored


async def test_after_popular_items_come_those_that_the_model_does_not_know(running: Replica) -> None:
    """As in the step: a new item is offered before anybody bought it."""
    running.parts.current.popularity = Popularity(ModelName("popular", "1"), ITEMS[18:], np.ones(2, dtype=np.float32))
    assert await running.items_of("nobody") == [*ITEMS[18:], *ITEMS[:3]]


async def has_popularity(running: Replica) -> bool:
    return running.parts.current.popularity is not None


async def test_a_model_that_cannot_be_read_is_tried_again(running: Replica, tmp_path: Path) -> None:
    """The registry was away; what was there before stays until then."""
    folder = tmp_path / "popular"
    sha256 = write_ranker(folder, Popular("3", "", ITEMS, np.ones(len(ITEMS), dtype=np.float32)), version="3")
    folder.rename(tmp_path / "away")
    announced = ModelAnnouncement(role="champion", name="popular", version="3", uri=str(folder), sha256=sha256, published_at=NOW)
    running.log.append(api.TOPICS.models, "champion", msgspec.json.encode(announced))
    await asyncio.sleep(0.05)
    assert running.parts.current.popularity is None
    (tmp_path / "away").rename(folder)
    await running.parts.current.try_again()
    assert await has_popularity(running)


async def test_a_list_that_is_held_is_not_sent_again(running: Replica) -> None:
    """304 while the filtered list is the same, whatever its age; 200 as soon as an item is withdrawn."""
    first = await running.get("/v1/users/u/recommendations")
    etag = first.headers["ETag"]
    held = await running.get("/v1/users/u/recommendations", headers={"If-None-Match": f'"other", W/{etag}'})
    assert (held.status_code, held.content, held.headers["ETag"]) == (304, b"", etag)
    assert float(held.headers["Isthmus-Age"]) >= 0
    api.withdraw(running.log, "item-00")
    await running.until(lambda: catalogue_of(running, 19))
    again = await running.get("/v1/users/u/recommendations", headers={"If-None-Match": etag})
    assert again.status_code == 200
    assert again.headers["ETag"] != etag


async def test_no_cache_keeps_a_list_for_somebody_else(running: Replica) -> None:
    """Shared caches must not store it, and it depends on who asks."""
    answer = await running.get("/v1/users/u/recommendations")
    refused = await running.get("/v1/users/u/recommendations", headers={"Authorization": ""})
    for one in (answer, refused):
        assert one.headers["Cache-Control"] == "private, no-cache"
        assert one.headers["Vary"] == "Authorization, Origin"
        assert "set-cookie" not in one.headers


async def test_a_placement_that_is_not_declared_counts_as_other(running: Replica) -> None:
    """Or anybody could make as many metric series as he likes."""
    for asked, named in (("home", "home"), ("x" * 50, "other")):
        answer = await running.get("/v1/users/u/recommendations", params={"placement": asked})
        assert answer.json()["placement"] == named


async def test_many_users_are_asked_for_at_once(running: Replica) -> None:
    """In the order of the request, strangers included; ids that cannot stand in a path too."""
    api.put_list(running.log, "a/b", ITEMS[7:12])
    await running.settled()
    answer = await running.client.post("/v1/users/batch", json={"users": ["u", "nobody", "a/b"], "limit": 2})
    lists = answer.json()["lists"]
    assert [one["user_id"] for one in lists] == ["u", "nobody", "a/b"]
    assert [[item["item"] for item in one["items"]] for one in lists] == [list(ITEMS[:2]), list(ITEMS[:2]), list(ITEMS[7:9])]


async def test_a_profile_holds_numbers_and_no_tag(running: Replica) -> None:
    """What is known of a user, for people; nothing that the user did or said."""
    answer = await running.get("/v1/users/u/profile")
    profile = answer.json()
    assert profile["interactions"] == 1
    assert profile["modalities"] == {"session": 1, "conversation": 0}
    assert (profile["purchases"], profile["owned"]) == (1, 1)
    assert "secret-tag" not in answer.text
    assert (await running.get("/v1/users/nobody/profile")).status_code == 404


async def test_the_catalogue_is_read_in_parts(running: Replica) -> None:
    """In the order of ids; `next` leads on, and is absent at the end."""
    first = (await running.get("/v1/items", params={"limit": 15})).json()
    second = (await running.get("/v1/items", params={"limit": 15, "after": first["next"]})).json()
    assert [one["item"] for one in first["items"] + second["items"]] == list(ITEMS)
    assert "next" not in second
    assert first["items"][0] == {"item": "item-00", "name": "Item-00", "offered": True, "repeatable": False}
