"""Which credential opens which route: every kind against every route, compared with a table that is written here a second time."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from stream.api.api_keys import Scope
from stream.api.door import USER_TOKEN_HEADER
from stream.api.routes import ROUTES
from stream.api.user_tokens import UserToken, sign_token
from tests import api, oidc
from tests.api import NOW, TOPICS, Replica, replica

KEYS: Final = frozenset(scope.value for scope in Scope)
UNKNOWN: Final = frozenset(
    {
        *("nothing", "no bearer", "half a key", "basic", "foreign key", "expired key", "revoked key", "public in two"),
        "ended token of a person",
    }
)
DEAD_TOKENS: Final = frozenset({"expired token", "token from before the erasure"})
WITH_TOKEN: Final = frozenset({"public and own token", "public and another's token"})
TOKENS: Final = frozenset({"own token", "another's token"})
PERSON: Final = "person with "
PEOPLE: Final = frozenset(PERSON + scope for scope in KEYS)
OPEN: Final[frozenset[str]] = KEYS | PEOPLE | UNKNOWN | DEAD_TOKENS | WITH_TOKEN | TOKENS | {"public and dead token"}

ADMITTED: Final[dict[tuple[str, str], frozenset[str]]] = {
    ("GET", "/v1/users/{user_id}/recommendations"): frozenset({"read", "admin"}),
    ("GET", "/v1/users/{user_id}/profile"): frozenset({"read", "admin"}),
    ("GET", "/v1/users/{user_id}/events"): frozenset({"read", "admin"}),
    ("POST", "/v1/profiles"): frozenset({"read", "admin"}),
    ("POST", "/v1/users/batch"): frozenset({"read", "admin"}),
    ("POST", "/v1/recommendations"): frozenset({"read", "admin"}),
    ("GET", "/v1/items"): frozenset({"read", "admin"}),
    ("POST", "/v1/events"): frozenset({"write", "admin", "public and own token"}),
    ("POST", "/v1/feedback"): frozenset({"write", "feedback", "admin", "public and own token", "own token"}),
    ("POST", "/v1/tokens"): frozenset({"tokens", "admin"}),
    ("POST", "/v1/visitors"): frozenset({"public", "tokens", "admin"}) | WITH_TOKEN,
    ("DELETE", "/v1/users/{user_id}"): frozenset({"erase", "admin"}),
    ("DELETE", "/v1/users/batch"): frozenset({"erase", "admin"}),
    ("GET", "/v1/users/{user_id}/erasures/{until_ms}"): frozenset({"erase", "admin"}),
    ("GET", "/v1/me/recommendations"): TOKENS,
    ("GET", "/v1/me/events"): TOKENS,
    ("GET", "/livez"): OPEN,
    ("GET", "/readyz"): OPEN,
    ("GET", "/snippet.js"): OPEN,
    ("GET", "/agent"): OPEN,
    ("GET", "/pages/{name}"): OPEN,
    ("GET", "/"): OPEN,
    ("GET", "/v1/live/events"): frozenset({"live", "admin"}),
}
BY_BEACON: Final[dict[str, frozenset[str]]] = {
    "/v1/events": frozenset({"public and own token"}),
    "/v1/feedback": frozenset({"public and own token", "own token"}),
}
"""What opens a route where it comes in the body, as a page sends it that closes. Other routes read no credential there."""
BODIES: Final[dict[str, Any]] = {
    "/v1/users/batch": {"users": ["u"]},
    "/v1/profiles": {"user_id": "u"},
    "/v1/tokens": {"user_id": "u"},
    "/v1/visitors": {},
    "/v1/events": {"events": [{"type": "click", "user_id": "u", "occurred_at": NOW, "tags": ["home"]}]},
    "/v1/recommendations": {},
    "/v1/feedback": {"events": [{"user_id": "u", "occurred_at": NOW, "channel": "web", "action": "shown", "items": ["item-01"]}]},
}


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Replica]:
    log = api.new_log()
    api.put_items(log)
    for user in ("u", "v"):
        api.put_list(log, user)
        api.put_state(log, user)
    api.mark_erased(log, "w", NOW)
    async with replica(
        log,
        tmp_path / "store",
        failures_per_minute=0,
        requests_per_s_of_a_user=0,
        requests_per_s_of_an_address=0,
        guests=True,
        live=True,
        oidc_jwks=str(oidc.write_keys(tmp_path / "jwks.json", rsa=oidc.RSA)),
        **oidc.OIDC,
    ) as started:
        yield started


async def every_credential(running: Replica) -> dict[str, dict[str, str]]:
    """The headers of each kind."""
    made: dict[str, str] = {}
    for scope in Scope:
        made[scope.value], last = api.put_key(running.log, scope)
    made["expired key"], _ = api.put_key(running.log, Scope.ADMIN, expires_at=NOW - 1)
    made["public in two"] = made["admin"].replace("isk_", "isk_public_")
    made["revoked key"], revoked = api.put_key(running.log, Scope.ADMIN)
    running.log.append(TOPICS.api_keys, revoked.key_id, None)
    _, last = api.put_key(running.log, Scope.READ)
    await running.until(lambda: is_known(running, last.key_id))
    half, foreign = made["admin"].rsplit("_", 1)[0], f"{made['admin'][:-4]}0000"
    made |= {"half a key": half, "foreign key": foreign}
    signer = running.parts.api.signer
    own, others, dead, early = (
        sign_token(signer, UserToken(user, NOW - age, NOW + lives))
        for user, age, lives in (("u", 0, 3_600_000), ("v", 0, 3_600_000), ("u", 3_600_000, -1), ("w", 1, 3_600_000))
    )
    made |= {"own token": own, "another's token": others, "expired token": dead, "token from before the erasure": early}
    made |= {PERSON + scope: oidc.token(scope=scope) for scope in KEYS}
    made["ended token of a person"] = oidc.token(exp=NOW // 1_000 - 60)
    headers = {kind: {"Authorization": f"Bearer {credential}"} for kind, credential in made.items()}
    headers |= {"nothing": {"Authorization": ""}, "no bearer": {"Authorization": "Bearer"}}
    headers["basic"] = {"Authorization": f"Basic {made['admin']}"}
    for kind, sent_along in (("own", own), ("another's", others), ("dead", dead)):
        name = "public and dead token" if kind == "dead" else f"public and {kind} token"
        headers[name] = {**headers["public"], USER_TOKEN_HEADER: sent_along}
    return headers


async def is_known(running: Replica, key_id: str) -> bool:
    return key_id in {key.key_id for key in running.parts.api.keys.all()}


async def answer_of(running: Replica, method: str, path: str, headers: dict[str, str]) -> Any:
    """The answer to a request for `u`. A stream would never end by itself: here it ends as soon as it was let in."""
    url = path.replace("{user_id}", "u").replace("{until_ms}", "0").replace("{name}", "base.css")
    running.parts.api.changes.ended = method == "GET" and path.endswith("/events")
    return await running.client.request(method, url, json=BODIES.get(path) if method == "POST" else None, headers=headers)


def expected(path: str, kind: str, admitted: frozenset[str]) -> int:
    """200 stands for any success. A person has the rights of a key with the same scope, but never those of a page's key."""
    as_key = kind.removeprefix(PERSON) if kind in PEOPLE - {PERSON + "public"} else kind
    if admitted & {kind, as_key}:
        return 200
    if kind in UNKNOWN | DEAD_TOKENS:
        return 401
    if "/me/" in path:  # keys open no route of tokens, whatever is sent along
        return 401
    if kind in TOKENS:  # another user's token is known where users' tokens open
        return 403 if TOKENS & admitted else 401
    if kind == "public and dead token" and "public" in admitted | ({"public"} if path in {"/v1/events", "/v1/feedback"} else set()):
        return 401
    return 403


