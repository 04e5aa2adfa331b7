"""The webhook sink on an embedded log, against a server of its own: signatures, order, retries, dead letters, replays, erasures."""

import asyncio
import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest
from stamina.instrumentation import set_on_retry_hooks
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from stream.core.outputs import Output
from stream.core.records import PlainRecord
from stream.errors import IsthmusError
from stream.process_settings import WebhookSettings
from stream.services.sinks import endpoint_of
from stream.sinks import webhook_store
from stream.sinks.undelivered import Requests
from stream.sinks.webhook_messages import Signer
from tests import api
from tests.api import ITEMS, PARTITIONS, TOPICS
from tests.sinks import forget
from tests.webhook_sink import FakeGroup, FakeLetters, sink
from tests.webhooks import ERASED, LISTS, RECONCILED, SECRET, Endpoint

OTHER = "whsec_" + base64.b64encode(bytes(range(32, 64))).decode()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    opened = Endpoint()
    yield opened
    opened.close()


async def test_lists_and_erasures_arrive_signed_and_in_order(endpoint: Endpoint) -> None:
    """Lists in batches, an erasure as a message of its own, and what follows it after it."""
    log, group = api.new_log(), FakeGroup()
    for user in ("a", "b", "erased"):
        api.put_list(log, user)
    async with sink(log, endpoint, group) as running:
        await running.settled()
        assert endpoint.lists() == {user: list(ITEMS[:5]) for user in ("a", "b", "erased")}
        forget(log, "erased")
        forget(log, "a")
        api.put_list(log, "a", ITEMS[7:9])
        await running.settled()
    assert endpoint.lists() == {"a": list(ITEMS[7:9]), "b": list(ITEMS[:5])}
    assert endpoint.kinds().count(ERASED) == 2
    assert endpoint.updates()[0]["lists"][0]["list"]["recommendation_id"].startswith("id-")


async def test_a_list_that_a_later_record_supersedes_is_not_sent(endpoint: Endpoint) -> None:
    """Nor counted as sent."""
    log = api.new_log()
    for number in range(5):
        api.put_list(log, "a", ITEMS[number : number + 3])
    async with sink(log, endpoint, FakeGroup()) as running:
        await running.settled()
        assert running.metrics.total("sink_records", "webhook", "superseded") == 4
    assert [len(update["lists"]) for update in endpoint.updates()] == [1]
    assert endpoint.lists() == {"a": list(ITEMS[4:7])}


async def test_a_record_that_is_no_list_is_counted_and_stops_nothing(endpoint: Endpoint) -> None:
    """Neither JSON nor UTF-8: no message can hold it. Nor of the record's user: an erasure would not reach it. A former list of the
    same batch is superseded all the same.
    """
    log = api.new_log()
    others = msgspec.json.encode(api.make_list("other"))
    surrogate, unnamed = b'{"user_id": "g", "items": ["\\ud800"]}', b'{"user_id": 7}'
    texts = [b"\xff", b'{"user_id": "b", "items": ["\xff"]}', b"{", b"[]", others, surrogate, unnamed]
    for user, value in zip("abcdfgh", texts, strict=True):
        api.put_list(log, user)
        api.append(log, TOPICS.recommendations, user, Output(user.encode(), value))
    api.put_list(log, "e")
    async with sink(log, endpoint, FakeGroup()) as running:
        await running.settled()
        assert running.metrics.total("sink_records", "webhook", "refused") == 7
        api.put_list(log, "a", ITEMS[7:9])
        await running.settled()
    assert endpoint.lists() == {"a": list(ITEMS[7:9]), "e": list(ITEMS[:5])}


async def test_a_message_that_is_refused_is_sent_again_under_its_id(endpoint: Endpoint) -> None:
    """Each attempt is signed anew; health says what is wrong meanwhile; nothing is given up too early."""
    log, answers = api.new_log(), iter([500, 302, 429])
    endpoint.decide = lambda message: next(answers, 204) if message["type"] == LISTS else 204
    api.put_list(log, "a")
    async with sink(log, endpoint, FakeGroup(), give_up_s=60) as running:
        await running.settled()
        assert running.problem() is None
        assert running.metrics.total("webhook_attempts", "refused") == 3
    assert [count for name, count in endpoint.attempts.items() if name.startswith("lists-")] == [4]
    assert endpoint.lists() == {"a": list(ITEMS[:5])}


