"""The example of a site's backend, beside a replica of the API: its tokens, and its page in a real browser, from another origin."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from httpx import AsyncClient
from playwright.async_api import expect

from examples.site_backend import site
from stream.api.api_keys import Scope
from stream.kafka.embedded.log import Log
from tests import api
from tests.api import TOPICS, replica
from tests.browser import browser
from tests.serving import listening, serving, url_of

WITHIN_S = 20

pytestmark = pytest.mark.timeout(120)


class Site(NamedTuple):
    """Addresses of the site and of the API, and the log behind this."""

    address: str
    api: str
    log: Log

    def clicks(self) -> list[dict[str, Any]]:
        records = [record for part in self.log.topics[TOPICS.clicks].partitions for record in part.records]
        return [json.loads(record.value) for record in records if record.value]


@asynccontextmanager
async def running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    log = api.new_log()
    api.put_items(log)
    api.put_list(log, "c-17", items=api.ITEMS[3:8])
    for name, scope in (("ISTHMUS_TOKENS_KEY", Scope.TOKENS), ("ISTHMUS_PUBLIC_KEY", Scope.PUBLIC)):
        monkeypatch.setenv(name, api.put_key(log, scope)[0])
    port, own = listening(), listening()
    async with (
        replica(log, folder, cors_origins=(url_of(own),)) as behind,
        serving(behind.app, port),
        serving(site(url_of(port)), own),
    ):
        yield Site(url_of(own), url_of(port), log)
        behind.parts.api.changes.end()


async def test_only_who_is_logged_in_gets_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens the list of that user. Without a session there is none, and the key does not stand in the page."""
    async with running(tmp_path, monkeypatch) as made, AsyncClient(base_url=made.address) as visitor:
        assert (await visitor.post("/token")).status_code == 401
        assert (await visitor.post("/login")).is_success
        token = (await visitor.post("/token")).json()["token"]
        answer = await visitor.get(f"{made.api}/v1/me/recommendations", headers={"Authorization": f"Bearer {token}"})
        assert [one["item"] for one in answer.json()["items"]] == list(api.ITEMS[3:8])
        page = (await visitor.get("/")).text
    assert page.count("isk_") == 1
    assert 'data-user="c-17"' in page


async def test_its_page_shows_the_users_list_and_sends_the_users_clicks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the last one, which leaves the page with a beacon."""
    async with running(tmp_path, monkeypatch) as made, browser() as chromium:
        page = await chromium.new_page()
        await page.context.request.post(f"{made.address}/login")
        await page.goto(made.address)
        await page.click("#agree")
        await expect(page.locator("#list li").first).to_have_text("Item-03", timeout=WITHIN_S * 1_000)
        await page.click("#dog")
        await until(lambda: len(made.clicks()) == 1)
        await page.evaluate("isthmus.click(['last']); location.href = 'about:blank'")
        await until(lambda: {click["event_id"] for click in made.clicks() if click["tags"] == ["last"]} != set())
        assert {click["user_id"] for click in made.clicks()} == {"c-17"}
        assert made.clicks()[0]["tags"] == ["pets", "dog"]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not holds():
            await asyncio.sleep(0.02)
