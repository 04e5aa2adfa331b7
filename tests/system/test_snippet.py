"""The snippet and the shop in a real browser, served by a replica of the API: what is sent, when, and what is shown."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped]
from playwright.async_api import Browser, BrowserContext, Page, expect

from stream.api.api_keys import Scope
from stream.api.app import make_app
from stream.metrics import Metrics
from tests import api, serving
from tests.api import TOPICS, Replica, replica
from tests.browser import browser

MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
WITHIN_S = 20
BUTTON = "Car: Look at the cover"

pytestmark = pytest.mark.timeout(120)


@dataclass
class Network:
    """What lies between the browser and the API.

    Attributes:
        stops: Kinds of requests that do not reach the API: `beacon` or `fetch`.
        posted: Path and kind of each request with a body.
    """

    stops: set[str] = field(default_factory=set)
    posted: list[tuple[str, str]] = field(default_factory=list)

    def to(self, app: Any) -> Any:
        async def passing(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["method"] == "POST":
                kind = "beacon" if dict(scope["headers"])[b"content-type"].startswith(b"text/plain") else "fetch"
                self.posted.append((scope["path"], kind))
                if kind in self.stops:
                    await send({"type": "http.response.start", "status": 503, "headers": []})
                    await send({"type": "http.response.body", "body": b""})
                    return
            await app(scope, receive, send)

        return passing


@dataclass
class Site:
    """A shop, the log behind it, and a browser without a past."""

    running: Replica
    url: str
    context: BrowserContext
    browser: Browser
    network: Network

    async def open(self, context: BrowserContext | None = None) -> Page:
        page = await (context or self.context).new_page()
        await page.goto(f"{self.url}/shop")
        return page

    async def consenting(self, context: BrowserContext | None = None) -> Page:
        page = await self.open(context)
        await page.check("#consent")
        await expect(page.locator("#list li").first).to_be_visible(timeout=WITHIN_S * 1_000)
        return page

    def sent(self) -> list[dict[str, Any]]:
        records = [record for part in self.running.log.topics[TOPICS.clicks].partitions for record in part.records]
        return [json.loads(record.value) for record in records if record.value]

    def tags(self) -> Counter[str]:
        """How often each first tag counts: events of one id are one."""
        return Counter({event["event_id"]: event["tags"][0] for event in self.sent()}.values())

    def feedback(self) -> set[tuple[str, str, tuple[str, ...]]]:
        records = [record for part in self.running.log.topics[TOPICS.feedback].partitions for record in part.records]
        events = [json.loads(record.value) for record in records if record.value]
        return {(event["action"], event["placement"], tuple(event["items"])) for event in events}

    async def confirmed(self, page: Page) -> None:
        """The page has heard of each event that it was taken."""
        async with asyncio.timeout(WITHIN_S):
            while await page.evaluate("Object.keys(localStorage).some(name => name.startsWith('isthmus.event.'))"):
                await asyncio.sleep(0.02)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not holds():
                await asyncio.sleep(0.02)


@asynccontextmanager
async def served(running: Replica, network: Network) -> AsyncIterator[str]:
    """The replica with its shop, on a port."""
    secret, key = api.put_key(running.log, Scope.PUBLIC)
    await running.until(lambda: running.has_key(key.key_id), WITHIN_S)
    app = make_app(msgspec.structs.replace(running.parts.api, page_key=secret), Metrics())
    async with serving.served(network.to(app), running.parts.api.changes.end) as url:
        yield url


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    log, network = api.new_log(), Network()
    api.put_items(log)
    async with (
        replica(log, tmp_path, requests_per_s_of_an_address=0, requests_per_s_of_a_user=0) as running,
        served(running, network) as url,
        browser() as chromium,
    ):
        yield Site(running, url, await chromium.new_context(), chromium, network)


async def click(page: Page, tags: str) -> None:
    await page.evaluate(f"isthmus.click([{tags!r}])")


def eventually(site: Site, **counts: int) -> Awaitable[None]:
    return site.until(lambda: site.tags() == Counter(counts))


async def test_nothing_is_stored_or_sent_without_consent_or_after_it(site: Site) -> None:
    """Clicks before consent and after its withdrawal are lost; withdrawing forgets the visitor too."""
    page = await site.open()
    await click(page, "before")
    assert await page.evaluate("localStorage.length") == 0
    await page.check("#consent")
    await click(page, "given")
    await eventually(site, given=1)
    await page.uncheck("#consent")
    await click(page, "withdrawn")
    assert await page.evaluate("localStorage.length") == 0
    await page.check("#consent")
    await click(page, "again")
    await eventually(site, given=1, again=1)
    assert len({event["user_id"] for event in site.sent()}) == 2


async def test_a_browser_that_asks_not_to_be_tracked_sends_nothing(site: Site) -> None:
    """Global Privacy Control and Do Not Track outweigh a consent."""
    for signal in ("globalPrivacyControl: {get: () => true}", "doNotTrack: {get: () => '1'}"):
        context = await site.browser.new_context()
        await context.add_init_script(f"Object.defineProperties(Navigator.prototype, {{{signal}}})")
        page = await site.open(context)
        assert await page.evaluate("isthmus.consent(true)") is False
        await click(page, "tracked")
        assert await page.evaluate("localStorage.length") == 0
    assert site.sent() == []


async def test_clicks_survive_closed_pages_and_a_lost_network_and_count_once(site: Site) -> None:
    """A page that closes right after a click, one that was offline, and two tabs that send at once."""
    page = await site.consenting()
    await click(page, "closing")
    await page.close()
    page = await site.open()
    await eventually(site, closing=1)
    await site.context.set_offline(True)
    for _ in range(3):
        await click(page, "offline")
    await page.close()
    await site.context.set_offline(False)
    page, other = await site.open(), await site.open()
    await eventually(site, closing=1, offline=3)
    await asyncio.gather(*(click(tab, "tab") for tab in (page, other) for _ in range(5)))
    await eventually(site, closing=1, offline=3, tab=10)
    assert len({event["user_id"] for event in site.sent()}) == 1
    await site.confirmed(page)


async def leave(page: Page, *scripts: str) -> None:
    """Runs the scripts and leaves the page in one task, so that nothing but its end sends what they do."""
    await page.evaluate(f"() => {{ {'; '.join(scripts)}; location.href = 'about:blank'; }}")


async def test_a_page_that_closes_sends_its_last_events_by_a_beacon(site: Site) -> None:
    """At once, by every way of closing, though `fetch` fails. The next page sends them again under the same ids and times."""
    closing = await site.consenting()
    other = await site.open()
    site.network.stops = {"fetch"}
    chosen = "isthmus.selected('item-01', {placement: 'shop'})"
    await leave(closing, "isthmus.click(['left'])", chosen)
    await eventually(site, left=1)
    await site.until(lambda: ("selected", "shop", ("item-01",)) in site.feedback())
    await click(other, "closed")
    await other.close()
    await eventually(site, left=1, closed=1)
    site.network.stops = set()
    page = await site.open()
    await site.confirmed(page)
    assert site.tags() == Counter(left=1, closed=1)
    assert len({json.dumps(event, sort_keys=True) for event in site.sent()}) == 2
    assert ("/v1/feedback", "beacon") in site.network.posted


async def test_a_page_that_was_only_hidden_sends_by_beacon_and_hears_of_it_when_it_is_seen_again(site: Site) -> None:
    """What a beacon took is not sent again while the page is hidden."""
    page = await site.consenting()
    await turn(page, "hidden", "isthmus.click(['hidden'])")
    await eventually(site, hidden=1)
    await click(page, "later")  # it is sent with, or after, what would be sent again
    await eventually(site, hidden=1, later=1)
    assert ("/v1/events", "beacon") in site.network.posted
    assert [event["tags"] for event in site.sent()] == [["hidden"], ["later"]]
    await turn(page, "visible")
    await site.confirmed(page)
    assert site.tags() == Counter(hidden=1, later=1)


async def turn(page: Page, state: str, *scripts: str) -> None:
    """Runs the scripts, then hides or shows the page, in one task: this browser does neither by itself."""
    await page.evaluate(
        f"""() => {{
            {"; ".join(scripts)};
            Object.defineProperty(document, 'visibilityState', {{value: '{state}', configurable: true}});
            document.dispatchEvent(new Event('visibilitychange', {{bubbles: true}}));
        }}"""
    )


BROKEN_BEACONS = {
    "blocked": "value: () => true",  # as blockers of content do: the page hears nothing of it
    "refused": "value: () => false",
    "missing": "value: undefined",
}


@pytest.mark.parametrize("how", BROKEN_BEACONS)
async def test_a_browser_without_beacons_loses_no_event(site: Site, how: str) -> None:
    """One that refuses them sends by a `fetch` that outlives the page. Of a blocked one the next page sends the events, once."""
    context = await site.browser.new_context()
    await context.add_init_script(f"Object.defineProperty(navigator, 'sendBeacon', {{{BROKEN_BEACONS[how]}}})")
    await leave(await site.consenting(context), "isthmus.click(['left'])")
    if how == "blocked":
        page = await site.open(context)
        await site.confirmed(page)
    await eventually(site, left=1)
    assert not any(kind == "beacon" for _, kind in site.network.posted)


async def test_what_does_not_fit_into_beacons_is_sent_by_the_next_page(site: Site) -> None:
    """Browsers queue 64 kB. Of 200 events of 1 kB some come at once, and in the end each counts once."""
    page = await site.consenting()
    site.network.stops = {"fetch"}
    await leave(page, "for (let n = 0; n < 200; n++) isthmus.click([`n${n}`, ...Array(15).fill(''.padEnd(60, 'x'))])")
    await site.until(lambda: len(site.tags()) >= 40)
    assert len(site.tags()) < 64
    site.network.stops = set()
    await site.confirmed(await site.open())
    assert site.tags() == Counter({f"n{number}": 1 for number in range(200)})


async def test_consent_that_is_withdrawn_in_one_tab_ends_all_tabs(site: Site) -> None:
    """What was kept is not sent, streams end, no visitor is made; consent given again in one tab is given in all."""
    page, other = await site.consenting(), await site.open()
    await expect(other.locator("#list li").first).to_be_visible(timeout=WITHIN_S * 1_000)
    site.network.stops = {"fetch"}
    await click(other, "kept")
    await page.uncheck("#consent")
    await site.until(lambda: not site.running.parts.api.changes.open)
    site.network.posted.clear()
    site.network.stops = set()
    await leave(other, "isthmus.click(['withdrawn'])")
    await leave(page, "isthmus.click(['withdrawn'])")
    page, other = await site.open(), await site.open()
    await click(other, "withdrawn")
    await other.evaluate("fetch('/livez')")  # a request that follows what the pages would have sent
    assert (site.sent(), site.network.posted) == ([], [])
    await page.check("#consent")
    await expect(other.locator("#list li").first).to_be_visible(timeout=WITHIN_S * 1_000)
    await click(other, "given")
    await eventually(site, given=1)


async def test_an_api_that_fails_gets_the_clicks_later(site: Site) -> None:
    """Errors of the server and cut answers are retried with growing pauses; an event that the API refuses keeps no other back."""
    page = await site.consenting()
    failures = iter(["503", "cut", "500"])

    async def fail(route: Any) -> None:
        match next(failures, None):
            case None:
                await route.continue_()
            case "cut":
                await route.fetch()
                await route.abort()
            case status:
                await route.fulfill(status=int(status), body="{}")

    await page.route("**/v1/events", fail)
    await click(page, "kept")
    await page.evaluate("isthmus.click([''.padEnd(5000, 'x')])")
    await click(page, "after")
    await eventually(site, kept=1, after=1)


async def test_the_list_follows_its_user_alone_and_no_markup_runs(site: Site) -> None:
    """The page shows the new list of its visitor, names as text, and axe finds nothing."""
    site.running.log.append(TOPICS.items, "item-07", json.dumps({"item_id": "item-07", "name": MARKUP}).encode())
    page = await site.consenting()
    await page.get_by_role("button", name=BUTTON).click()
    await site.until(lambda: len(site.sent()) == 1)
    (user,) = {event["user_id"] for event in site.sent()}
    api.put_list(site.running.log, "somebody-else", items=api.ITEMS[10:15])
    api.put_list(site.running.log, user, items=["item-07", *api.ITEMS[:4]])
    await expect(page.locator("#list .name").first).to_have_text(MARKUP, timeout=WITHIN_S * 1_000)
    assert await page.locator("#list li").count() == 5
    assert await page.evaluate("window.hacked === undefined")
    await page.locator("#list .name").nth(1).click()
    await site.until(lambda: ("selected", "shop", ("item-00",)) in site.feedback())
    assert ("shown", "shop", ("item-07", *api.ITEMS[:4])) in site.feedback()
    assert user not in page.url
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


async def test_a_named_user_writes_and_reads_with_the_sites_token_alone(site: Site) -> None:
    """After `isthmus.user`, clicks are the user's; an expired token is asked for again."""
    issued = await site.running.client.post("/v1/tokens", json={"user_id": "c-17"})
    page = await site.consenting()
    await page.expose_function("backend", issued.json)
    await page.evaluate("isthmus.user('c-17', () => backend())")
    await click(page, "named")
    await eventually(site, named=1)
    assert [event["user_id"] for event in site.sent()] == ["c-17"]
    site.network.stops = {"fetch"}
    leaving, asked = await site.open(), asyncio.Event()

    def backend() -> Any:
        asked.set()
        return issued.json()

    await leaving.expose_function("backend", backend)
    await leaving.evaluate("isthmus.user('c-17', () => backend()); isthmus.click(['waits'])")
    await site.until(asked.is_set)
    await leave(leaving)
    await eventually(site, named=1, waits=1)
    site.network.stops = set()
    assert {event["user_id"] for event in site.sent()} == {"c-17"}
    api.put_list(site.running.log, "c-17", items=api.ITEMS[3:8])
    await expect(page.locator("#list .name").first).to_have_text("Item-03", timeout=WITHIN_S * 1_000)


