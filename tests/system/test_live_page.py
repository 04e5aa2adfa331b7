"""The live page in a real browser, with a real worker and a replica of the API on one embedded log."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped]
from playwright.async_api import Browser, Page, expect

from stream.api.answers import Popularity
from stream.api.api_keys import Scope
from stream.api.app import make_app
from stream.core.dead_letters import DeadLetterLimit
from stream.core.events import Click, Purchase
from stream.core.outputs import ModelName
from stream.core.partitioner import partition_of
from stream.core.step import StepConfig
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.app import add_profile_agent, run_until_stopped
from stream.kafka.app import make_app as make_worker
from stream.kafka.cluster.topics import source_topics, specs
from stream.kafka.embedded.log import Log, forget, open_log
from stream.metrics import Metrics
from stream.services.api import now_ms
from tests import api, serving, world
from tests.api import PARTITIONS, TOPICS, Replica, replica
from tests.browser import browser

MARKUP = "<img src=x onerror=window.hacked=1>"
WITHIN_MS = 30_000
SIZES = {"phone": {"width": 390, "height": 844}, "desktop": {"width": 1280, "height": 860}}
RANKER = world.OrderRanker()
CROWDED = """async () => {
  const { SpaceMap } = await import("/pages/live-map.js");
  const old = document.getElementById("map"), box = old.cloneNode(true);
  old.replaceWith(box);
  const item = (_, index) => ({ item: `${index}`, name: `Insurance number ${index}`,
    x: Math.cos(index / 6), y: Math.sin(index / 6) });
  new SpaceMap(box, () => {}).show({ version: "crowded", items: Array.from({ length: 38 }, item), dots: [] });
  const rooms = [...box.querySelectorAll("text")].map((text) => text.getBBox());
  const meet = (a, b) => a.x < b.x + b.width && b.x < a.x + a.width && a.y + 2 < b.y + b.height && b.y + 2 < a.y + a.height;
  return [rooms.length, rooms.filter((a, index) => rooms.slice(index + 1).some((b) => meet(a, b))).length];
}"""

pytestmark = pytest.mark.timeout(150)


@dataclass
class Site:
    """A page that is served, the log behind it, and a browser."""

    log: Log
    running: Replica
    url: str
    browser: Browser

    async def open(self, size: str = "desktop", scheme: str = "light") -> Page:
        context = await self.browser.new_context(viewport=SIZES[size], color_scheme=scheme)  # type: ignore[arg-type]
        page = await context.new_page()
        await page.goto(self.url)
        return page

    def click(self, user: str, *tags: str, event_id: str | None = None, session_id: str | None = None) -> None:
        event = Click(user, now_ms(), tags, event_id=event_id, session_id=session_id)
        self.log.append(TOPICS.clicks, user, msgspec.json.encode(event))

    def call(self, user: str, number: int, keyword: str) -> None:
        at, partition = now_ms(), partition_of(user.encode(), PARTITIONS)
        made = world.call(f"k{number}", at - 1_000, at, number, user=user, offset=number)
        encoded = msgspec.structs.replace(made, keywords=(keyword,), origin_partition=partition)
        self.log.append(TOPICS.encoded_calls, user, msgspec.msgpack.encode(encoded))

    def buy(self, user: str, item: str) -> None:
        self.log.append(TOPICS.purchases, user, msgspec.json.encode(Purchase(user, now_ms(), (item,))))

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Twenty users, who click, call and buy."""

        async def send() -> None:
            for number in itertools.count():
                user = f"c-{number % 20}"
                self.click(user, "home", f"page-{number % 7}")
                if number % 5 == 0:
                    self.call(user, number, "dog")
                if number % 9 == 0:
                    self.buy(user, world.ITEMS[number % 6])
                await asyncio.sleep(0.03)

        sending = asyncio.create_task(send())
        try:
            yield
        finally:
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending


@asynccontextmanager
async def working(name: str, log: Log, folder: Path, metrics: Metrics) -> AsyncIterator[None]:
    """A worker with a model of the test."""
    sources, stop = source_topics(TOPICS), asyncio.Event()
    app = make_worker("isthmus-profiles", f"embedded://{name}", data=folder, partitions=PARTITIONS)
    context = ProfileContext(
        sources=sources,
        epochs=log.epochs(sources),
        served=ServedModel(RANKER, world.catalogue()),
        step=StepConfig(partitions=PARTITIONS),
        topics=TOPICS,
        metrics=metrics,
        limit=DeadLetterLimit(),
    )
    add_profile_agent(app, context)
    running = asyncio.create_task(run_until_stopped(app, stop))
    try:
        yield
    finally:
        stop.set()
        await running


@asynccontextmanager
async def served(running: Replica, *, with_key: bool) -> AsyncIterator[str]:
    """The replica on a port, with the key in its page or without."""
    secret, key = api.put_key(running.log, Scope.LIVE)
    await running.until(lambda: running.has_key(key.key_id), WITHIN_MS / 1_000)
    own = msgspec.structs.replace(running.parts.api, live_key=secret if with_key else "")
    async with serving.served(make_app(own, Metrics()), running.parts.api.changes.end) as url:
        yield f"{url}/"


