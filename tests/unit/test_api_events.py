"""Events by HTTP, erasure, and lists pushed as they change."""

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.api import streams
from stream.api.store import StoreAwayError
from stream.api.stream_places import Place
from stream.api.streams import Stream, stream_lists
from stream.core.events import NATIVE_FORMAT_HEADER, Click, Erasure, Purchase, Source, Transcript
from stream.core.outputs import Output
from stream.core.partitioner import partition_of
from stream.core.records import Batch, PlainRecord
from stream.core.state import Head, encode_state, head_key
from stream.errors import IsthmusError
from stream.kafka.cluster.event_sink import OutgoingEvent
from stream.kafka.faust.changelog import term_headers as stamp
from stream.metrics import Metrics
from stream.services.api import now_ms
from stream.services.http_server import serve
from tests import api, world
from tests.api import CHANGELOG, ITEMS, NOW, PARTITIONS, TOPICS, Replica, replica

CLICK: dict[str, Any] = {"type": "click", "user_id": "u", "occurred_at": NOW, "tags": ["home"]}
PURCHASE: dict[str, Any] = {"type": "purchase", "user_id": "u", "occurred_at": NOW, "items": ["item-01"], "event_id": "p1"}
TRANSCRIPT: dict[str, Any] = {
    "type": "transcript",
    "user_id": "v",
    "conversation_id": "c",
    "started_at": NOW,
    "sentences": [{"speaker": "customer", "text": "hello"}],
}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Replica]:
    log = api.new_log()
    api.put_items(log)
    async with replica(log, tmp_path) as started:
        yield started


async def send(running: Replica, *events: dict[str, Any], key: str | None = None, **body: Any) -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await running.client.post("/v1/events", json={"events": events, **body}, headers=headers)


def records(running: Replica, topic: str, user: str) -> list[Any]:
    return running.log.topics[topic].partitions[partition_of(user.encode(), PARTITIONS)].records


async def test_events_reach_their_topics_keyed_and_in_our_own_form(running: Replica) -> None:
    """Each in its user's partition, as the step's own type, with the header that keeps mappings away."""
    answer = await send(running, CLICK, PURCHASE, TRANSCRIPT)
    assert answer.status_code == 202
    assert [one["status"] for one in answer.json()["results"]] == ["accepted"] * 3
    types: list[tuple[str, str, Any]] = [
        (TOPICS.clicks, "u", Click),
        (TOPICS.purchases, "u", Purchase),
        (TOPICS.transcripts, "v", Transcript),
    ]
    for (topic, user, kind), result in zip(types, answer.json()["results"], strict=True):
        (record,) = records(running, topic, user)
        event = msgspec.json.decode(record.value, type=kind)
        assert (event.user_id, event.event_id, record.key) == (user, result["event_id"], user.encode())
        assert (NATIVE_FORMAT_HEADER, b"1") in tuple(record.headers)
        assert "type" not in json.loads(record.value)
    assert answer.json()["results"][1]["event_id"] == "p1"


async def test_a_retry_names_the_same_events(running: Replica) -> None:
    """Whole by its idempotency key, in part by the ids that were returned; another request has others."""
    events = [{**CLICK, "tags": [tag]} for tag in ("a", "a", "b")]
    first, again, other = [
        [one["event_id"] for one in (await send(running, *events, key=key)).json()["results"]] for key in ("k1", "k1", "k2")
    ]
    assert first == again
    assert len({*first, *other}) == 6
    part = await send(running, {**events[2], "event_id": first[2]}, key="k3")
    assert part.json()["results"][0]["event_id"] == first[2]


class HalfBroken:
    """Takes every second event."""

    async def send(self, events: Sequence[OutgoingEvent]) -> list[int | None]:
        return [NOW if number % 2 else None for number, _ in enumerate(events)]


class Broken:
    async def send(self, events: Sequence[OutgoingEvent]) -> list[int | None]:
        return [None for _ in events]


async def test_a_batch_that_failed_in_part_says_which(tmp_path: Path) -> None:
    """207 with a result for each; 503 where none was taken."""
    for sink, status in ((HalfBroken(), 207), (Broken(), 503)):
        async with replica(api.new_log(), tmp_path / str(status), sink=sink) as started:
            answer = await send(started, CLICK, CLICK)
            assert answer.status_code == status
            if status == 207:
                assert [one["status"] for one in answer.json()["results"]] == ["failed", "accepted"]


