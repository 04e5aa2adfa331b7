"""Profiles over HTTP: the last interactions, purchases and answers in order, with names; clicks only where the store keeps them."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.api.profiles import FactsSummary, HeadSummary, decode_facts_summary, decode_head_summary, last_interactions
from stream.core.feedback import ACCEPTED, REJECTED, SHOWN, Mark, UserFeedback, encode_feedback, hash_item
from stream.core.interactions import Part
from stream.core.kept_interactions import KeptInteraction, kept_conversation_of, kept_session_of
from stream.core.outputs import Output
from stream.core.state import Facts, Head, KeptPurchase, encode_state, facts_key, feedback_key, head_key
from stream.kafka.embedded.log import Log
from stream.kafka.faust.changelog import term_headers as stamp
from tests import api
from tests.api import CHANGELOG, NOW, Replica, replica

HOUR = 3_600_000


def session(hours_ago: int, *tags: str) -> KeptInteraction:
    """A session with one click for each tag, a second apart."""
    began = NOW - hours_ago * HOUR
    return kept_session_of([(began + 1_000 * number, (tag,), b"") for number, tag in enumerate(tags)])


def conversation(hours_ago: int, sentences: int) -> KeptInteraction:
    began = NOW - hours_ago * HOUR
    part = Part(began, began + 60_000, sentences, b"\x00\x00", "\x1fsecret-word", "text-model")
    return kept_conversation_of([(part, b"\x00" * 6)], f"call-{hours_ago}")


def put(log: Log, user: str, kept: Sequence[KeptInteraction], growing: Sequence[KeptInteraction], *purchases: KeptPurchase) -> None:
    head = Head(owned=("item-05", "gone"), newest_at=NOW, tail=list(growing))
    facts = Facts(interactions=list(kept), purchases=list(purchases))
    for key, record in ((head_key(user.encode()), head), (facts_key(user.encode()), facts)):
        api.append(log, CHANGELOG, user, Output(key, encode_state(record), stamp(1)))


def put_answers(log: Log, user: str, *marks: tuple[int, str, int]) -> None:
    kept = UserFeedback((1, 0))
    kept.add([Mark(NOW - hours * HOUR, hash_item(item), action, 1, 0, 0, "1", b"name") for hours, item, action in marks])
    api.append(log, CHANGELOG, user, Output(feedback_key(user.encode()), encode_feedback(kept), stamp(1)))


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Replica]:
    log = api.new_log()
    api.put_items(log)
    async with replica(log, tmp_path, keep_clicks=True) as started:
        await started.settled()
        yield started


async def profile_of(running: Replica, user: str) -> Any:
    await running.settled()
    answer = await running.get(f"/v1/users/{user}/profile")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_interactions_come_in_time_order_with_their_clicks_and_no_words_of_calls(running: Replica) -> None:
    """Those that still grow are last, whichever record of the state holds them."""
    put(running.log, "u", [session(9, "home"), conversation(7, 12)], [session(5, "car", "price"), conversation(6, 3)])
    profile = await profile_of(running, "u")
    last = profile["last_interactions"]
    assert [(one["modality"], (NOW - one["started_at"]) // HOUR) for one in last] == [
        ("session", 9),
        ("conversation", 7),
        ("conversation", 6),
        ("session", 5),
    ]
    assert [one.get("sentences") for one in last] == [None, 12, 3, None]
    assert [one.get("clicks") for one in last] == [1, None, None, 2]
    assert [click["tags"] for click in last[3]["newest_clicks"]] == [["car"], ["price"]]
    assert last[3]["newest_clicks"][1]["occurred_at"] == NOW - 5 * HOUR + 1_000
    assert "secret-word" not in str(profile)


async def test_what_a_profile_holds_is_bounded(running: Replica) -> None:
    """The last 10 interactions, and of each the last 16 clicks; the counts are of all."""
    put(running.log, "u", [session(40 - number, *["tag"] * 30) for number in range(15)], [session(1, *"abc")])
    profile = await profile_of(running, "u")
    assert profile["interactions"] == 16
    assert [(NOW - one["started_at"]) // HOUR for one in profile["last_interactions"]] == [*range(34, 25, -1), 1]
    assert [len(one["newest_clicks"]) for one in profile["last_interactions"]] == [*[16] * 9, 3]
    assert profile["last_interactions"][0]["clicks"] == 30


async def test_purchases_owned_items_and_answers_have_names(running: Replica) -> None:
    """An item that the catalogue no longer has is known by its id, and of an answer not even that is left."""
    purchases = [KeptPurchase(NOW - 2, "p", True, ("item-05", "gone")), KeptPurchase(NOW - 1, "q", False, ("item-06",))]
    put(running.log, "u", [], [], *purchases)
    put_answers(running.log, "u", (3, "item-01", SHOWN), (2, "item-01", REJECTED), (1, "gone", ACCEPTED), (0, "item-02", ACCEPTED))
    profile = await profile_of(running, "u")
    owned = [{"item": "item-05", "name": "Item-05"}, {"item": "gone"}]
    assert profile["last_purchases"] == [
        {"occurred_at": NOW - 2, "action": "bought", "items": owned},
        {"occurred_at": NOW - 1, "action": "cancelled", "items": [{"item": "item-06", "name": "Item-06"}]},
    ]
    assert profile["owned_items"] == owned
    assert [(one["action"], one["item"]["name"]) for one in profile["last_answers"]] == [
        ("rejected", "Item-01"),
        ("accepted", "Item-02"),
    ]
    api.put_items(running.log, ["gone"])
    await running.until(lambda: has_item(running, "gone"))
    assert [one["item"]["name"] for one in (await profile_of(running, "u"))["last_answers"]] == ["Item-01", "Gone", "Item-02"]


async def has_item(running: Replica, item: str) -> bool:
    return item in running.parts.current.catalogue.items


async def test_without_the_setting_a_profile_has_times_and_counts_alone(tmp_path: Path) -> None:
    """The default: what a user looked at stays out of the store."""
    log = api.new_log()
    put(log, "u", [session(9, "secret-tag")], [session(1, "secret-tag", "home")])
    async with replica(log, tmp_path) as started:
        profile = await profile_of(started, "u")
    assert [one["clicks"] for one in profile["last_interactions"]] == [1, 2]
    assert "secret-tag" not in str(profile)


def test_rows_of_earlier_versions_are_read() -> None:
    """A store that was filled before profiles held interactions goes on; they come with a user's next event."""
    head = decode_head_summary(msgspec.msgpack.encode([["item-1"], [], -1, NOW, 1, 0, "7"]))
    facts = decode_facts_summary(msgspec.msgpack.encode([2, 1, 3]))
    assert (head, facts) == (HeadSummary(("item-1",), (), -1, NOW, 1, 0, "7"), FactsSummary(2, 1, 3))
    assert last_interactions(head, facts) == ()