@pytest.fixture
async def site(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """`with_key` is the fixture's parameter; default: the key stands in the page, as in the demo."""
    name = uuid4().hex[:8]
    log, metrics = open_log(name), Metrics()
    log.create_topics(specs(TOPICS))
    for item in world.ITEMS:
        log.append(TOPICS.items, item, msgspec.json.encode({"item_id": item, "name": f"{item} {MARKUP}"}))
    server, _ = metrics.serve(0)
    address = f"http://127.0.0.1:{server.server_port}/metrics"
    try:
        async with (
            working(name, log, tmp_path / "worker", metrics),
            replica(log, tmp_path / "store", live=True, live_metrics=(address,)) as running,
            served(running, with_key=getattr(request, "param", True)) as url,
            browser() as chromium,
        ):
            running.parts.current.popularity = Popularity(ModelName("order", "1"), RANKER.items, RANKER.prior, RANKER)
            yield Site(log, running, url, chromium)
    finally:
        server.shutdown()
        forget(name)


async def repeat_until(act: Callable[[], None], holds: Callable[[], Awaitable[bool]]) -> None:
    """Acts again and again: the page shows one event a frame, which may be another one."""
    deadline = time.monotonic() + WITHIN_MS / 1_000
    while not await holds():
        assert time.monotonic() < deadline
        act()
        await asyncio.sleep(0.1)


async def pick(page: Page, user: str, act: Callable[[], None]) -> None:
    """Picks a user among the events, as soon as one is shown."""
    button = page.locator("#happened button").get_by_text(user, exact=True).first

    async def is_shown() -> bool:
        return await button.count() > 0

    await repeat_until(act, is_shown)
    await button.dispatch_event("click")
    await expect(page.locator("#who")).to_have_text(user, timeout=WITHIN_MS)


async def test_the_page_shows_what_happens_and_a_picked_users_list_follows(site: Site) -> None:
    """Events, dots, rates, quality and lag move; the list and the way of the picked user change after the user's own events."""
    async with site.busy():
        page = await site.open()
        await expect(page.locator("#state")).to_have_text("Live", timeout=WITHIN_MS)
        await expect(page.locator("#happened li.call").first).to_contain_text("keywords: dog", timeout=WITHIN_MS)
        await expect(page.locator("#happened li.purchase").first).to_contain_text("item-", timeout=WITHIN_MS)
        await expect(page.locator("#dots")).to_have_attribute(
            "aria-label", "Map of the shared space: 20 customers among 6 items", timeout=WITHIN_MS
        )
        await expect(page.locator("#rate-click")).not_to_have_text("0", timeout=WITHIN_MS)
        await expect(page.locator("#quality li")).to_have_count(2, timeout=WITHIN_MS)
        await expect(page.locator("#model")).to_have_text("order 1", timeout=WITHIN_MS)
        await expect(page.locator("#lag-note")).not_to_be_empty(timeout=WITHIN_MS)
        await expect(page.locator("#freshness")).to_contain_text("s", timeout=WITHIN_MS)
    await pick(page, "alone", lambda: site.click("alone", "home"))
    await expect(page.locator("#list li")).to_have_count(5, timeout=WITHIN_MS)
    await expect(page.locator("#marks .way")).to_have_count(1, timeout=WITHIN_MS)
    before = await page.locator("#list").inner_text()

    async def is_another() -> bool:
        return await page.locator("#list").inner_text() != before and await page.locator("#steps .effect").count() > 0

    numbers = itertools.count(1_000)

    def go_on() -> None:
        """A visit and a call: of visits alone the test's model soon makes nothing new."""
        site.click("alone", f"tag-{next(numbers)}", session_id=str(next(numbers)))
        site.call("alone", next(numbers), "dog")

    await repeat_until(go_on, is_another)
    await expect(page.locator("#list .moved").first).to_be_visible(timeout=WITHIN_MS)
    assert "alone" not in page.url


async def test_nothing_that_a_producer_writes_runs_and_axe_finds_nothing(site: Site) -> None:
    """Markup in user, event and session ids, tags, keywords and names is text; on phone and desktop, light and dark."""
    site.click(MARKUP, MARKUP, event_id=MARKUP, session_id=MARKUP)
    site.call(MARKUP, 1, MARKUP)
    site.click("other", "home")
    for size, scheme in itertools.product(SIZES, ("light", "dark")):
        page = await site.open(size, scheme)
        await expect(page.locator("#state")).to_have_text("Live", timeout=WITHIN_MS)
        await pick(page, MARKUP, lambda: site.buy(MARKUP, world.ITEMS[0]))
        await expect(page.locator("#list .name").first).to_contain_text(MARKUP, timeout=WITHIN_MS)
        await expect(page.locator("#steps .words").last).to_contain_text(MARKUP, timeout=WITHIN_MS)
        await expect(page.locator("#marks text.listed").first).to_contain_text("item-", timeout=WITHIN_MS)
        assert await page.evaluate("window.hacked === undefined && document.querySelectorAll('img').length === 0")
        found = await Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
        await page.context.close()


@pytest.mark.parametrize("size", SIZES)
async def test_no_name_on_a_crowded_map_lies_on_another(site: Site, size: str) -> None:
    """Those without room are left out; most have some."""
    page = await site.open(size)
    named, overlapping = await page.evaluate(CROWDED)
    assert named > 15
    assert overlapping == 0


@pytest.mark.parametrize("site", [False], indirect=True)
async def test_outside_the_demo_the_page_asks_for_a_key_and_keeps_it_in_memory(site: Site) -> None:
    """A wrong one is asked for again; nothing of it is stored or stands in the address."""
    page = await site.open()
    await expect(page.get_by_label("API key")).to_be_visible(timeout=WITHIN_MS)
    right, _ = api.put_key(site.log, Scope.LIVE)
    for presented, said in (
        ("isk_wrong", "A key is needed"),
        (api.put_key(site.log, Scope.READ)[0], "lacks the scope"),
        (right, "Live"),
    ):
        await page.get_by_label("API key").fill(presented)
        await page.get_by_role("button", name="Watch").click()
        await expect(page.locator("#state")).to_contain_text(said, timeout=WITHIN_MS)
    assert await page.get_by_label("API key").is_hidden()
    assert await page.evaluate("localStorage.length + sessionStorage.length") == 0
    assert page.url == site.url
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