async def test_a_wrong_clock_is_corrected(running: Replica) -> None:
    """By what `sent_at` is wrong: the event was ten minutes before the request, whatever the sender's clock says."""
    now = now_ms()
    await send(running, {**CLICK, "occurred_at": now + HOUR_MS - 600_000}, sent_at=now + HOUR_MS)
    (record,) = records(running, TOPICS.clicks, "u")
    assert abs(msgspec.json.decode(record.value, type=Click).occurred_at - (now - 600_000)) < 5_000  # type: ignore[operator]


HOUR_MS = 3_600_000


async def applied(running: Replica, topic: str, source: Source) -> int:
    """How many events of `u` the step applies of those that a topic holds."""
    made = [PlainRecord(index, now_ms(), record.key, record.value) for index, record in enumerate(records(running, topic, "u"))]
    return world.run(world.Store(), Batch(source, topic, 1, 0, made)).counts["events", source, "applied"]


@pytest.mark.parametrize(
    ("event", "topic", "source"), [(CLICK, TOPICS.clicks, Source.CLICK), (PURCHASE, TOPICS.purchases, Source.PURCHASE)]
)
@pytest.mark.parametrize("event_id", [None, "e-1"])
@pytest.mark.parametrize("age_ms", [-60_000, 0, HOUR_MS])
async def test_a_request_with_sent_at_that_is_sent_again_counts_once(
    running: Replica, event: dict[str, Any], topic: str, source: Source, event_id: str | None, age_ms: int
) -> None:
    """However late the retry comes: a clock that may be right corrects nothing."""
    sent = now_ms() - age_ms
    for _ in range(2):
        answer = await send(running, {**event, "event_id": event_id, "occurred_at": sent - 1_000}, key="k1", sent_at=sent)
        assert "occurred_at" not in answer.json()["results"][0]
        await asyncio.sleep(0.02)
    assert await applied(running, topic, source) == 1


async def test_corrected_events_count_once_if_they_are_sent_again_as_returned(running: Replica) -> None:
    """With their ids and times, and without `sent_at`; a transcript has no corrected time."""
    now = now_ms()
    one = {**CLICK, "occurred_at": now + HOUR_MS - 600_000}
    click, transcript = (await send(running, one, TRANSCRIPT, sent_at=now + HOUR_MS)).json()["results"]
    assert "occurred_at" not in transcript
    await send(running, {**one, "event_id": click["event_id"], "occurred_at": click["occurred_at"]})
    assert await applied(running, TOPICS.clicks, Source.CLICK) == 1


@pytest.mark.parametrize(
    "event",
    [
        {**CLICK, "tags": []},
        {**CLICK, "user_id": ""},
        {**CLICK, "user_id": "é" * 100},
        {**CLICK, "tags": ["a\x1fb"]},
        {**CLICK, "type": "erasure"},
        {**CLICK, "occurred_at": NOW + 86_400_000},
        {**CLICK, "occurred_at": NOW // 1_000},
        {**PURCHASE, "occurred_at": NOW * 1_000},
        {**PURCHASE, "occurred_at": "0001-01-01T00:00:00Z"},
        {**PURCHASE, "items": ["x"] * 1_001},
        {"user_id": "u"},
    ],
)
async def test_an_event_that_the_step_would_refuse_is_refused(running: Replica, event: dict[str, Any]) -> None:
    """The whole request, with the event named; nothing is sent."""
    answer = await send(running, CLICK, event)
    assert answer.status_code == 400
    assert "1" in answer.json()["detail"]
    assert records(running, TOPICS.clicks, "u") == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"sentences": [{"text": " "}, {"text": ""}]}, "no sentence has text"),
        ({"ended_at": TRANSCRIPT["started_at"] - 1}, "it ends before it begins"),
        ({"sentences": [{"text": "a", "at": TRANSCRIPT["started_at"] - 1}]}, "it ends before it begins"),
        ({"piece": 2**64}, "its piece is no 64-bit integer"),
        ({"piece": -(2**64)}, "its piece is no 64-bit integer"),
        ({"started_at": NOW // 1_000}, "its beginning is before 2000-01-01: it looks like seconds"),
    ],
)
async def test_a_transcript_that_no_encoder_takes_is_refused(running: Replica, fields: dict[str, Any], reason: str) -> None:
    """By the encoder's own rule, with the event and the reason named; it would become a dead letter later."""
    answer = await send(running, CLICK, {**TRANSCRIPT, **fields})
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"events[1]: {reason}")
    assert records(running, TOPICS.clicks, "u") == []


