"""The page of agents in a real browser, logged in at a provider that checks PKCE: customers, offers, answers, and what stays."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from axe_playwright_python.async_playwright import Axe  # type: ignore[import-untyped]
from playwright.async_api import Browser, BrowserContext, Page, expect

from stream.core.feedback import REJECTED, Mark, UserFeedback, encode_feedback, hash_item
from stream.core.interactions import Part
from stream.core.kept_interactions import kept_conversation_of, kept_session_of
from stream.core.outputs import Output, RankedItem, Reasoning
from stream.core.state import Facts, Head, KeptPurchase, encode_state, facts_key, feedback_key, head_key
from stream.kafka.embedded.log import Log
from stream.kafka.faust.changelog import term_headers as stamp
from tests import api, oidc
from tests.api import CHANGELOG, ITEMS, NOW, TOPICS, Replica, replica
from tests.browser import browser
from tests.log_in_provider import LogInProvider, log_in_provider
from tests.serving import listening, serving, url_of

MARKUP = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
CUSTOMER = "c/17 & <img src=x onerror=window.hacked=1>"
HOUR = 3_600_000
WITHIN_MS = 20_000

pytestmark = pytest.mark.timeout(120)


def put_customer(log: Log, user: str) -> None:
    """A customer with a visit, a call, a purchase, a rejected offer, and a list whose first item rests on the call."""
    session = kept_session_of([(NOW - 5 * HOUR, ("car", "price"), b""), (NOW - 5 * HOUR + 60_000, (MARKUP[:64],), b"")])
    part = Part(NOW - 3 * HOUR, NOW - 3 * HOUR + 540_000, 14, b"\x00\x00", "", "text-model")
    head = Head(owned=("item-15",), newest_at=NOW - HOUR, tail=[kept_conversation_of([(part, bytes(6))], "call")])
    facts = Facts(interactions=[session], purchases=[KeptPurchase(NOW - 4 * HOUR, "p", True, ("item-15",))])
    feedback = UserFeedback((1, 0))
    feedback.add([Mark(NOW - HOUR, hash_item("item-02"), REJECTED, 0, 0, 0, "", b"name")])
    key = user.encode()
    records = (
        (head_key(key), encode_state(head)),
        (facts_key(key), encode_state(facts)),
        (feedback_key(key), encode_feedback(feedback)),
    )
    for name, record in records:
        api.append(log, CHANGELOG, user, Output(name, record, stamp(1)))
    reasons = (Reasoning("conversation", NOW - 3 * HOUR, 0.99, 0.4), Reasoning("session", NOW - 5 * HOUR, 0.99, 0.97))
    api.put_list(log, user, because=reasons)


@dataclass
class Desk:
    """An agent's browser, the API behind it, and what it leaves behind."""

    running: Replica
    url: str
    provider: LogInProvider
    context: BrowserContext
    audit_file: Path

    async def logged_in(self) -> Page:
        page = await self.context.new_page()
        await page.goto(f"{self.url}/agent")
        await page.click("#log-in-button")
        await expect(page.locator("#user")).to_be_visible(timeout=WITHIN_MS)
        return page

    async def customer(self, user: str = CUSTOMER) -> Page:
        page = await self.logged_in()
        await find(page, user)
        return page

    def feedback(self) -> list[dict[str, Any]]:
        records = [record for part in self.running.log.topics[TOPICS.feedback].partitions for record in part.records]
        return sorted((json.loads(record.value) for record in records if record.value), key=lambda event: event["occurred_at"])

    def answers(self) -> list[tuple[str, list[str]]]:
        return [(event["action"], event["items"]) for event in self.feedback() if event["action"] != "shown"]

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]


async def find(page: Page, user: str) -> None:
    await page.fill("#user", user)
    await page.press("#user", "Enter")
    await expect(page.locator("#customer-title")).to_have_text(f"Customer {user}", timeout=WITHIN_MS)


async def offers(page: Page) -> list[str]:
    return await page.locator("#offers h3").all_text_contents()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_MS / 1_000):
        while not holds():
            await asyncio.sleep(0.02)


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as started:
        yield started