FOLLOWING = """() => {
    window.heard = [];
    isthmus.recommendations('one', (list) => { heard.push(list); if (list) isthmus.shown(list); });
    isthmus.recommendations('two', () => { throw new Error('of the page'); });
}"""


async def test_a_page_has_one_stream_however_often_the_user_is_named_and_lists_are_asked_for(site: Site) -> None:
    """Each change is heard and shown once; a list asked for later comes at once; an error of the page's own ends no stream."""
    named = {user: (await site.running.client.post("/v1/tokens", json={"user_id": user})).json() for user in ("c-17", "c-18")}
    page = await site.consenting()
    await page.expose_function("backend", lambda user: named[user])
    await page.evaluate(FOLLOWING)
    for user in ("c-17", "c-18", "c-18", "c-17", "c-18"):
        await page.evaluate(f"isthmus.user('{user}', () => backend('{user}'))")
    await page.evaluate("isthmus.click(['named'])")
    await eventually(site, named=1)
    api.put_list(site.running.log, "c-17", items=api.ITEMS[3:8])
    api.put_list(site.running.log, "c-18", items=api.ITEMS[4:9])
    await expect(page.locator("#list .name").first).to_have_text("Item-04", timeout=WITHIN_S * 1_000)
    await site.until(lambda: site.running.parts.api.changes.open == 1)
    await site.until(lambda: ("shown", "one", api.ITEMS[4:9]) in site.feedback())
    await page.evaluate("() => { isthmus.recommendations('three', (list) => heard.push(list)); }")
    heard = await page.evaluate("heard.filter((list) => list?.items[0].item === 'item-04').map((list) => list.placement)")
    assert heard == ["one", "three"]
    assert [entry for entry in site.feedback() if entry[1] == "one" and entry[2] == api.ITEMS[3:8]] == []