async def test_pauses_between_attempts_grow_up_to_a_bound(endpoint: Endpoint) -> None:
    """And stay there, however long an erasure has to wait."""
    log, pauses = api.new_log(), list[float]()
    endpoint.decide = lambda _: 500 if len(pauses) < 12 else 204
    forget(log, "a")
    async with sink(log, endpoint, FakeGroup(), first_pause_s=0.001, longest_pause_s=0.05) as running:
        set_on_retry_hooks([lambda details: pauses.append(round(details.wait_for, 6))])
        await running.settled()
    set_on_retry_hooks([])
    assert pauses == sorted(pauses)
    assert pauses[0] < 0.005
    assert pauses[-4:] == [0.05] * 4


async def test_lists_that_are_never_taken_become_dead_letters_and_the_others_go_on(endpoint: Endpoint) -> None:
    """With their coordinates; the position moves on."""
    log, letters = api.new_log(), FakeLetters()
    endpoint.decide = lambda message: 400 if "poison" in json.dumps(message) else 204
    api.put_list(log, "a", ("poison",))
    api.put_list(log, "b")
    async with sink(log, endpoint, FakeGroup(), letters, batch_lists=1) as running:
        await running.settled()
        assert running.metrics.total("sink_records", "webhook", "undelivered") == 1
    assert endpoint.lists() == {"b": list(ITEMS[:5])}
    assert len(letters.sent) == 1


async def test_an_erasure_is_never_given_up(endpoint: Endpoint) -> None:
    """Long after lists would have been; health says so until it is taken."""
    log, letters = api.new_log(), FakeLetters()
    endpoint.decide = lambda message: 500 if message["type"] == ERASED else 204
    forget(log, "a")
    api.put_list(log, "a")
    async with sink(log, endpoint, FakeGroup(), letters, give_up_s=0.01) as running:
        await running.until(lambda: max(endpoint.attempts.values(), default=0) > 20)
        assert running.problem() == "the endpoint answered 500"
        endpoint.decide = lambda _: 204
        await running.settled()
    assert [kind for kind in endpoint.kinds() if kind != RECONCILED] == [ERASED, LISTS]
    assert letters.sent == []


async def test_a_sink_that_starts_again_continues(endpoint: Endpoint) -> None:
    """From the position that its group keeps."""
    log, group = api.new_log(), FakeGroup()
    api.put_list(log, "a")
    async with sink(log, endpoint, group) as first:
        await first.settled()
    api.put_list(log, "b")
    async with sink(log, endpoint, group) as again:
        await again.settled()
    assert [one["list"]["user_id"] for update in endpoint.updates() for one in update["lists"]] == ["a", "b"]


async def test_a_receiver_forgets_whom_a_sink_missed(endpoint: Endpoint) -> None:
    """Away for longer than tombstones are kept: everything is sent again, and the receiver is told that the rest is gone."""
    log, group = api.new_log(), FakeGroup()
    for user in ("erased", "other"):
        api.put_list(log, user)
    async with sink(log, endpoint, group) as first:
        await first.settled()
    for partition in log.topics[TOPICS.recommendations].partitions:
        partition.records = [record for record in partition.records if record.key != b"erased"]
    for number in range(8):  # of every partition
        api.put_list(log, f"new-{number}")
    await asyncio.sleep(0.01)  # a later millisecond than the first lists'
    async with sink(log, endpoint, group, reconcile_after_s=0) as late:
        await late.settled()
        assert late.metrics.total("sink_reconciled") == PARTITIONS
    assert endpoint.kinds().count(RECONCILED) == 2 * PARTITIONS
    assert set(endpoint.lists()) == {"other", *(f"new-{number}" for number in range(8))}


async def test_a_receiver_forgets_what_a_recreated_topic_no_longer_holds(endpoint: Endpoint) -> None:
    """Kafka forgets what the group kept of a topic when it is deleted, so the sink cannot know that there was an earlier pass."""
    log, group = api.new_log(), FakeGroup()
    for number in range(8):  # of every partition
        api.put_list(log, f"old-{number}")
    async with sink(log, endpoint, group) as running:
        await running.settled()
    await asyncio.sleep(0.01)  # a later millisecond than the first lists'
    group.notes.clear()
    recreated = api.new_log()
    api.put_list(recreated, "old-3", ITEMS[7:9])
    for _ in range(2):
        async with sink(recreated, endpoint, group) as again:
            await again.settled()
        assert endpoint.lists() == {"old-3": list(ITEMS[7:9])}
        await asyncio.sleep(0.01)
        group.notes.clear()
    assert max(endpoint.attempts.values()) == 1  # each pass has ids of its own: a receiver may leave out what it knows


