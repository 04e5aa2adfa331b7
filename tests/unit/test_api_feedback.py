"""Feedback by HTTP: who may send what, which items it is about, and what comes of it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.api.api_keys import Scope
from stream.api.door import USER_TOKEN_HEADER
from stream.api.user_tokens import UserToken, sign_token
from stream.core.events import NATIVE_FORMAT_HEADER, Feedback, Source
from stream.core.feedback import Mark, hash_item
from stream.core.outputs import Output
from stream.core.partitioner import partition_of
from stream.core.records import Batch
from stream.core.state import feedback_key
from stream.kafka.faust.changelog import term_headers as stamp
from stream.process_settings import ApiSettings, FeedbackSettings
from stream.services.api import now_ms, placements_of
from stream.settings import Settings
from tests import api, world
from tests.api import CHANGELOG, NOW, PARTITIONS, TOPICS, Replica, replica

SHOWN: dict[str, Any] = {"user_id": "u", "occurred_at": NOW, "channel": "web", "action": "shown", "items": ["item-01", "item-02"]}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Replica]:
    log = api.new_log()
    api.put_items(log)
    api.put_list(log, "u")
    api.put_state(log, "u")
    async with replica(log, tmp_path, failures_per_minute=0, requests_per_s_of_an_address=0) as started:
        yield started


async def send(running: Replica, *events: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
    return await running.client.post("/v1/feedback", json={"events": events}, headers=headers)


def received(running: Replica, user: str = "u") -> list[Feedback]:
    records = running.log.topics[TOPICS.feedback].partitions[partition_of(user.encode(), PARTITIONS)].records
    assert all((NATIVE_FORMAT_HEADER, b"1") in tuple(record.headers) for record in records)
    return [msgspec.json.decode(record.value or b"", type=Feedback) for record in records if record.key == user.encode()]


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}


async def key_headers(running: Replica, scope: Scope) -> dict[str, str]:
    secret, key = api.put_key(running.log, scope)

    async def is_known() -> bool:
        return key.key_id in {one.key_id for one in running.parts.api.keys.all()}

    await running.until(is_known)
    return bearer(secret)


async def test_feedback_reaches_its_topic_and_the_step(running: Replica) -> None:
    """Keyed by user, in our own form; without an id where none was given, so that the minute decides what is a repetition."""
    answer = await send(running, SHOWN, {**SHOWN, "event_id": "e", "action": "rejected"})
    assert answer.status_code == 202
    assert answer.json()["results"] == [{"status": "accepted"}, {"status": "accepted", "event_id": "e"}]
    assert [(one.action, one.items, one.event_id) for one in received(running)] == [
        ("shown", ("item-01", "item-02"), None),
        ("rejected", ("item-01", "item-02"), "e"),
    ]
    partition = partition_of(b"u", PARTITIONS)
    records = running.log.topics[TOPICS.feedback].partitions[partition].records
    store = world.Store()
    config = world.settings(partitions=PARTITIONS)
    counts = world.run(store, Batch(Source.FEEDBACK, TOPICS.feedback, 1, partition, records), config=config).counts
    assert counts["events", Source.FEEDBACK, "applied"] == 2


async def test_an_idempotency_key_names_the_events(running: Replica) -> None:
    """The same request again has the same ids, another request others."""
    ids = [
        [one["event_id"] for one in (await send(running, SHOWN, SHOWN, headers={"Idempotency-Key": key})).json()["results"]]
        for key in ("k1", "k1", "k2")
    ]
    assert ids[0] == ids[1]
    assert len({*ids[0], *ids[2]}) == 4


async def test_items_that_are_left_out_are_those_of_the_list_that_was_served(running: Replica) -> None:
    """Of the topic's list by its id, of one that only the API knows by its served id, with version and placement."""
    whole = (await running.get("/v1/users/u/recommendations")).json()
    short = (await running.get("/v1/users/u/recommendations", params={"limit": 2})).json()
    assert "served_id" not in whole
    named = {key: value for key, value in SHOWN.items() if key != "items"}
    assert (await send(running, {**named, "recommendation_id": whole["recommendation_id"]})).status_code == 202
    by_served_id = {**named, "recommendation_id": short["recommendation_id"], "served_id": short["served_id"]}
    assert (await send(running, by_served_id)).status_code == 202
    first, second = received(running)
    assert first.items == tuple(one["item"] for one in whole["items"])
    assert second.items == tuple(one["item"] for one in short["items"])
    assert first.model_version == second.model_version == whole["model"]["version"]
    for lost in ({}, {"recommendation_id": "another"}, {"served_id": short["served_id"] + "x"}, {"served_id": "x"}):
        assert (await send(running, {**named, **lost})).status_code == 422
    others = {**by_served_id, "user_id": "v"}
    assert (await send(running, others)).status_code == 422
    assert (await send(running, {**by_served_id, "action": "accepted"})).status_code == 400


