"""The page of agents without a browser: its policy, whom it shows, its settings, and the demo's token."""

import html
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from httpx import AsyncClient
from litestar.testing import AsyncTestClient
from pydantic import ValidationError

from stream.api.app import make_app
from stream.api.context import DemoAgent
from stream.metrics import Metrics
from stream.process_settings import ApiSettings
from tests import api
from tests.api import ITEMS, Replica, replica
from tests.oidc import OIDC

LOG_IN: dict[str, Any] = {
    **OIDC,
    "oidc_jwks": "https://id.example/jwks",
    "oidc_client_id": "isthmus-agents",
    "oidc_authorize_url": "https://id.example/authorize?tenant=1",
    "oidc_token_url": "https://tokens.example:8443/oauth/token",
}
IN_THE_LOG_IN = ("oidc_client_id", "oidc_authorize_url", "oidc_token_url")
USER = "a/../b?c#d"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Replica]:
    log = api.new_log()
    api.put_items(log)
    api.put_list(log, USER)
    api.put_state(log, USER, owned=["item-15"])
    more = {"oidc_jwks": str(tmp_path / "jwks.json"), "oidc_scope_prefix": "isthmus:", "oidc_login_parameters": {"audience": '">'}}
    async with replica(log, tmp_path / "store", **{**LOG_IN, **more}, placements=("agent",)) as started:
        yield started


def log_in_in(page: str) -> Any:
    """What the page knows of the deployment."""
    found = re.search(r'name="isthmus-log-in" content="([^"]*)"', page)
    assert found is not None
    return json.loads(html.unescape(found[1]))


async def test_the_page_may_ask_the_token_endpoint_and_nobody_else(running: Replica) -> None:
    """It runs its own scripts alone, is in no frame, sends no referrer, and what settings hold is no markup in it."""
    answer = await running.get("/agent", headers={"Authorization": ""})
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["connect-src"] == "'self' https://tokens.example:8443"
    assert policy["default-src"] == policy["frame-ancestors"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert answer.headers["referrer-policy"] == "no-referrer"
    made = log_in_in(answer.text)
    assert made["scope"] == "openid isthmus:read isthmus:feedback"
    assert made["parameters"] == {"audience": '">'}
    assert (made["client_id"], made["length"]) == ("isthmus-agents", 5)
    assert not re.search(r"<script(?![^>]*src=)|\son\w+=|<style|\sstyle=", answer.text)


async def test_the_page_may_send_a_form_to_the_end_session_endpoint_alone(tmp_path: Path) -> None:
    """And be led back from there."""
    ends = {"oidc_end_session_url": "https://id.example/logout?tenant=1"}
    async with replica(api.new_log(), tmp_path / "store", **{**LOG_IN, "oidc_jwks": str(tmp_path / "none"), **ends}) as started:
        answer = await started.get("/agent")
    assert "form-action 'self' https://id.example;" in answer.headers["content-security-policy"]
    assert log_in_in(answer.text)["end_session_url"] == ends["oidc_end_session_url"]


async def test_a_profile_comes_with_its_list_for_any_id(running: Replica) -> None:
    """Also one that no path can hold; of somebody unknown there is the list alone."""
    answer = await running.client.post("/v1/profiles", json={"user_id": USER, "limit": 7, "placement": "agent"})
    assert answer.status_code == 200
    opened = answer.json()
    assert opened["profile"]["owned_items"] == [{"item": "item-15", "name": "Item-15"}]
    assert [one["item"] for one in opened["list"]["items"]] == list(ITEMS[:7])
    assert opened["list"]["placement"] == "agent"
    unknown = (await running.client.post("/v1/profiles", json={"user_id": "nobody"})).json()
    assert "profile" not in unknown
    assert len(unknown["list"]["items"]) == 5
    assert (await running.client.post("/v1/profiles", json={"user_id": ""})).status_code == 400


async def test_without_a_provider_the_page_says_so_and_there_is_no_token(tmp_path: Path) -> None:
    """The demo's route is the demo's alone."""
    async with replica(api.new_log(), tmp_path) as running:
        page = await running.get("/agent")
        assert log_in_in(page.text) == {"length": 5}
        assert "connect-src 'self';" in page.headers["content-security-policy"]
        assert (await running.client.post("/demo/token")).status_code == 404


@asynccontextmanager
async def demo(running: Replica) -> AsyncIterator[AsyncClient]:
    agent = DemoAgent("isk_demo", lambda: ("user-1", "user-2"))
    app = make_app(msgspec.structs.replace(running.parts.api, demo_agent=agent), Metrics())
    async with AsyncTestClient(app, base_url="http://127.0.0.1:8080") as client:
        yield client


async def test_the_demos_token_is_for_its_own_page_alone(tmp_path: Path) -> None:
    """Not for a page of another origin, and not under a name that foreign DNS may have pointed here."""
    async with replica(api.new_log(), tmp_path) as running, demo(running) as client:
        assert log_in_in((await client.get("/agent")).text) == {"length": 5, "is_demo": True}
        for headers in ({}, {"Origin": "http://127.0.0.1:8080"}):
            answer = await client.post("/demo/token", headers=headers)
            assert answer.json() == {"token": "isk_demo", "examples": ["user-1", "user-2"]}
        foreign = (
            {"Origin": "https://evil.example"},
            {"Origin": "http://localhost:9090"},
            {"Origin": "null"},
            {"Host": "evil.example:8080"},
            {"Host": "evil.example:8080", "Origin": "http://evil.example:8080"},
        )
        for headers in foreign:
            answer = await client.post("/demo/token", headers=headers)
            assert (answer.status_code, "isk_demo" in answer.text) == (403, False), headers


@pytest.mark.parametrize(
    "changes",
    [
        {"oidc_token_url": None},
        {"oidc_client_id": None},
        {"oidc_jwks": None},
        {"oidc_token_url": "http://tokens.example/token"},
        {"oidc_token_url": "https://tokens.example; script-src *"},
        {"oidc_token_url": "https://user@tokens.example/token"},
        {"oidc_authorize_url": "javascript:alert(1)"},
        {"oidc_authorize_url": "http://localhost.evil.example/authorize"},
        {"oidc_login_parameters": {"state": "mine"}},
        {"oidc_end_session_url": "http://id.example/logout"},
        {"oidc_end_session_url": "https://id.example/logout", **dict.fromkeys(IN_THE_LOG_IN)},
    ],
)
def test_settings_with_which_agents_could_not_log_in_safely_are_refused(changes: dict[str, Any]) -> None:
    """Half of them, plain HTTP, what would widen the policy, and parameters that the page sets itself."""
    ApiSettings(**LOG_IN)
    with pytest.raises(ValidationError):
        ApiSettings(**{**LOG_IN, **changes})
