"""What an endpoint may answer the webhook sink: pauses it asks for, bodies without an end, redirects, cookies, another clock."""

import itertools
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from stamina.instrumentation import set_on_retry_hooks

from stream.sinks import webhook_sender
from stream.sinks.webhook_sender import asked_pause_s, refusal
from tests import api
from tests.api import ITEMS
from tests.sinks import forget
from tests.webhook_sink import FakeGroup, sink
from tests.webhooks import LISTS, Endpoint

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    opened = Endpoint()
    yield opened
    opened.close()


@pytest.mark.parametrize("status", [410, 429, 503, 302])
async def test_the_pause_that_an_endpoint_asks_for_is_kept(endpoint: Endpoint, status: int) -> None:
    """Between the two bounds of the settings, from the first answer on."""
    log, pauses, asked = api.new_log(), list[float](), ["3600", "0"]

    def refuse_twice(_: object) -> int:
        endpoint.headers = {"retry-after": asked.pop(0)} if asked else {}
        return status if endpoint.headers else 204

    endpoint.decide = refuse_twice
    forget(log, "a")
    async with sink(log, endpoint, FakeGroup(), first_pause_s=0.001, longest_pause_s=0.05) as running:
        set_on_retry_hooks([lambda details: pauses.append(details.wait_for)])
        await running.settled()
    set_on_retry_hooks([])
    assert pauses == pytest.approx([0.05, 0.001])


@pytest.mark.parametrize(
    ("text", "pause_s"),
    [
        ("120", 120),
        ("9" * 400, float("inf")),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), -90),
        *(
            (text, None)
            for text in ("", "-1", "1.5", "soon", "\u0663", "Sun, 99 Nov 2026 12:00:00 GMT", "Sun, 29 Nov 99999 12:00:00 GMT")
        ),
    ],
)
def test_a_pause_is_a_number_of_seconds_or_a_date(text: str, pause_s: float | None) -> None:
    """RFC 9110, section 10.2.3. What is neither says nothing."""
    assert asked_pause_s({"retry-after": text}, NOW.timestamp()) == pause_s


def test_a_refusal_says_what_to_do() -> None:
    """A receiver whose clock is minutes off refuses every message, whatever is in it. Nothing of the answer's own is logged."""
    elsewhere = {"location": "https://other.example/?token=hunter2"}
    assert "redirects are not followed" in refusal(308, elsewhere, NOW.timestamp())
    assert "hunter2" not in refusal(308, elsewhere, NOW.timestamp())
    assert "webhook.url" in refusal(410, {}, NOW.timestamp())
    assert "batch_lists" in refusal(413, {}, NOW.timestamp())
    for skew_s in (-600, 600):
        date = format_datetime(NOW + timedelta(seconds=skew_s), usegmt=True)
        assert "600 s apart" in refusal(401, {"date": date}, NOW.timestamp())
    for date in (format_datetime(NOW + timedelta(seconds=60), usegmt=True), "", "hunter2"):
        assert refusal(401, {"date": date}, NOW.timestamp()) == "the endpoint answered 401"


async def test_a_redirect_is_not_followed(endpoint: Endpoint) -> None:
    """The users' lists go to the endpoint alone."""
    log, other = api.new_log(), Endpoint()
    endpoint.decide = lambda message: 307 if message["type"] == LISTS else 204
    endpoint.headers = {"location": other.url}
    api.put_list(log, "a")
    async with sink(log, endpoint, FakeGroup(), give_up_s=0.01) as running:
        await running.until(lambda: running.metrics.total("sink_records", "webhook", "undelivered") == 1)
    other.close()
    assert other.received == []


async def test_an_answer_without_an_end_is_taken_by_its_status(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that never ends, or that never comes, fills no memory, and a message that was taken is not sent again."""
    monkeypatch.setattr(webhook_sender, "_BODY_S", 0.05)
    log, sent = api.new_log(), itertools.count()
    endpoint.decide = lambda _: 200

    def parts() -> Iterator[bytes]:
        while next(sent) < 4_000:
            yield bytes(65_536)

    endpoint.body = parts()
    for user in ("a", "b"):
        api.put_list(log, user)
    async with sink(log, endpoint, FakeGroup()) as running:
        await running.settled()
        silent = threading.Event()
        endpoint.body = (b"" for _ in iter(lambda: silent.wait(60), None))
        endpoint.headers = {"content-encoding": "gzip", "content-length": "1000"}
        api.put_list(log, "a", ITEMS[7:9])
        api.put_list(log, "b", ITEMS[7:9])
        await running.settled()
        silent.set()
        assert running.metrics.total("webhook_attempts") == len(endpoint.taken)
    assert next(sent) < 1_000
    assert set(endpoint.attempts.values()) == {1}
    assert endpoint.lists() == {"a": list(ITEMS[7:9]), "b": list(ITEMS[7:9])}


async def test_an_endpoint_sets_no_cookies(endpoint: Endpoint) -> None:
    """They would grow without bound, and go with the messages of other users."""
    log = api.new_log()
    endpoint.headers = {"set-cookie": "a=b; Path=/"}
    for user in ("a", "b", "c"):
        api.put_list(log, user)
    async with sink(log, endpoint, FakeGroup(), batch_lists=1) as running:
        await running.settled()
    assert len(endpoint.received) >= 3
    assert not any("cookie" in headers for headers in endpoint.received)