async def test_a_token_that_comes_after_another_user_was_named_is_not_used(site: Site) -> None:
    """The next user's stream and clicks have the next user's token, though the former user's was asked for first."""
    named = {user: (await site.running.client.post("/v1/tokens", json={"user_id": user})).json() for user in ("c-17", "c-18")}
    api.put_list(site.running.log, "c-17", items=api.ITEMS[3:8])
    api.put_list(site.running.log, "c-18", items=api.ITEMS[4:9])
    page, late = await site.consenting(), asyncio.Event()
    asked = asyncio.Event()

    async def backend(user: str) -> Any:
        if user == "c-17":
            asked.set()
            await late.wait()
        return named[user]

    await page.expose_function("backend", backend)
    await page.evaluate("isthmus.user('c-17', () => backend('c-17')); isthmus.click(['first'])")
    await site.until(asked.is_set)
    await page.evaluate("isthmus.user('c-18', () => backend('c-18')); isthmus.click(['second'])")
    late.set()
    await expect(page.locator("#list .name").first).to_have_text("Item-04", timeout=WITHIN_S * 1_000)
    await eventually(site, second=1)
    assert [event["user_id"] for event in site.sent()] == ["c-18"]


async def test_a_user_without_a_token_is_not_asked_for(site: Site) -> None:
    """A backend that answers with an error as JSON is asked again; the API is not, until there is a token."""
    issued = (await site.running.client.post("/v1/tokens", json={"user_id": "c-17"})).json()
    api.put_list(site.running.log, "c-17", items=api.ITEMS[3:8])
    page = await site.consenting()
    answers: list[Any] = [{"detail": "no"}, None, {"token": issued["token"]}]
    asked: list[str] = []
    refused: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/v1/me/" in request.url and answers else None)
    page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
    await page.expose_function("backend", lambda: answers.pop(0) if answers else issued)
    await page.evaluate("isthmus.user('c-17', () => backend())")
    await expect(page.locator("#list .name").first).to_have_text("Item-03", timeout=WITHIN_S * 1_000)
    assert (asked, refused) == ([], [])


