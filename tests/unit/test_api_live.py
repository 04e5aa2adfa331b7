"""The live page's routes: off by default, and a stream that ends with its key."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.api.answers import Popularity
from stream.api.api_keys import Scope
from stream.api.live_view import LiveView
from stream.api.store import StoreAwayError
from stream.core.outputs import ModelName
from tests import api, world
from tests.api import TOPICS, Replica, replica

MARKING = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick=", "<style")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Replica]:
    log = api.new_log()
    api.put_items(log)
    async with replica(log, tmp_path / "store", live=True) as started:
        yield started


def view(running: Replica) -> LiveView:
    found = running.parts.api.live
    assert found is not None
    return found


async def events(running: Replica, count: int, user: str | None = None) -> dict[str, Any]:
    """The last event of each name among the first `count`."""
    found: dict[str, Any] = {}
    messages = view(running).messages(user, lambda: True)
    async with asyncio.timeout(20):
        for _ in range(count):
            name, data = (await anext(messages)).decode().strip().split("\n")
            found[name.removeprefix("event: ")] = json.loads(data.removeprefix("data: "))
    await messages.aclose()
    return found


async def test_the_page_is_off_by_default(tmp_path: Path) -> None:
    """Page and stream say which setting turns it on, and nothing is kept in memory for it."""
    async with replica(api.new_log(), tmp_path / "store") as off:
        assert off.parts.api.live is None
        page, stream = await off.get("/"), await off.get("/v1/live/events")
    assert (page.status_code, stream.status_code) == (501, 501)
    assert "ISTHMUS_API__LIVE" in page.json()["detail"]
    assert "ISTHMUS_API__LIVE" in stream.json()["detail"]


async def test_the_page_may_load_its_own_files_alone(running: Replica) -> None:
    """And holds no key outside the demo. Files are named one by one: no path leads elsewhere."""
    page = await running.get("/", headers={"Authorization": ""})
    assert page.status_code == 200
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert 'name="isthmus-key" content=""' in page.text
    for name in ("live.js", "live-map.js", "live.css", "base.css"):
        assert (await running.get(f"/pages/{name}", headers={"Authorization": ""})).status_code == 200
    for name in ("live.html", "snippet.js", "..%2Fapp.py", "nothing.css"):
        assert (await running.get(f"/pages/{name}")).status_code in {400, 404}, name


async def test_no_style_or_script_stands_in_a_page_and_nothing_becomes_markup() -> None:
    """What the policy forbids would silently not work; what writes markup would let producers write it."""
    for file in (Path(api.__file__).parents[1] / "stream" / "api" / "pages").iterdir():
        text = file.read_text()
        for forbidden in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=",
            " onclick=",
            "<style",
        ):
            assert forbidden not in text, (file.name, forbidden)
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), file.name


async def test_the_stream_tells_the_map_what_happens_and_the_followed_users_list(running: Replica) -> None:
    """The map first, then frames; the user's list as it may be offered now, and his way."""
    ranker = world.OrderRanker(items=api.ITEMS)
    running.parts.current.popularity = Popularity(ModelName("order", "1"), ranker.items, ranker.prior, ranker, 123)
    api.put_list(running.log, "u")
    api.put_state(running.log, "u", owned=["item-00"])
    await running.settled()
    found = await events(running, 3, "u")
    assert set(found) == {"picture", "frame", "followed"}
    assert (found["picture"]["version"], found["picture"]["published_at"]) == ("1", 123)
    assert len(found["picture"]["items"]) == len(api.ITEMS)
    assert [dot["user"] for dot in found["picture"]["dots"]] == ["u"]
    assert [dot["user"] for dot in found["frame"]["dots"]] == ["u"]
    followed = found["followed"]
    assert [one["item"] for one in followed["list"]["items"]] == list(api.ITEMS[1:6])
    assert [step["kind"] for step in followed["steps"]] == ["click", "purchase"]


async def test_a_user_who_is_not_known_has_popularitys_list_and_no_way(running: Replica) -> None:
    """As elsewhere in the API."""
    found = await events(running, 3, "nobody")
    assert found["followed"]["list"]["fallback"] == "catalogue"
    assert found["followed"]["steps"] == []


async def test_each_user_who_is_followed_is_noted(running: Replica, caplog: pytest.LogCaptureFixture) -> None:
    """A way through the map says as much as a profile. What is shown of everybody is not noted."""
    running.parts.api.changes.ended = True
    with caplog.at_level("INFO", "isthmus.audit"):
        assert (await running.get("/v1/live/events")).status_code == 200
        assert not noted(caplog)
        assert (await running.get("/v1/live/events", params={"user": "u"})).status_code == 200
    (line,) = noted(caplog)
    assert (line["opened"], line["user"]) == ("live", running.parts.api.audit.hash_user("u"))


def noted(caplog: pytest.LogCaptureFixture) -> list[dict[str, str]]:
    """Lines of the audit log; the client of these tests logs its requests too where another test lets it."""
    return [json.loads(record.getMessage()) for record in caplog.records if record.name == "isthmus.audit"]


async def test_nothing_is_made_while_nobody_watches(running: Replica) -> None:
    """Frames cost the network's time: they begin with the first page and end with the last."""
    assert not view(running)._someone.is_set()
    one, other = (view(running).messages(None, lambda: True) for _ in range(2))
    await anext(one)
    await anext(other)
    await one.aclose()
    assert view(running)._someone.is_set()
    await other.aclose()
    assert not view(running)._someone.is_set()


async def test_a_frame_that_fails_is_left_out(running: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one comes; a defect of the page ends no process."""
    failing = iter([True])
    whole = view(running)._maker.frame

    def frame(*arguments: Any) -> Any:
        if next(failing, False):
            raise ZeroDivisionError
        return whole(*arguments)

    monkeypatch.setattr(view(running)._maker, "frame", frame)
    assert set(await events(running, 2)) == {"picture", "frame"}


async def test_the_stream_ends_where_the_store_goes_away(running: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before has been sent; the page asks again, and its request says what is wrong."""

    async def away(*_: Any) -> Any:
        raise StoreAwayError

    monkeypatch.setattr(running.parts.api.service, "lists", away)
    async with asyncio.timeout(20):
        messages = [message async for message in view(running).messages("u", lambda: True)]
    assert [message.split(b"\n")[0] for message in messages] == [b"event: picture", b"event: frame"]


async def test_the_stream_ends_with_its_key(running: Replica) -> None:
    """A revoked key sees nothing more."""
    secret, key = api.put_key(running.log, Scope.LIVE)
    running.log.append(TOPICS.api_keys, key.key_id, None)
    _, last = api.put_key(running.log, Scope.READ)

    async def is_known() -> bool:
        return last.key_id in {other.key_id for other in running.parts.api.keys.all()}

    await running.until(is_known)
    assert (await running.get("/v1/live/events", headers={"Authorization": f"Bearer {secret}"})).status_code == 401
    ends = iter([True, True, False])
    messages = [message async for message in view(running).messages(None, lambda: next(ends, False))]
    assert [message.split(b"\n")[0] for message in messages] == [b"event: picture", b"event: frame"]
    assert msgspec.json.decode(messages[1].split(b"data: ")[1])["dots"] == []
