"""Anonymous visitors, and the public key that stands in a page: with it alone nobody changes or reads what is a named user's."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.api.api_keys import Scope
from stream.api.door import USER_TOKEN_HEADER
from stream.api.signing import Signer
from stream.api.visitors import is_visitor_id, new_visitor_id
from stream.services.api import now_ms
from tests import api
from tests.api import NOW, TOPICS, Replica, replica

SIGNER = Signer([api.TOKEN_SECRET.encode()])


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Replica]:
    """A replica whose client has a public key."""
    log = api.new_log()
    api.put_items(log)
    api.put_list(log, "u")
    async with replica(log, tmp_path, failures_per_minute=0) as started:
        secret, key = api.put_key(log, Scope.PUBLIC)
        await started.until(lambda: is_known(started, key.key_id))
        started.client.headers["Authorization"] = f"Bearer {secret}"
        yield started


async def is_known(running: Replica, key_id: str) -> bool:
    return key_id in {key.key_id for key in running.parts.api.keys.all()}


async def visitor(running: Replica, **body: Any) -> Any:
    return await running.client.post("/v1/visitors", json=body)


async def click(running: Replica, user: str, headers: dict[str, str] | None = None, **fields: Any) -> int:
    event = {"type": "click", "user_id": user, "occurred_at": NOW, "tags": ["home"], **fields}
    return int((await running.client.post("/v1/events", json={"events": [event]}, headers=headers or {})).status_code)


def sent(running: Replica) -> list[bytes | None]:
    """The keys of all events that were sent."""
    topics = (TOPICS.clicks, TOPICS.purchases, TOPICS.transcripts, TOPICS.erasures)
    return [record.key for topic in topics for part in running.log.topics[topic].partitions for record in part.records]


async def test_a_visitor_gets_an_id_and_a_token_and_writes_and_reads_with_them(running: Replica) -> None:
    """Two visitors have two ids; the id is the key of what it sends."""
    first, second = (await visitor(running)).json(), (await visitor(running)).json()
    assert first["user_id"] != second["user_id"]
    assert await click(running, first["user_id"]) == 202
    assert sent(running) == [first["user_id"].encode()]
    mine = await running.get("/v1/me/recommendations", headers={"Authorization": f"Bearer {first['token']}"})
    assert (mine.status_code, mine.json()["user_id"]) == (200, first["user_id"])
    assert 0 < first["expires_at"] - now_ms() <= 900_000


async def test_a_visitors_token_is_renewed_with_the_id(running: Replica) -> None:
    """On any replica with the secret; a named user's id gives no token."""
    first = (await visitor(running)).json()
    again = await visitor(running, user_id=first["user_id"])
    assert (again.status_code, again.json()["user_id"]) == (201, first["user_id"])
    for other in ("u", first["user_id"][:-1], first["user_id"][:-1] + "é", "anon-" + "A" * 38, ""):
        assert (await visitor(running, user_id=other)).status_code == (403 if other else 400)


async def test_with_the_public_key_alone_nobody_changes_a_named_users_list(running: Replica) -> None:
    """Nor an id that looks like a visitor's; nothing of such a request is sent, whatever else stands in it."""
    mine = (await visitor(running)).json()["user_id"]
    forged = new_visitor_id(Signer([b"x" * 32]))
    for user in ("u", forged, mine[:-1], mine + "A", mine.upper(), "anon-"):
        assert await click(running, user) == 403
        pair = [{"type": "click", "user_id": one, "occurred_at": NOW, "tags": ["a"]} for one in (mine, user)]
        assert (await running.client.post("/v1/events", json={"events": pair})).status_code == 403
    assert sent(running) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"type": "purchase", "items": ["item-01"]},
        {"type": "transcript", "conversation_id": "c", "started_at": NOW, "sentences": [{"text": "hello"}]},
    ],
)
async def test_a_public_key_sends_clicks_alone(running: Replica, fields: dict[str, Any]) -> None:
    """A purchase would hide an item from the list; a transcript would fill the encoder's queue."""
    assert await click(running, (await visitor(running)).json()["user_id"], **fields) == 403
    assert sent(running) == []


async def test_a_token_that_is_sent_along_lets_a_page_write_for_its_user(running: Replica) -> None:
    """For this user alone, and with a live token only."""
    admin, key = api.put_key(running.log, Scope.TOKENS)
    await running.until(lambda: is_known(running, key.key_id))
    made = await running.client.post("/v1/tokens", json={"user_id": "u"}, headers={"Authorization": f"Bearer {admin}"})
    along = {USER_TOKEN_HEADER: made.json()["token"]}
    assert await click(running, "u", along) == 202
    assert await click(running, "v", along) == 403
    assert await click(running, "u", {USER_TOKEN_HEADER: made.json()["token"][:-1]}) == 401
    assert sent(running) == [b"u"]


