"""The door: keys and tokens, bounds, hostile paths and bodies. Which credential opens which route is in test_api_access."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from stream.api.api_keys import ApiKeys, Scope, encode_api_key, make_api_key
from stream.api.door import Buckets
from stream.api.signing import Signer
from stream.api.user_tokens import UserToken, read_token, sign_token
from stream.services.api import now_ms
from tests import api
from tests.api import ITEMS, NOW, TOPICS, Replica, replica


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Replica]:
    log = api.new_log()
    api.put_items(log)
    api.put_list(log, "u")
    api.put_state(log, "u")
    async with replica(log, tmp_path, failures_per_minute=0) as started:
        yield started


async def with_key(running: Replica, *scopes: Scope, expires_at: int | None = None) -> str:
    secret, key = api.put_key(running.log, *scopes, expires_at=expires_at)
    await running.until(lambda: is_known(running, key.key_id))
    return secret


async def is_known(running: Replica, key_id: str) -> bool:
    return key_id in {key.key_id for key in running.parts.api.keys.all()}


@pytest.mark.parametrize(
    "path", ["/schema", "/schema/swagger", "/schema/redoc", "/schema/openapi.json", "/schema/oauth2-redirect.html"]
)
async def test_no_page_of_the_openapi_document_is_served(running: Replica, path: str) -> None:
    """It would need no key and load scripts from a CDN."""
    assert (await running.get(path)).status_code == 404


async def token_of(running: Replica, user: str, **more: Any) -> str:
    answer = await running.client.post("/v1/tokens", json={"user_id": user, **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["token"])


def test_a_token_that_was_changed_or_has_ended_opens_nothing() -> None:
    """Nor one that another secret signed; a replaced secret still verifies."""
    signer = Signer([api.TOKEN_SECRET.encode()])
    live = UserToken("u", NOW, NOW + 60_000)
    text = sign_token(signer, live)
    assert read_token(signer, text, NOW) == live
    assert read_token(Signer([b"y" * 32, api.TOKEN_SECRET.encode()]), text, NOW) == live
    _, payload, signature = text.split(".")
    _, foreign, _ = sign_token(signer, UserToken("v", NOW, NOW + 60_000)).split(".")
    broken = [
        sign_token(Signer([b"x" * 32]), live),
        f"ist.{foreign}.{signature}",
        f"ist.{payload}.",
        f"ist.{payload}.{signature}é",
        f"isk.{payload}.{signature}",
        "ist..",
        "",
    ]
    assert [read_token(signer, one, NOW) for one in broken] == [None] * len(broken)
    assert read_token(signer, text, NOW + 60_000) is None
    assert read_token(Signer([]), text, NOW) is None
    with pytest.raises(ValueError, match="32 bytes"):
        Signer([b"short"])


async def test_a_token_lives_no_longer_than_the_setting_allows(running: Replica) -> None:
    """Fifteen minutes unless it asks for less."""
    for asked, lives in ((60, 60), (10**6, 900)):
        token = await token_of(running, "u", lifetime_s=asked)
        stated = read_token(running.parts.api.signer, token, NOW)
        assert stated is not None
        assert stated.expires_at - stated.issued_at == lives * 1_000


async def test_tokens_made_before_an_erasure_are_refused(running: Replica) -> None:
    """By the marker that the erasure leaves; a new token of the same user opens the stranger's list."""
    token = await token_of(running, "u")
    api.mark_erased(running.log, "u", now_ms())
    await running.settled()
    assert (await running.get("/v1/me/recommendations", headers={"Authorization": f"Bearer {token}"})).status_code == 401
    await asyncio.sleep(0.005)
    fresh = await token_of(running, "u")
    mine = await running.get("/v1/me/recommendations", headers={"Authorization": f"Bearer {fresh}"})
    assert mine.json()["fallback"] == "catalogue"


async def test_requests_of_one_user_are_bounded(tmp_path: Path) -> None:
    """However many tokens the user's browsers hold."""
    async with replica(api.new_log(), tmp_path, requests_per_s_of_a_user=1) as started:
        statuses = []
        for _ in range(6):
            token = await token_of(started, "u")
            mine = await started.get("/v1/me/recommendations", headers={"Authorization": f"Bearer {token}"})
            statuses.append(mine.status_code)
    assert statuses == [200] * 4 + [429] * 2


async def test_without_a_secret_no_token_is_made(tmp_path: Path) -> None:
    """The message names the setting."""
    async with replica(api.new_log(), tmp_path, token_secrets=()) as started:
        answer = await started.client.post("/v1/tokens", json={"user_id": "u"})
        assert answer.status_code == 503
        assert "api.token_secrets" in answer.text