@pytest.mark.parametrize("ends", ["isthmus.consent(false)", "isthmus.user()", "elsewhere"])
async def test_the_list_of_a_named_user_leaves_the_page_with_the_user(site: Site, ends: str) -> None:
    """The next person before the screen does not see it after a log-out, or once consent is withdrawn, here or in another tab."""
    issued = (await site.running.client.post("/v1/tokens", json={"user_id": "c-17"})).json()
    api.put_list(site.running.log, "c-17", items=api.ITEMS[3:8])
    page, other = await site.consenting(), await site.open()
    await page.expose_function("backend", lambda: issued)
    await page.evaluate("isthmus.user('c-17', () => backend())")
    await expect(page.locator("#list .name").first).to_have_text("Item-03", timeout=WITHIN_S * 1_000)
    await page.evaluate("""() => {
        window.heard = [];
        isthmus.recommendations('page', (list) => heard.push(list && list.items[0].item));
    }""")
    await page.route("**/v1/me/events", lambda route: route.abort())
    await (other.evaluate("isthmus.consent(false)") if ends == "elsewhere" else page.evaluate(ends))
    await expect(page.locator("#list li")).to_have_count(0, timeout=WITHIN_S * 1_000)
    assert await page.evaluate("heard") == ["item-03", None]


async def test_a_hidden_page_holds_no_connection_and_gets_what_it_missed_when_it_is_seen(site: Site) -> None:
    """It goes on from its last list: one without a change is not sent again. With eight hidden tabs, a ninth one sends."""
    tabs = [await site.consenting()]
    user = await tabs[0].evaluate("localStorage.getItem('isthmus.visitor')")
    for _ in range(8):
        await turn(tabs[-1], "hidden")
        tabs.append(await site.consenting())
    await site.until(lambda: site.running.parts.api.changes.open == 1)
    await click(tabs[-1], "ninth")
    await eventually(site, ninth=1)
    await tabs[0].evaluate(
        "() => { window.heard = []; isthmus.recommendations('page', (list) => heard.push(list.items[0].item)); }"
    )
    before = await tabs[0].evaluate("heard")
    asked: list[str | None] = []
    tabs[0].on("request", lambda request: asked.append(request.headers.get("last-event-id")) if "/v1/me/" in request.url else None)
    await turn(tabs[0], "visible")
    await site.until(lambda: site.running.parts.api.changes.open == 2)
    await turn(tabs[0], "hidden")
    await site.until(lambda: site.running.parts.api.changes.open == 1)
    api.put_list(site.running.log, user, items=api.ITEMS[3:8])
    await expect(tabs[-1].locator("#list .name").first).to_have_text("Item-03", timeout=WITHIN_S * 1_000)
    await turn(tabs[0], "visible")
    await expect(tabs[0].locator("#list .name").first).to_have_text("Item-03", timeout=WITHIN_S * 1_000)
    assert await tabs[0].evaluate("heard") == [*before, "item-03"]
    assert asked
    assert all(asked)


async def test_the_snippet_is_small_and_needs_no_key(site: Site) -> None:
    """Under 6 kB as sent."""
    answer = await site.running.client.get("/snippet.js", headers={"Authorization": "", "Accept-Encoding": "gzip"})
    assert answer.status_code == 200
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
    assert answer.num_bytes_downloaded < 6_000