async def beacon(running: Replica, content: Any, **headers: str) -> int:
    """What a page that closes sends: text, without a header of its own."""
    sent_as = {"Content-Type": "text/plain;charset=UTF-8", **headers}
    request = running.client.build_request("POST", "/v1/events", content=content, headers=sent_as)
    if "Authorization" not in headers:
        del request.headers["Authorization"]
    return int((await running.client.send(request)).status_code)


def events_of(user: str, key: str, **credentials: str) -> bytes:
    event = {"type": "click", "user_id": user, "occurred_at": NOW, "tags": ["home"], "event_id": "e"}
    return msgspec.json.encode({"credentials": {"key": key, **credentials}, "events": [event]})


async def test_a_beacon_writes_for_whom_its_credentials_may(running: Replica) -> None:
    """For an issued id, or the user of its token; not for others, nor where a header presents what opens nothing."""
    mine, key = (await visitor(running)).json(), running.client.headers["Authorization"].removeprefix("Bearer ")
    assert await beacon(running, events_of(mine["user_id"], key)) == 202
    assert sent(running) == [mine["user_id"].encode()]
    assert await beacon(running, events_of("u", key)) == 403
    assert await beacon(running, events_of("u", key, user_token=mine["token"])) == 403
    assert await beacon(running, events_of(mine["user_id"], key, user_token=mine["token"][:-1])) == 401
    assert await beacon(running, events_of(mine["user_id"], key), Authorization="Bearer isk_1_2") == 401
    assert await beacon(running, events_of(mine["user_id"], key), **{"Content-Type": "application/json"}) == 401
    assert len(sent(running)) == 1


async def test_a_beacon_is_bounded_before_it_is_read(running: Replica) -> None:
    """In size, which it must state, in form, and by the failures of its address."""
    key = running.client.headers["Authorization"].removeprefix("Bearer ")
    assert await beacon(running, b" " * 65_537) == 413

    async def parts() -> AsyncIterator[bytes]:
        yield events_of("u", key)

    assert await beacon(running, parts()) == 411
    for content in (b"", b"{", b"[]", b"\xff", b'{"credentials": 1}', b'{"credentials": {"key": 1}}', b"[" * 60_000):
        assert await beacon(running, content) in {400, 401}, content
    twice = events_of("u", key).replace(b'{"credentials"', b'{"credentials": {}, "credentials"', 1)
    assert await beacon(running, twice) == 400
    assert sent(running) == []


async def test_an_erased_visitor_needs_a_new_id(running: Replica) -> None:
    """The former one neither writes nor gets a token, so that nothing joins the visitor to what was erased."""
    mine = (await visitor(running)).json()["user_id"]
    api.mark_erased(running.log, mine, now_ms())
    await running.settled()
    assert (await visitor(running, user_id=mine)).status_code == 410
    assert await click(running, mine) == 403


async def test_clients_with_a_public_key_are_bounded_by_address(tmp_path: Path) -> None:
    """One page's key is everybody's: a bound by key would let one visitor shut out all others."""
    async with replica(api.new_log(), tmp_path, requests_per_s_of_an_address=1) as started:
        secret, key = api.put_key(started.log, Scope.PUBLIC)
        await started.until(lambda: is_known(started, key.key_id))
        own = {"Authorization": f"Bearer {secret}"}
        statuses = [(await started.client.post("/v1/visitors", json={}, headers=own)).status_code for _ in range(6)]
        assert statuses == [201] * 4 + [429] * 2
        assert (await started.get("/v1/items")).status_code == 200


async def test_no_id_and_no_credential_is_logged(running: Replica, caplog: pytest.LogCaptureFixture) -> None:
    """Neither of requests that succeed nor of those that are refused."""
    caplog.set_level(logging.INFO)
    made = (await visitor(running)).json()
    for token in (made["token"], made["token"][:-1]):
        await running.get("/v1/me/recommendations", headers={"Authorization": f"Bearer {token}"})
    for user in (made["user_id"], "named-user"):
        await click(running, user)
        await running.get(f"/v1/users/{user}/profile")
    own = logging.getLogger("httpx").name  # the test's client
    text = "\n".join(record.getMessage() for record in caplog.records if record.name != own)
    for secret in (made["user_id"], "named-user", made["token"], running.client.headers["Authorization"].split("_")[-1]):
        assert secret not in text


def test_an_id_survives_the_replacement_of_a_secret() -> None:
    """Two live secrets; after the second replacement visitors are new ones."""
    held = new_visitor_id(SIGNER)
    assert is_visitor_id(held, Signer([b"n" * 32, api.TOKEN_SECRET.encode()]))
    assert not is_visitor_id(held, Signer([b"n" * 32]))
    assert not is_visitor_id(held, Signer([]))


def test_another_spelling_of_an_issued_id_was_not_issued() -> None:
    """Standard base64 of the same bytes would be another user, whom nobody erases with the issued one."""
    made = (new_visitor_id(SIGNER) for _ in range(200))
    held = next(one for one in made if set(one[-16:]) & {"-", "_"})
    other = held[:-16] + held[-16:].replace("-", "+").replace("_", "/")
    assert is_visitor_id(held, SIGNER)
    assert not is_visitor_id(other, SIGNER)