async def test_a_revoked_key_opens_nothing(running: Replica) -> None:
    """Within the ten seconds that the follower may take; here at once."""
    secret, key = api.put_key(running.log, Scope.READ)
    await running.until(lambda: is_known(running, key.key_id))
    running.log.append(TOPICS.api_keys, key.key_id, None)
    await running.until(lambda: is_refused(running, secret))


async def is_refused(running: Replica, secret: str) -> bool:
    answer = await running.get("/v1/items", headers={"Authorization": f"Bearer {secret}"})
    return bool(answer.status_code == 401)


async def test_the_topic_holds_no_secret(running: Replica) -> None:
    """Only a hash, and nothing of it in the answer to a wrong key."""
    secret, _ = api.put_key(running.log, Scope.READ)
    held = b"".join(record.value or b"" for record in running.log.topics[TOPICS.api_keys].partitions[0].records)
    assert secret.rsplit("_", 1)[1].encode() not in held


async def test_keys_are_found_by_the_whole_secret_and_end_on_time() -> None:
    """Neither a key's public part nor another's secret is enough."""
    keys = ApiKeys()
    secret, key = make_api_key("a", [Scope.READ], NOW, NOW + 1_000)
    other, other_key = make_api_key("b", [Scope.READ], NOW)
    for one in (key, other_key):
        keys._add(encode_api_key(one))
    mixed = "_".join([*secret.split("_")[:2], other.split("_")[2]])
    assert keys.find(secret, NOW) == key
    assert [keys.find(text, NOW) for text in (mixed, key.key_id, f"isk_{key.key_id}_", f"isk_{key.key_id}_é")] == [None] * 4
    assert keys.find(secret, NOW + 1_000) is None


async def test_a_key_of_this_process_opens_though_no_topic_holds_it() -> None:
    """Also after the topic was read again; it ends like any other."""
    secret, key = make_api_key("own", [Scope.READ], NOW, NOW + 1_000)
    keys = ApiKeys((key,))
    await keys.on_records([], replace=True)
    assert keys.find(secret, NOW) == key
    assert keys.is_live(key, NOW)
    assert keys.find(secret, NOW + 1_000) is None
    assert not keys.is_live(key, NOW + 1_000)


PATHS = [
    "/v1/users/a%2Frecommendations",
    "/v1/users/u%2F/profile",
    "/v1/users/u%5C/profile",
    "/v1/users/%2E%2E/profile",
    "/v1/users/u%00/profile",
    "/v1/users/u%0D%0AX-Evil:1/profile",
    "/v1/users//profile",
    "/v1/users/u/profile/",
    "/v1/users/%FF/profile",
]


@pytest.mark.parametrize("path", PATHS)
def test_an_ambiguous_path_reaches_no_user(path: str) -> None:
    """Proxies and routers differ in how they read it; here it is refused as it was sent."""
    from stream.api.problems import is_ambiguous

    assert is_ambiguous(path.encode())


@pytest.mark.parametrize("path", ["/v1/users/a%2Fb/profile", "/v1/users/a%2Frecommendations", "/v1/users/%2e%2e%2fx", "//v1/items"])
@pytest.mark.parametrize("method", ["GET", "DELETE", "POST"])
async def test_an_ambiguous_path_is_a_bad_request_wherever_a_router_would_send_it(running: Replica, method: str, path: str) -> None:
    """Even where no route or method fits."""
    answer = await running.client.request(method, f"http://testserver.local{path}")
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


async def test_a_user_may_have_the_name_of_a_route(running: Replica) -> None:
    """`batch` is read and erased as any other."""
    api.put_list(running.log, "batch", ITEMS[7:12])
    await running.settled()
    assert await running.items_of("batch") == list(ITEMS[7:12])
    receipt = (await running.client.delete("/v1/users/batch")).json()
    assert receipt["status_url"].startswith("/v1/users/batch/erasures/")
    assert [record.key for record in running.log.topics[TOPICS.erasures].partitions[0].records] in ([], [b"batch"])


async def test_two_unicode_forms_of_an_id_are_two_users(running: Replica) -> None:
    """No form is changed into another."""
    api.put_list(running.log, "jos\u00e9", ITEMS[7:12])
    await running.settled()
    assert await running.items_of("jos%C3%A9") == list(ITEMS[7:12])
    assert await running.items_of("jose%CC%81") == list(ITEMS[:5])