@pytest.fixture
async def desk(tmp_path: Path, chromium: Browser) -> AsyncIterator[Desk]:
    log, port = api.new_log(), listening()
    api.put_items(log)
    put_customer(log, CUSTOMER)
    url, audit_file = url_of(port), tmp_path / "audit.jsonl"
    jwks = str(oidc.write_keys(tmp_path / "jwks.json", rsa=oidc.RSA))
    async with log_in_provider(url) as provider:
        settings = {"oidc_jwks": jwks, "audit_file": audit_file, "keep_clicks": True, **provider.settings}
        async with replica(log, tmp_path / "store", **settings) as running, serving(running.app, port):
            yield Desk(running, url, provider, await chromium.new_context(), audit_file)


async def test_an_agent_logs_in_and_leaves_no_token_and_no_id_behind(desk: Desk) -> None:
    """Neither in storage, cookies, the page or any URL; the code is in no address bar; a page loaded again asks for a log-in."""
    page = await desk.context.new_page()
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    await page.goto(f"{desk.url}/agent")
    await page.click("#log-in-button")
    await expect(page.locator("#agent")).to_have_text("Ada Agent", timeout=WITHIN_MS)
    assert page.url == f"{desk.url}/agent"
    await find(page, CUSTOMER)
    assert page.url == f"{desk.url}/agent"
    assert await page.evaluate("localStorage.length + sessionStorage.length") == 0
    assert await desk.context.cookies() == []
    assert "eyJ" not in await page.content() + "".join(urls)  # how tokens begin
    assert not any("17" in url.removeprefix(desk.url).removeprefix(desk.provider.url) for url in urls if "/v1/" in url)
    await page.reload()
    await expect(page.locator("#log-in-button")).to_be_visible()
    await expect(page.locator("#customer")).to_be_hidden()
    await page.go_back()
    assert "code=" not in page.url


@pytest.mark.parametrize("ends", [True, False])
async def test_logging_out_ends_the_providers_session_where_it_offers_that(tmp_path: Path, chromium: Browser, ends: bool) -> None:
    """By a form, so that the ID token is in no URL; the page is then as before a log-in. Without the setting, nobody is told."""
    log, port = api.new_log(), listening()
    url, jwks = url_of(port), str(oidc.write_keys(tmp_path / "jwks.json", rsa=oidc.RSA))
    async with log_in_provider(url) as provider:
        settings = {"oidc_jwks": jwks, **provider.settings, **({"oidc_end_session_url": f"{provider.url}/end"} if ends else {})}
        async with replica(log, tmp_path / "store", **settings) as running, serving(running.app, port):
            page = await Desk(running, url, provider, await chromium.new_context(), tmp_path / "audit").logged_in()
            urls: list[str] = []
            page.on("request", lambda request: urls.append(request.url))
            await page.click("#log-out")
            await expect(page.locator("#log-in-button")).to_be_visible(timeout=WITHIN_MS)
            await until(lambda: len(provider.ended) == ends)
            if ends:
                await page.wait_for_url(f"{url}/agent")
                (told,) = provider.ended
                assert told.pop("id_token_hint").startswith("eyJ")
                assert told == {"client_id": "agent-page", "post_logout_redirect_uri": f"{url}/agent"}
                await expect(page.locator("#log-in-button")).to_be_visible(timeout=WITHIN_MS)
            await expect(page.locator("#warn")).to_have_text("")
            assert not [one for one in urls if "eyJ" in one]


BENT: dict[str, tuple[dict[str, str | None], str | None]] = {
    "not begun by this page": ({"state": "somebody's"}, None),
    "Another provider": ({"iss": "https://other.example"}, None),
    MARKUP: ({"code": None, "error": "access_denied", "error_description": MARKUP}, None),
    "no token: invalid_grant": ({"code": "made-up"}, None),
    "another log-in": ({}, "another"),
}


async def test_an_answer_that_is_not_this_log_ins_is_refused(desk: Desk) -> None:
    """A wrong state, issuer, code or nonce, and a refusal: the agent is told, nothing opens, and what came is forgotten."""
    page = await desk.context.new_page()
    for said, (bent, nonce) in BENT.items():
        desk.provider.bent, desk.provider.nonce = bent, nonce
        desk.provider.asked.clear()
        await page.goto(f"{desk.url}/agent")
        await page.click("#log-in-button")
        await expect(page.locator("#warn")).to_contain_text(said, timeout=WITHIN_MS)
        assert page.url == f"{desk.url}/agent"
        assert not await page.is_visible("#user")
        assert await page.evaluate("sessionStorage.length") == 0
        codes = [one["code"] for one in desk.provider.asked if "grant_type" in one]
        assert len(codes) == (said in {"no token: invalid_grant", "another log-in"})
    assert await page.evaluate("window.hacked === undefined")


