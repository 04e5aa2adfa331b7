"""The example of a site's backend, in front of a replica of the API: its tokens, and its page in a real browser."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from httpx import AsyncClient
from playwright.async_api import expect

from examples.site_backend import site
from stream.api.api_keys import Scope
from stream.kafka.embedded.log import Log
from tests import api
from tests.api import TOPICS, replica
from tests.browser import browser
from tests.serving import served

WITHIN_S = 20

pytestmark = pytest.mark.timeout(120)


@asynccontextmanager
async def running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[str, Log]]:
    log = api.new_log()
    api.put_items(log)
    api.put_list(log, "c-17", items=api.ITEMS[3:8])
    for name, scope in (("ISTHMUS_TOKENS_KEY", Scope.TOKENS), ("ISTHMUS_PUBLIC_KEY", Scope.PUBLIC)):
        monkeypatch.setenv(name, api.put_key(log, scope)[0])
    async with (
        replica(log, folder) as behind,
        served(behind.app, behind.parts.api.changes.end) as url,
        served(site(url)) as address,
    ):
        yield address, log


async def test_only_who_is_logged_in_gets_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It opens the list of that user. Without a session there is none, and the key does not stand in the page."""
    async with running(tmp_path, monkeypatch) as (address, _), AsyncClient(base_url=address) as visitor:
        assert (await visitor.post("/token")).status_code == 401
        assert (await visitor.post("/login")).status_code == 204
        token = (await visitor.post("/token")).json()["token"]
        answer = await visitor.get("/v1/me/recommendations", headers={"Authorization": f"Bearer {token}"})
        assert [one["item"] for one in answer.json()["items"]] == list(api.ITEMS[3:8])
        page = (await visitor.get("/")).text
    assert page.count("isk_") == 1
    assert 'data-user="c-17"' in page


async def test_its_page_shows_the_users_list_and_sends_the_users_clicks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the forwarded stream and the forwarded events."""
    async with running(tmp_path, monkeypatch) as (address, log), browser() as chromium:
        page = await chromium.new_page()
        await page.context.request.post(f"{address}/login")
        await page.goto(address)
        await page.click("#agree")
        await expect(page.locator("#list li").first).to_have_text("Item-03", timeout=WITHIN_S * 1_000)
        await page.click("#dog")
        async with asyncio.timeout(WITHIN_S):
            while not (sent := [one.value for part in log.topics[TOPICS.clicks].partitions for one in part.records]):
                await asyncio.sleep(0.02)
    click = json.loads(sent[0] or b"")
    assert (click["user_id"], click["tags"]) == ("c-17", ["pets", "dog"])