def test_the_table_names_every_route() -> None:
    """And the application has no other."""
    have = {
        (method, path.replace(":str", "").replace(":int", ""))
        for one in ROUTES
        for path in one.paths
        for method in one.http_methods
        if method not in {"OPTIONS", "HEAD"}
    }
    assert have == set(ADMITTED)


@pytest.mark.parametrize(("method", "path"), ADMITTED)
async def test_a_route_opens_for_what_the_table_says(running: Replica, method: str, path: str) -> None:
    """Each kind: none, wrong, ended and revoked ones, each scope, users' tokens, a public key with and without one."""
    credentials = await every_credential(running)
    assert set(credentials) == OPEN
    admitted = ADMITTED[method, path]
    for kind, headers in credentials.items():
        answer = await answer_of(running, method, path, headers)
        status = 200 if answer.status_code < 300 else answer.status_code
        assert status == expected(path, kind, admitted), (kind, answer.status_code, answer.text)
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["status"] == status
            assert ("www-authenticate" in answer.headers) == (status == 401)


def in_a_body(headers: dict[str, str]) -> dict[str, str]:
    """The credentials of a beacon that presents what these headers do."""
    scheme, _, presented = headers["Authorization"].partition(" ")
    along = headers.get(USER_TOKEN_HEADER)
    if presented.startswith("ist."):
        return {"user_token": presented}
    return {"key": presented if scheme == "Bearer" else headers["Authorization"], **({"user_token": along} if along else {})}


@pytest.mark.parametrize("path", [path for method, path in ADMITTED if method == "POST"])
async def test_a_beacon_opens_for_what_the_table_says(running: Replica, path: str) -> None:
    """Each kind in the body: it opens what it opens in headers, but for secret keys and people, whom no beacon stands for."""
    by_beacon = BY_BEACON.get(path)
    for kind, headers in (await every_credential(running)).items():
        content = msgspec.json.encode({**BODIES[path], "credentials": in_a_body(headers)})
        sent_as = {"Content-Type": "text/plain;charset=UTF-8"}
        request = running.client.build_request("POST", path, content=content, headers=sent_as)
        del request.headers["Authorization"]
        answer = await running.client.send(request)
        status = 200 if answer.status_code < 300 else answer.status_code
        assert status == (401 if by_beacon is None else expected(path, kind, by_beacon)), (kind, answer.status_code, answer.text)


async def test_a_token_shows_its_own_users_list(running: Replica) -> None:
    """Whoever else is named in the request."""
    credentials = await every_credential(running)
    for kind, user in (("own token", "u"), ("another's token", "v")):
        for more in ({}, {USER_TOKEN_HEADER: credentials["own token"]["Authorization"].removeprefix("Bearer ")}):
            mine = await running.get("/v1/me/recommendations?user_id=u", headers={**credentials[kind], **more})
            assert mine.json()["user_id"] == user