async def test_a_customer_is_shown_with_what_he_did_and_why_each_offer_is_made(desk: Desk) -> None:
    """In time order, in words, as text alone; axe finds nothing; the look is noted under a hash."""
    desk.running.log.append(TOPICS.items, "item-03", json.dumps({"item_id": "item-03", "name": MARKUP}).encode())
    await until(lambda: desk.running.parts.current.catalogue.items["item-03"].name == MARKUP)
    desk.provider.name = MARKUP
    page = await desk.logged_in()
    await expect(page.locator("#agent")).to_have_text(MARKUP)
    for state in ("find", "customer"):
        if state == "customer":
            await find(page, CUSTOMER)
        found = await Axe().run(page)
        assert found.violations_count == 0, found.generate_report()
    assert await page.locator("#facts dd").all_text_contents() == ["1", "1", "1", "1 item, 1 rejected", await last_seen(page)]
    assert await page.locator("#owned li").all_text_contents() == ["Item-15"]
    past = await page.locator("#past .what").all_text_contents()
    assert past == ["Rejected: Item-02", "Call", "Bought Item-15", "Website visit"]
    assert MARKUP[:64] in (await page.locator("#past .clicks li").all_text_contents())[1]
    assert await offers(page) == ["Item-00", "Item-01", "Item-02", MARKUP, "Item-04"]
    reasons = await page.locator("#offers .note").all_text_contents()
    assert reasons[0].startswith("Fits best, above all for the call ")
    assert reasons[2].startswith("Fits nearly as well as the first. Rejected ")
    assert "website visit" in (await page.locator("#basis").text_content() or "")
    assert await page.evaluate("window.hacked === undefined")
    (line,) = desk.audit()
    assert (line["who"], line["credential"], line["opened"]) == ("agent-7", "person", "profile")
    assert "c/17" not in str(desk.audit())


async def last_seen(page: Page) -> str:
    return await page.locator("#facts dd").last.text_content() or ""


async def test_an_answer_takes_the_item_away_and_the_reserve_fills_its_place(desk: Desk) -> None:
    """At once, by one click or key; the answer is in the topic with channel, placement and model; a double click is one answer."""
    page = await desk.customer()
    await page.get_by_role("button", name="Rejected: Item-01").click()
    assert await offers(page) == ["Item-00", "Item-02", "Item-03", "Item-04", "Item-05"]
    await expect(page.locator("#say")).to_have_text("Item-01: rejected. Item-05 fills its place.")
    assert await page.evaluate("document.activeElement.ariaLabel") == "Rejected: Item-02"
    await page.keyboard.press("Shift+Tab")
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Not now: Item-05").dblclick()
    assert await offers(page) == ["Item-00", "Item-03", "Item-04", "Item-06", "Item-07"]
    await until(lambda: len(desk.answers()) == 3)
    assert desk.answers() == [("rejected", ["item-01"]), ("accepted", ["item-02"]), ("dismissed", ["item-05"])]
    for event in desk.feedback():
        named = (event["user_id"], event["channel"], event["placement"], event["model_version"])
        assert named == (CUSTOMER, "phone", "agent", "7")
    await until(lambda: ("shown", ["item-00", "item-03", "item-04", "item-06", "item-07"]) in all_feedback(desk))
    assert ("shown", list(ITEMS[:5])) in all_feedback(desk)
    assert await page.locator("#facts dd").nth(3).text_content() == "1 item, 1 accepted, 2 rejected"
    found = await Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    await page.click("#again")
    await expect(page.locator("#answered-box")).to_be_hidden()
    assert (await offers(page))[1] == "Item-03"


def all_feedback(desk: Desk) -> list[tuple[str, list[str]]]:
    return [(event["action"], event["items"]) for event in desk.feedback()]