async def test_a_receiver_forgets_what_was_sent_by_a_clock_that_was_ahead(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a member of the group whose clock was an hour ahead: a later pass does not begin before its messages."""
    log, group = api.new_log(), FakeGroup()
    for number in range(8):  # of every partition
        api.put_list(log, f"old-{number}")
    with monkeypatch.context() as ahead:
        ahead.setattr("stream.services.api.now_ms", lambda: api.NOW + 3_600_000)
        async with sink(log, endpoint, group) as running:
            await running.settled()
    recreated = api.new_log()
    api.put_list(recreated, "old-3", ITEMS[7:9])
    async with sink(recreated, endpoint, group) as again:
        await again.settled()
    assert endpoint.lists() == {"old-3": list(ITEMS[7:9])}
    of_a_partition = [one["timestamp"] for one in endpoint.taken if one["data"]["partition"] == 0]
    assert of_a_partition == sorted(of_a_partition)


async def test_a_note_of_an_earlier_version_is_continued(endpoint: Endpoint) -> None:
    """It lacks what was added since."""
    log, group = api.new_log(), FakeGroup()
    api.put_list(log, "a")
    async with sink(log, endpoint, group) as first:
        await first.settled()
    group.notes = {one: json.dumps(json.loads(note)[:2]) for one, note in group.notes.items()}
    api.put_list(log, "b")
    async with sink(log, endpoint, group) as again:
        await again.settled()
    assert [one["list"]["user_id"] for update in endpoint.updates() for one in update["lists"]] == ["a", "b"]


async def test_a_message_is_cut_before_servers_refuse_it_as_too_large(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that is larger alone is a message of its own."""
    monkeypatch.setattr(webhook_store, "_MESSAGE_BYTES", 3_000)
    log = api.new_log()
    for number in range(20):
        api.put_list(log, f"u{number}", ITEMS[: 1 if number % 5 else 20])
    async with sink(log, endpoint, FakeGroup()) as running:
        await running.settled()
    assert len(endpoint.lists()) == 20
    sizes = [[len(json.dumps(one["list"])) for one in update["lists"]] for update in endpoint.updates()]
    assert max(len(one) for one in sizes) > 1
    assert all(len(one) == 1 or sum(one) < 4_500 for one in sizes)  # with the spaces of `dumps`


async def test_a_replay_sends_what_the_topic_says_now(endpoint: Endpoint) -> None:
    """Once, also after a restart; not the list that was given up, if a newer one came."""
    log, group, letters, requests = api.new_log(), FakeGroup(), FakeLetters(), Requests(TOPICS.recommendations)
    endpoint.decide = lambda message: 400 if message["type"] == LISTS else 204
    for user in ("a", "b"):
        api.put_list(log, user, ("old",))
    async with sink(log, endpoint, group, letters, requests, give_up_s=0.05) as running:
        await running.settled()
        assert len(letters.sent) == 2
        endpoint.decide = lambda _: 204
        api.put_list(log, "a", ("new",))
        await running.settled()
        assert endpoint.lists() == {"a": ["new"]}
        names = [f"{TOPICS.recommendations}/{epoch}/{partition}/{offset}" for epoch, partition, offset in letters.sent]
        asked = [PlainRecord(number, 0, name.encode(), b'{"replayed_at": 1}') for number, name in enumerate(names)]
        await requests.on_records([*asked, PlainRecord(9, 0, b"web-clicks/1/2/3", b"{}"), PlainRecord(10, 0, b"run", b"{}")])
        for user in ("c", "d", "e", "f"):
            api.put_list(log, user)
        await running.settled()
        assert endpoint.lists()["a"] == ["new"]
        assert endpoint.lists()["b"] == ["old"]
    sent = len(endpoint.taken)
    async with sink(log, endpoint, group, letters, requests) as again:
        await again.settled()
    assert len(endpoint.taken) == sent


def test_each_secret_signs() -> None:
    """A receiver that knows either of them accepts; one that knows another does not, nor a changed body."""
    body = b'{"a": "\xc3\xa4"}'
    headers = Signer([SECRET, OTHER]).headers("id", body, datetime.now(UTC))
    for secret in (SECRET, OTHER):
        assert Webhook(secret).verify(body, headers) == {"a": "\u00e4"}
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + base64.b64encode(bytes(40)).decode()).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(b"{}", headers)


@pytest.mark.parametrize("secrets", [(), ("hunter22hunter22",), ("whsec_c2hvcnQ=",), ("whsec_!!!!",)])
def test_a_secret_that_is_none_is_refused_without_being_shown(secrets: tuple[str, ...]) -> None:
    """The message says how to make one."""
    with pytest.raises(IsthmusError, match=r"webhook\.secrets") as refused:
        Signer(secrets)
    assert not any(secret in str(refused.value) for secret in secrets)


@pytest.mark.parametrize("url", ["", "ftp://host/x", "host:80/x", "https://", "http://[::1"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    """Before the sink joins its group."""
    with pytest.raises(IsthmusError, match=r"webhook\.url"):
        endpoint_of(WebhookSettings(url=url))