async def test_a_dot_segment_does_not_climb(running: Replica) -> None:
    """The client of these tests resolves it before it sends; a raw one is refused above."""
    assert (await running.get("/v1/users/%2e%2e%2fitems/profile")).status_code in {400, 404}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b'{"users": ["\xff"]}', 400),
        (b'{"users": ["\xed\xa0\x80"]}', 400),
        (b'{"\xff": 1}', 400),
        (b'{"users": ["\\ud800"]}', 400),
        (b'{"users": ["\\udc00"]}', 400),
        (b'{"users": ["u"], "limit": NaN}', 400),
        (b'{"users": ["u"], "limit": 1e400}', 400),
        (b'{"users": ["u"], "limit": 1' + b"0" * 400 + b"}", 400),
        (b'{"users": ["u"], "limit": -' + b"9" * 5_000 + b"}", 400),
        (b"[" * 100_000, 400),
        (b'{"users": []}', 400),
        (b'{"users": [""]}', 400),
        (b'{"users": ["' + b"x" * 129 + b'"]}', 400),
        (b'{"users": ["' + "é".encode() * 100 + b'"]}', 400),
        (b'{"users": ["u"], "limit": 0}', 400),
        (b'{"users": [' + b'"u",' * 1_000 + b'"u"]}', 400),
        (b'{"users": ["' + b"x" * 2_000_000 + b'"]}', 413),
    ],
)
async def test_a_hostile_body_is_refused_with_the_right_status(running: Replica, body: bytes, status: int) -> None:
    """Never a 500, and the store still answers."""
    answer = await running.client.post("/v1/users/batch", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert await running.items_of("u") == list(ITEMS[:5])


@pytest.mark.parametrize(("goes", "status"), [(False, 408), (True, 400)])
async def test_a_body_that_drips_is_given_up(tmp_path: Path, goes: bool, status: int) -> None:
    """408 after the set time, through the application as a server calls it. A client that goes is no error of the server."""
    sent: list[Any] = []
    last = [{"type": "http.disconnect"}] if goes else []
    parts = iter([{"type": "http.request", "body": b'{"users": [', "more_body": True}, *last])

    async def receive() -> Any:
        return next(parts, None) or await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async with replica(api.new_log(), tmp_path, body_timeout_s=0.05) as started:
        headers = [(b"authorization", started.client.headers["authorization"].encode()), (b"content-type", b"application/json")]
        path = "/v1/users/batch"
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers}
        server = {
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
            "client": ("c", 1),
            "server": ("s", 2),
            "app": started.app,
        }
        await started.app({**scope, **server, "state": {}, "extensions": {}, "asgi": {"version": "3.0"}}, receive, send)  # type: ignore[arg-type]
    assert [one["status"] for one in sent if "status" in one] == [status]


async def test_requests_of_a_key_are_bounded(tmp_path: Path) -> None:
    """429 with the time to wait; another key is not held up."""
    log = api.new_log()
    async with replica(log, tmp_path, requests_per_s=1) as started:
        statuses = [(await started.get("/v1/items")).status_code for _ in range(4)]
        other = await with_key(started, Scope.READ)
        free = await started.get("/v1/items", headers={"Authorization": f"Bearer {other}"})
        refused = await started.get("/v1/items")
    assert statuses == [200, 200, 429, 429]
    assert free.status_code == 200
    assert int(refused.headers["Retry-After"]) >= 1


async def test_guesses_of_an_address_are_bounded(tmp_path: Path) -> None:
    """After too many wrong keys the address must wait, even with a right one: or the bound would tell which is right."""
    log = api.new_log()
    async with replica(log, tmp_path, failures_per_minute=3) as started:
        wrong = {"Authorization": "Bearer isk_1_2"}
        statuses = [(await started.get("/v1/items", headers=wrong)).status_code for _ in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        assert (await started.get("/v1/items")).status_code == 429


def test_a_bucket_fills_again_and_forgets_whom_it_saw_longest_ago() -> None:
    """Rates are exact in the clock's time; memory is bounded."""
    now = 0.0
    buckets = Buckets(2, 4, lambda: now)
    assert [buckets.wait_s("a") for _ in range(4)] == [0.0] * 4
    assert buckets.wait_s("a") == pytest.approx(0.5)
    now = 0.5
    assert buckets.wait_s("a") == 0
    for number in range(10_001):
        buckets.wait_s(str(number))
    assert len(buckets._buckets) == 10_000
    assert "a" not in buckets._buckets


async def test_an_unexpected_error_tells_nothing(running: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem without the error's text; the log has it."""

    async def broken(*_: Any) -> list[None]:
        raise RuntimeError("secret-detail")

    monkeypatch.setattr(running.store, "read", broken)
    answer = await running.get("/v1/users/u/profile")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret-detail" not in answer.text