@pytest.mark.parametrize(("sent_at", "unit"), [(NOW // 1_000, "seconds"), (NOW * 1_000, "microseconds")], ids=["s", "us"])
async def test_sent_at_in_another_unit_is_refused_by_its_name(running: Replica, sent_at: int, unit: str) -> None:
    """Seconds would never correct anything, microseconds would correct times by centuries."""
    answer = await send(running, CLICK, sent_at=sent_at)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(f"sent_at: it looks like {unit}")


async def test_an_erasure_is_sent_and_its_receipt_says_when_it_is_done_here(running: Replica) -> None:
    """Done once neither list nor state from before it is held."""
    api.put_list(running.log, "u")
    api.put_state(running.log, "u")
    await running.settled()
    answer = await running.client.delete("/v1/users/u")
    assert answer.status_code == 202
    receipt = answer.json()
    (record,) = records(running, TOPICS.erasures, "u")
    assert msgspec.json.decode(record.value, type=Erasure) == Erasure("u", None, receipt["event_id"])
    assert receipt["erased_until"] == record.timestamp
    assert (await running.get(receipt["status_url"])).json()["done"] is False
    api.erase(running.log, "u")
    await running.settled()
    assert (await running.get(receipt["status_url"])).json()["done"] is True
    assert (await running.get("/v1/users/u/profile")).status_code == 404
    assert (await running.get("/v1/users/u/recommendations")).json()["fallback"] == "catalogue"


async def test_an_erasure_that_is_sent_again_with_its_key_reaches_up_to_the_first(running: Replica) -> None:
    """It is the same event of this user, so the step drops it. Both receipts say when the first is done; the user may be back."""
    key = {"Idempotency-Key": "request-1"}
    first, again = [(await running.client.delete("/v1/users/u", headers=key)).json() for _ in range(2)]
    others = [(await running.client.delete(path)).json() for path in ("/v1/users/u", "/v1/users/v")]
    others.append((await running.client.delete("/v1/users/v", headers=key)).json())
    assert first["event_id"] == again["event_id"]
    assert len({one["event_id"] for one in (first, *others)}) == 4
    api.put_state(running.log, "u")
    await running.settled()
    assert (await running.get(again["status_url"])).json()["done"] is False
    api.mark_erased(running.log, "u", first["erased_until"], event_id=first["event_id"])
    head = Head(newest_at=NOW, erased_at=first["erased_until"])
    api.append(running.log, CHANGELOG, "u", Output(head_key(b"u"), encode_state(head), stamp(1)))
    await running.settled()
    late = f"/v1/users/u/erasures/{first['erased_until'] + 1}?event_id="
    asked = (first["status_url"], late + first["event_id"], late + "another")
    assert [(await running.get(url)).json()["done"] for url in asked] == [True, True, False]


class Client:
    """Reads a user's stream as a browser does."""

    def __init__(
        self,
        running: Replica,
        user: str,
        last_id: str = "",
        allowed: Any = lambda: True,
        heartbeat_s: float = 5,
        issued_at: int | None = None,
    ) -> None:
        asked = Stream(user, 5, last_id, heartbeat_s, allowed, issued_at)
        self._lines = stream_lists(running.parts.api.service, running.parts.api.changes, asked)

    async def next(self, within_s: float = 2) -> dict[str, str]:
        async with asyncio.timeout(within_s):
            text = (await anext(self._lines)).decode()
        return dict(line.split(": ", 1) for line in text.strip().splitlines())

    async def close(self) -> None:
        await self._lines.aclose()


async def test_a_stream_brings_each_new_list_to_its_user_alone(running: Replica) -> None:
    """The present list first, then each change once; another user's change is not seen."""
    api.put_list(running.log, "u")
    await running.settled()
    mine, others = Client(running, "u"), Client(running, "v")
    first = await mine.next()
    assert json.loads(first["data"])["items"][0]["item"] == "item-00"
    await others.next()
    waiting = asyncio.create_task(mine.next())
    await asyncio.sleep(0)
    api.put_list(running.log, "u", ITEMS[5:10])
    second = await waiting
    assert json.loads(second["data"])["items"][0]["item"] == "item-05"
    assert second["id"] != first["id"]
    with pytest.raises(TimeoutError):
        await others.next(0.1)
    for one in (mine, others):
        await one.close()
    assert running.parts.api.changes.open == 0


async def test_a_stream_resumes_after_what_was_seen(running: Replica) -> None:
    """The list that the client has is not sent again; a heartbeat is."""
    api.put_list(running.log, "u")
    await running.settled()
    seen = await Client(running, "u").next()
    resumed = Client(running, "u", last_id=seen["id"], heartbeat_s=0.05)
    assert await resumed.next() == {"": "still here"}
    await resumed.close()


async def test_a_stream_ends_when_its_user_is_erased(running: Replica) -> None:
    """With a word, so that the page can say so."""
    api.put_list(running.log, "u")
    await running.settled()
    client = Client(running, "u")
    await client.next()
    waiting = asyncio.create_task(client.next())
    await asyncio.sleep(0)
    api.mark_erased(running.log, "u", now_ms())
    assert (await waiting)["event"] == "erased"
    with pytest.raises(StopAsyncIteration):
        await client.next()


async def test_a_stream_waits_for_the_marker_of_an_erasure(running: Replica) -> None:
    """List and state may go before it comes; no list is given meanwhile."""
    api.put_list(running.log, "u")
    await running.settled()
    client = Client(running, "u", heartbeat_s=0.05)
    await client.next()
    waiting = asyncio.create_task(client.next(5))
    api.erase(running.log, "u")
    await running.settled()
    await asyncio.sleep(0)
    assert not waiting.done()
    api.mark_erased(running.log, "u", now_ms())
    assert (await waiting)["event"] == "erased"


async def test_a_stream_ends_without_a_word_where_the_store_lost_its_user(
    running: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that comes back empty erased nobody: the client asks again, and learns whether the store is filled."""
    monkeypatch.setattr(streams, "MARKER_S", 0.2)
    api.put_list(running.log, "u")
    await running.settled()
    client = Client(running, "u", heartbeat_s=0.05)
    await client.next()
    api.erase(running.log, "u")
    await running.settled()
    with pytest.raises(StopAsyncIteration):
        await client.next()


async def test_a_stream_ends_without_a_word_when_the_store_goes_away(running: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next request is answered with 503; this answer has begun already."""
    api.put_list(running.log, "u")
    await running.settled()
    client = Client(running, "u", heartbeat_s=0.05)
    await client.next()

    async def away(_: str) -> None:
        raise StoreAwayError("the store does not answer")

    monkeypatch.setattr(running.parts.api.service, "trace", away)
    with pytest.raises(StopAsyncIteration):
        await client.next()
    assert running.parts.api.changes.open == 0


async def test_a_stream_ends_although_its_user_returns_at_once(running: Replica) -> None:
    """By the time of the erasure, which the new list and state do not take back; the next stream is the returned user's."""
    api.put_list(running.log, "u")
    await running.settled()
    client = Client(running, "u", heartbeat_s=0.05)
    await client.next()
    api.mark_erased(running.log, "u", now_ms())
    api.put_list(running.log, "u", ITEMS[5:10])
    api.put_state(running.log, "u")
    await running.settled()
    assert (await client.next())["event"] == "erased"
    with pytest.raises(StopAsyncIteration):
        await client.next()
    again = Client(running, "u")
    assert json.loads((await again.next())["data"])["items"][0]["item"] == "item-05"
    await again.close()


async def test_a_stream_of_a_token_from_before_an_erasure_gives_no_list(running: Replica) -> None:
    """Even where the erasure arrived between the door and the stream's beginning."""
    api.put_list(running.log, "u")
    api.mark_erased(running.log, "u", NOW + 1)
    api.put_list(running.log, "u")
    await running.settled()
    client = Client(running, "u", issued_at=NOW)
    assert (await client.next())["event"] == "erased"


async def test_a_stream_ends_with_its_key(running: Replica) -> None:
    """Within the ten seconds that a revocation may take."""
    allowed = [True]
    client = Client(running, "u", allowed=lambda: allowed[0], heartbeat_s=0.05)
    await client.next()
    allowed[0] = False
    with pytest.raises(StopAsyncIteration):
        await client.next()


async def test_streams_over_http_have_their_type_and_their_bound(tmp_path: Path) -> None:
    """One may be open here; the next one must come again."""
    async with replica(api.new_log(), tmp_path, max_streams=0) as started:
        refused = await started.get("/v1/users/u/events")
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "5"


@asynccontextmanager
async def served(running: Replica) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Serves on a port; gives what opens a stream of `u` over a real connection and reads up to its first list."""
    lines: list[str] = []
    stop = asyncio.Event()
    serving = asyncio.create_task(serve(running.parts.api, Metrics(), stop, lines.append))

    async def open_stream() -> Any:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(lines[0].rsplit(":", 1)[1]))
        credential = running.client.headers["Authorization"]
        writer.write(f"GET /v1/users/u/events HTTP/1.1\r\nHost: x\r\nAuthorization: {credential}\r\n\r\n".encode())
        assert b"text/event-stream" in await reader.readuntil(b"\r\n\r\n")
        await reader.readuntil(b"event: list")
        return reader, writer

    await running.until(lambda: asyncio.sleep(0, bool(lines)))
    yield open_stream
    stop.set()
    async with asyncio.timeout(5):
        await serving


async def test_a_client_that_goes_away_ends_its_stream(running: Replica) -> None:
    """Over a real connection: the first list comes at once, and nothing of the stream is left behind."""
    changes = running.parts.api.changes
    async with served(running) as open_stream:
        _, writer = await open_stream()
        assert changes.open == 1
        writer.close()
        await running.until(lambda: asyncio.sleep(0, not changes.open))


async def test_a_client_that_lost_its_place_is_disconnected(
    running: Replica, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The server closes the connection at once, whatever waits to be read, and logs no error."""
    async with served(running) as open_stream:
        reader, _ = await open_stream()
        monkeypatch.setattr(Place, "is_lost", lambda _: True)
        with contextlib.suppress(ConnectionError):
            assert not (await asyncio.wait_for(reader.read(), 5)).endswith(b"0\r\n\r\n")
        await running.until(lambda: asyncio.sleep(0, not running.parts.api.places.taken))
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_process_that_stops_ends_its_streams_in_order(running: Replica, caplog: pytest.LogCaptureFixture) -> None:
    """Clients see the end at once and go to another replica; nothing is cancelled."""
    async with served(running) as open_stream:
        reader, _ = await open_stream()
    async with asyncio.timeout(1):
        assert (await reader.read()).endswith(b"0\r\n\r\n")
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_port_that_is_taken_is_reported(running: Replica) -> None:
    """With what to do; the process does not end without a word."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        own = running.parts.api.settings.model_copy(update={"port": taken.getsockname()[1]})
        with pytest.raises(IsthmusError, match="--port"):
            await serve(msgspec.structs.replace(running.parts.api, settings=own), Metrics(), asyncio.Event())


async def test_a_thousand_streams_each_get_their_own_change_once(running: Replica) -> None:
    """And cost nothing while nothing changes."""
    users = [f"user-{number}" for number in range(1_000)]
    clients = [Client(running, user) for user in users]
    await asyncio.gather(*(client.next(10) for client in clients))
    waiting = [asyncio.create_task(client.next(10)) for client in clients]
    await asyncio.sleep(0)
    for number, user in enumerate(users):
        api.put_list(running.log, user, [ITEMS[5 + number % 10]])
    for number, event in enumerate(await asyncio.gather(*waiting)):
        answer = json.loads(event["data"])
        assert (answer["user_id"], answer["items"][0]["item"]) == (users[number], ITEMS[5 + number % 10])
    for client in clients:
        await client.close()