async def test_the_reasons_are_those_of_the_items_that_are_left(desk: Desk) -> None:
    """Once the first is answered, none is compared with it, also after the profile is loaded again; hovering fills no button."""
    made, scores = api.make_list("c-1"), {"item-00": 0.99, "item-01": 0.4, "item-02": 0.39}
    items = tuple(RankedItem(one.item, one.rank, scores.get(one.item, 0.1)) for one in made.items)
    record = msgspec.json.encode(msgspec.structs.replace(made, items=items))
    api.append(desk.running.log, TOPICS.recommendations, "c-1", Output(b"c-1", record))
    api.put_state(desk.running.log, "c-1")
    page = await desk.customer("c-1")
    assert await page.locator("#offers .note").count() == 0
    button = page.get_by_role("button", name="Accepted: Item-00")
    assert (await page.locator("#find button").bounding_box() or {"width": 0})["width"] < 200
    await button.click()
    await expect(page.locator("#facts dd").nth(3)).to_have_text("1 accepted")
    for _ in range(2):
        first, second = (page.locator("#offers .offer").nth(index) for index in (0, 1))
        await expect(first.locator("h3")).to_have_text("Item-01")
        assert await first.locator(".note").count() == 0
        assert await second.locator(".note").text_content() == "Fits nearly as well as the first."
        await page.click("#again")
    hovered = page.get_by_role("button", name="Accepted: Item-01")
    await hovered.hover()
    assert await hovered.evaluate("button => getComputedStyle(button).backgroundColor") == "rgba(0, 0, 0, 0)"


async def test_each_item_says_which_visit_or_call_speaks_for_it(desk: Desk) -> None:
    """Where the list explains every item; an item for which no interaction speaks says how it compares with the first."""
    made = api.make_list("c-2")
    reasons = {
        "item-00": (Reasoning("conversation", NOW - 24 * HOUR, 0.99, 0.2, 0.9),),
        "item-01": (Reasoning("session", NOW, 0.98, 0.3, 0.9),),
    }
    items = tuple(msgspec.structs.replace(one, because=reasons.get(one.item, ())) for one in made.items)
    record = msgspec.json.encode(msgspec.structs.replace(made, items=items, because=reasons["item-00"]))
    api.append(desk.running.log, TOPICS.recommendations, "c-2", Output(b"c-2", record))
    api.put_state(desk.running.log, "c-2")
    page = await desk.customer("c-2")
    first, second, third = [
        await page.locator("#offers .offer").nth(index).locator(".note").text_content() or "" for index in range(3)
    ]
    assert first.startswith("Fits best, above all for the call")
    assert second.startswith("Fits, above all for the website visit")
    assert third == "Fits nearly as well as the first."


async def test_an_answer_that_cannot_be_sent_comes_back_to_the_list(desk: Desk) -> None:
    """Where the agent lacks the right; where the log-in has ended, the page asks for another and shows nothing more."""
    desk.provider.scope = "openid read"
    page = await desk.customer()
    await page.get_by_role("button", name="Accepted: Item-01").click()
    await expect(page.locator("#warn")).to_contain_text("“Item-01” was not noted as accepted", timeout=WITHIN_MS)
    assert (await offers(page))[:2] == ["Item-00", "Item-01"]
    assert desk.answers() == []


async def test_a_log_in_is_renewed_while_the_provider_allows_it(desk: Desk) -> None:
    """Without a redirect. Then the page asks for another log-in, and the customer is gone from it."""
    desk.provider.expires_in = 1
    page = await desk.customer()
    await find(page, "stranger-9")
    await expect(page.locator("#unknown")).to_be_visible()
    await expect(page.locator("#basis")).to_contain_text("In the catalogue")
    assert [one["grant_type"] for one in desk.provider.asked if "grant_type" in one].count("refresh_token") >= 2
    desk.provider.renewals.clear()
    async with asyncio.timeout(WITHIN_MS / 1_000):
        while await page.locator("#customer").is_visible():  # until the token that it still has ends
            await page.evaluate("document.getElementById('again').click()")
            await asyncio.sleep(0.1)
    await expect(page.locator("#warn")).to_have_text("Your log-in has ended. Log in again.", timeout=WITHIN_MS)
    await expect(page.locator("#customer")).to_be_hidden()
    assert "stranger-9" not in await page.content()
    await page.click("#log-in-button")
    await expect(page.locator("#user")).to_be_visible(timeout=WITHIN_MS)
