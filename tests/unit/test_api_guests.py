"""Lists for guests: what a new user with the same events would get, from the champion of the moment, with nothing stored."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models.artifact import write_ranker
from models.popular import Popular
from stream.api.answers import Popularity
from stream.api.served_lists import ServedLists
from stream.core.announcements import ModelAnnouncement
from stream.core.events import Click, EncodedCall, Item, Sentence, Source, Transcript
from stream.core.outputs import ModelName
from stream.core.ranking import Catalogue, Ranker
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig
from stream.services.api import now_ms
from stream.services.text_models import folder_of
from stream.text.encode_stage import encode_batch
from stream.text.model import TextModel
from tests import api, world
from tests.api import ITEMS, NOW, Replica, replica
from tests.rankers import TAGS, random_ranker

PRIOR = np.linspace(0.1, 0.9, len(ITEMS), dtype=np.float32)
SAID = ["My car was stolen.", "I need house insurance."]


@pytest.fixture(scope="module")
def text_model() -> TextModel:
    return TextModel(folder_of(api.settings()))


@pytest.fixture(scope="module")
def ranker(text_model: TextModel) -> Ranker:
    return random_ranker("isthmus", ITEMS, PRIOR, text_model=text_model.hash, text_width=text_model.width)


@pytest.fixture
async def running(tmp_path: Path, ranker: Ranker) -> AsyncIterator[Replica]:
    log = api.new_log()
    api.put_items(log)
    async with replica(log, tmp_path, guests=True) as started:
        await started.until(lambda: asyncio.sleep(0, len(started.parts.current.catalogue.items) == len(ITEMS)))
        started.parts.current.popularity = Popularity(ModelName("isthmus", "9"), ITEMS, PRIOR, ranker)
        yield started


async def ask(running: Replica, **body: Any) -> Any:
    return await running.client.post("/v1/recommendations", json=body)


def of_a_new_user(ranker: Ranker, text_model: TextModel, clicks: list[dict[str, Any]], said: list[str], at_ms: int) -> Any:
    """What the step lists for a user whose first events these are."""
    store, catalogue = world.Store(), Catalogue(Item(item, item) for item in ITEMS)
    made = [Click("u", click["occurred_at"], tuple(click["tags"]), f"e{index}") for index, click in enumerate(clicks)]
    records = [PlainRecord(index, at_ms, b"u", msgspec.json.encode(click)) for index, click in enumerate(made)]
    world.run(store, Batch(Source.CLICK, "clicks", 1, 0, records), ranker, catalogue, StepConfig(partitions=1, list_length=5))
    if said:
        transcript = Transcript("u", "c", at_ms, tuple(map(Sentence, said)), "t", ended_at=at_ms)
        spoken = [PlainRecord(0, at_ms, b"u", msgspec.json.encode(transcript))]
        (call,) = encode_batch(Batch(Source.CALL, "calls", 1, 0, spoken), text_model).calls
        assert msgspec.msgpack.decode(call.value or b"", type=EncodedCall).sentences == len(said)
        batch = Batch(Source.CALL, "calls", 1, 0, [PlainRecord(0, at_ms, b"u", call.value)])
        world.run(store, batch, ranker, catalogue, StepConfig(partitions=1, list_length=5))
    return msgspec.json.decode(store.recommendations[b"u"] or b"")


@pytest.mark.parametrize("said", [[], SAID])
async def test_a_guest_gets_what_a_new_user_with_the_same_events_would_get(
    running: Replica, ranker: Ranker, text_model: TextModel, said: list[str]
) -> None:
    """The same items and scores, by the same network and encoder; clicks in any order, in as many sessions as their times make."""
    now = now_ms()
    clicks = [{"tags": [tag], "occurred_at": now - 3_600_000 * hours - 1_000} for hours, tag in enumerate((*TAGS, "never-seen"))]
    answer = (await ask(running, clicks=clicks, sentences=said)).json()
    expected = of_a_new_user(ranker, text_model, clicks[::-1], said, now)
    assert [(one["item"], one["score"]) for one in answer["items"]] == [(one["item"], one["score"]) for one in expected["items"]]
    assert answer["modalities"] == expected["modalities"] == {"session": len(clicks), "conversation": int(bool(said))}
    assert answer["model"]["version"] == ranker.version
    assert {"user_id", "recommendation_id", "fallback"}.isdisjoint(answer)


async def test_sentences_alone_make_a_list(running: Replica) -> None:
    """And other sentences another one."""
    first, second = [(await ask(running, sentences=[text])).json() for text in ("My dog is ill.", "The car has a new price.")]
    assert first["modalities"] == {"session": 0, "conversation": 1}
    assert [one["score"] for one in first["items"]] != [one["score"] for one in second["items"]]


async def test_a_guest_of_whom_nothing_is_known_gets_popularitys_list(running: Replica) -> None:
    """Blank sentences are nothing."""
    for body in ({}, {"sentences": [" "]}):
        answer = (await ask(running, **body)).json()
        assert (answer["fallback"], answer["items"][0]["item"]) == ("popularity", ITEMS[-1])


async def test_nothing_of_a_guest_is_stored(running: Replica) -> None:
    """No topic grows, and the store knows no guest."""
    before = {name: [part.end for part in topic.partitions] for name, topic in running.log.topics.items()}
    await ask(running, clicks=[{"tags": ["car"]}], sentences=SAID)
    assert {name: [part.end for part in topic.partitions] for name, topic in running.log.topics.items()} == before
    assert (await running.get("/v1/users/guest/profile")).status_code == 404


async def test_a_guests_list_says_what_it_was(running: Replica) -> None:
    """By a served id that belongs to whom the guest turns out to be."""
    answer = (await ask(running, clicks=[{"tags": ["car"]}], limit=3)).json()
    found = ServedLists(running.parts.api.signer).verify(answer["served_id"], "anybody", now_ms())
    assert found is not None
    assert (found.model_version, list(found.items)) == ("0", [one["item"] for one in answer["items"]])
    assert len(found.items) == 3


async def test_withdrawn_items_are_not_offered_to_guests(running: Replica) -> None:
    """The post filter is the same."""
    best = (await ask(running, clicks=[{"tags": ["car"]}])).json()["items"][0]["item"]
    api.withdraw(running.log, best)
    await running.until(lambda: asyncio.sleep(0, best not in running.parts.current.catalogue.items))
    assert best not in [one["item"] for one in (await ask(running, clicks=[{"tags": ["car"]}])).json()["items"]]


async def test_a_swapped_model_ranks_the_next_guest(running: Replica, tmp_path: Path) -> None:
    """Announced as for workers, read from its folder."""
    for version in ("11", "12"):
        folder = tmp_path / version
        sha256 = write_ranker(folder, Popular(version, "", ITEMS, PRIOR), version=version)
        announced = ModelAnnouncement(
            role="champion", name="popular", version=version, uri=str(folder), sha256=sha256, published_at=NOW
        )
        running.log.append(api.TOPICS.models, "champion", msgspec.json.encode(announced))
        await running.until(lambda wanted=version: serves(running, wanted))  # type: ignore[misc]
        assert running.parts.current.popularity is not None
        assert isinstance(running.parts.current.popularity.ranker, Popular)


async def serves(running: Replica, version: str) -> bool:
    return bool((await ask(running, clicks=[{"tags": ["car"]}])).json()["model"]["version"] == version)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"clicks": [{"tags": []}]}, "tags"),
        ({"clicks": [{"tags": ["a\x1fb"]}]}, "clicks[0]"),
        ({"clicks": [{"tags": ["a"]}, {"tags": ["a"], "occurred_at": NOW // 1_000}]}, "clicks[1]"),
        ({"clicks": [{"tags": ["a"], "occurred_at": NOW + 86_400_000}]}, "clicks[0]"),
        ({"clicks": [{"tags": ["a"]}] * 641}, "clicks"),
        ({"sentences": ["a"] * 101}, "sentences"),
        ({"sentences": ["a" * 4_001]}, "sentences"),
        ({"limit": 0}, "limit"),
    ],
)
async def test_what_no_event_could_be_is_refused(running: Replica, body: dict[str, Any], named: str) -> None:
    """With its name."""
    answer = await ask(running, **body)
    assert answer.status_code == 400
    assert named in answer.json()["detail"]


async def test_sentences_for_another_text_model_are_refused(running: Replica) -> None:
    """The champion could not read them; a list that passes over them would be a silent error."""
    other = random_ranker("isthmus", ITEMS, PRIOR, text_model="another")
    running.parts.current.popularity = Popularity(ModelName("isthmus", "10"), ITEMS, PRIOR, other)
    answer = await ask(running, sentences=SAID)
    assert (answer.status_code, "text model" in answer.json()["detail"]) == (503, True)
    assert (await ask(running, clicks=[{"tags": ["car"]}])).status_code == 200


async def test_too_many_waiting_guests_are_sent_away(running: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the time after which to come again, while reads go on."""
    assert running.parts.api.guests is not None
    monkeypatch.setattr(running.parts.api.guests, "_max_waiting", 0)
    answer = await ask(running, clicks=[{"tags": ["car"]}])
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


async def test_without_the_setting_no_model_is_loaded_and_guests_are_told_so(tmp_path: Path) -> None:
    """501 names the setting."""
    async with replica(api.new_log(), tmp_path) as started:
        answer = await ask(started, clicks=[{"tags": ["car"]}])
    assert (answer.status_code, "--guests" in answer.json()["detail"]) == (501, True)