async def test_a_list_answers_for_its_own_items_alone(running: Replica) -> None:
    """Its version is credited with items of it, and not with others on offer; there a secret key's statement counts."""
    whole = (await running.get("/v1/users/u/recommendations")).json()
    short = (await running.get("/v1/users/u/recommendations", params={"limit": 2})).json()
    own = [one["item"] for one in short["items"]]
    foreign = next(item for item in api.ITEMS if item not in {one["item"] for one in whole["items"]})
    for name in ({"served_id": short["served_id"]}, {"recommendation_id": whole["recommendation_id"]}):
        sent = {**SHOWN, **name}
        events = [
            {**sent, "items": own[1:]},
            {**sent, "items": [*own, foreign]},
            {**sent, "items": [foreign], "model_version": "x"},
        ]
        assert (await send(running, *events)).status_code == 202
    version = whole["model"]["version"]
    assert [one.model_version for one in received(running)] == [version, None, "x"] * 2


async def test_items_must_be_on_offer_or_in_a_list_of_the_user(running: Replica) -> None:
    """One that was withdrawn since is still of the list; nothing of a request that is refused is sent."""
    assert (await send(running, SHOWN, {**SHOWN, "items": ["made up"]})).status_code == 422
    assert not received(running)
    listed = (await running.get("/v1/users/u/recommendations")).json()["items"][0]["item"]
    running.log.append(TOPICS.items, listed, None)

    async def is_withdrawn() -> bool:
        return listed not in running.parts.current.catalogue.items

    await running.until(is_withdrawn)
    assert (await send(running, {**SHOWN, "items": [listed]})).status_code == 202
    assert (await send(running, {**SHOWN, "user_id": "v", "items": [listed]})).status_code == 422


@pytest.mark.parametrize(
    ("credential", "allowed"),
    [
        ("write", {"shown", "selected"}),
        ("feedback", {"shown", "selected", "accepted", "rejected", "dismissed"}),
        ("own token", {"shown", "selected", "dismissed"}),
        ("public and own token", {"shown", "selected", "dismissed"}),
        ("another's token", set()),
        ("public", set()),
    ],
)
async def test_each_credential_sends_what_it_may(running: Replica, credential: str, allowed: set[str]) -> None:
    """Answers of users come from keys that nobody else has."""
    user = "v" if "another" in credential else "u"
    token = sign_token(running.parts.api.signer, UserToken(user, NOW, NOW + 3_600_000))
    public = await key_headers(running, Scope.PUBLIC)
    headers = {
        "write": await key_headers(running, Scope.WRITE),
        "feedback": await key_headers(running, Scope.FEEDBACK),
        "public": public,
        "public and own token": public | {USER_TOKEN_HEADER: token},
    }.get(credential, bearer(token))
    for action in ("shown", "selected", "accepted", "rejected", "dismissed"):
        answer = await send(running, {**SHOWN, "action": action}, headers=headers)
        assert answer.status_code == (202 if action in allowed else 403), (action, answer.text)


async def test_a_visitor_is_shown_lists_with_the_public_key_alone(running: Replica) -> None:
    """And the model version that a page claims is not believed."""
    public = await key_headers(running, Scope.PUBLIC)
    visitor = (await running.client.post("/v1/visitors", json={}, headers=public)).json()["user_id"]
    event = {**SHOWN, "user_id": visitor, "model_version": "made up"}
    assert (await send(running, event, headers=public)).status_code == 202
    assert (await send(running, {**event, "action": "dismissed"}, headers=public)).status_code == 403
    assert [one.model_version for one in received(running, visitor)] == [None]
    await send(running, {**event, "model_version": "7"})
    assert received(running, visitor)[-1].model_version == "7"


async def test_implausible_times_are_refused(running: Replica) -> None:
    """A wrong clock is corrected by `sent_at`."""
    late = {**SHOWN, "occurred_at": now_ms() + 3_3_600_000}
    assert (await send(running, late)).status_code == 400
    body = {"events": [late], "sent_at": now_ms() + 3_3_600_000}
    answer = await running.client.post("/v1/feedback", json=body)
    assert answer.status_code == 202
    assert abs(answer.json()["results"][0]["occurred_at"] - now_ms()) < 60_000


def test_a_placement_of_feedback_is_one_of_lists() -> None:
    """Declared once for both; the API may have more."""
    settings = Settings(feedback=FeedbackSettings(placements=("home",)), api=ApiSettings(placements=("home", "mail")))
    assert placements_of(settings) == ("home", "mail")


async def test_the_profile_shows_feedback(running: Replica) -> None:
    """Also of a user of whom nothing else is known; an erasure is not done before it is gone."""
    for user in ("u", "only"):
        marks = [Mark(NOW - age, hash_item(f"item-{age}"), age % 3, 1, 0, 0, "1", b"name") for age in range(4)]
        api.put_feedback(running.log, user, marks)
    await running.settled()
    found = [(await running.get(f"/v1/users/{user}/profile")).json()["feedback"] for user in ("u", "only")]
    assert found[0] == found[1]
    assert found[0] == {"items": 4, "shown": 2, "selected": 1, "accepted": 1, "rejected": 0, "dismissed": 0, "newest_at": NOW}
    assert not (await running.get(f"/v1/users/only/erasures/{NOW}")).json()["done"]
    api.append(running.log, CHANGELOG, "only", Output(feedback_key(b"only"), None, stamp(1)))
    await running.settled()
    assert (await running.get(f"/v1/users/only/erasures/{NOW}")).json()["done"]
    assert (await running.get("/v1/users/only/profile")).status_code == 404
