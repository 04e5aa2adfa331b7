"""Tokens of an identity provider: what opens the API, what does not, and how its keys are replaced."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from stream.api.api_keys import Scope
from stream.api.oidc import Oidc, Provider
from stream.metrics import Metrics
from stream.process_settings import ApiSettings
from stream.services.api import now_ms
from tests import api
from tests.api import Replica, replica
from tests.oidc import AUDIENCE, EC, ISSUER, OIDC, OTHER_RSA, RSA, jwk, token, write_keys

NOW_S = int(time.time())


def verifier(jwks: Path | str, claim: str = "scope", prefix: str = "", **more: Any) -> Oidc:
    provider = Provider(str(jwks), ISSUER, AUDIENCE, ("RS256", "ES256"), claim, prefix)
    return Oidc(provider, Metrics(), now_ms, **more)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Replica]:
    keys = write_keys(tmp_path / "jwks.json", rsa=RSA, ec=EC)
    log = api.new_log()
    api.put_items(log)
    async with replica(log, tmp_path / "store", oidc_jwks=str(keys), failures_per_minute=0, **OIDC) as started:
        yield started


async def status_of(running: Replica, presented: str, path: str = "/v1/items") -> int:
    return int((await running.get(path, headers={"Authorization": f"Bearer {presented}"})).status_code)


@pytest.mark.parametrize(("key", "kid", "algorithm"), [(RSA, "rsa", "RS256"), (EC, "ec", "ES256")])
async def test_a_token_opens_what_its_scopes_say(running: Replica, key: Any, kid: str, algorithm: str) -> None:
    """Of either live key; a second request is answered without another verification."""
    presented = token(key, kid, algorithm)
    for _ in range(2):
        assert await status_of(running, presented) == 200
    assert await status_of(running, token(key, kid, algorithm, scope="openid")) == 403
    assert await status_of(running, token(key, kid, algorithm, aud=["other", AUDIENCE])) == 200


def public_pem() -> bytes:
    return RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def signed_with_the_public_key() -> str:
    """HS256 with the text of the public key, which everybody has, as its secret (RFC 8725, section 2.1)."""
    import base64
    import hmac

    _, claims, _ = token(exp=NOW_S + 86_400).split(".")
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT","kid":"rsa"}').rstrip(b"=").decode()
    signature = hmac.digest(public_pem(), f"{header}.{claims}".encode(), "sha256")
    return f"{header}.{claims}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


lasting = partial(token, exp=NOW_S + 86_400)
"""They are made when the module is read, and must not have ended when the suite comes to them."""
BROKEN = {
    "no signature": jwt.encode(
        {"sub": "a", "iss": ISSUER, "aud": AUDIENCE, "exp": NOW_S + 86_400, "iat": NOW_S}, "", "none", {"kid": "rsa"}
    ),
    "the public key as a secret": signed_with_the_public_key(),
    "a foreign key": lasting(OTHER_RSA),
    "an unknown key": lasting(kid="gone"),
    "no key id": lasting(kid=None),
    "a key of another kind": lasting(EC, "rsa", "ES256"),
    "another algorithm": lasting(algorithm="PS256"),
    "another issuer": lasting(iss="https://id.example.evil"),
    "another audience": lasting(aud="other"),
    "no audience": lasting(aud=None),
    "no end": token(exp=None),
    "ended": token(exp=NOW_S - 60),
    "not yet": lasting(nbf=NOW_S + 86_400),
    "no subject": lasting(sub=None),
    "an endless number": token(exp=10**400),
    "its own key set": lasting(OTHER_RSA, headers={"jku": "https://evil.example/jwks", "jwk": jwk(OTHER_RSA, "rsa")}),
    "cut": lasting()[:-4],
    "too long": lasting(padding="x" * 9_000),
    "no claims": "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9..",
    "deep": "ey" + "W" * 4_000 + ".e.e",
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_token_that_is_not_the_providers_opens_nothing(running: Replica, kind: str) -> None:
    """401 for each, and never an error of the API."""
    assert await status_of(running, BROKEN[kind]) == 401


async def test_a_token_that_has_ended_opens_nothing_although_it_was_verified(tmp_path: Path) -> None:
    """The remembered result ends with it."""
    now = [time.time()]
    provider = Provider(str(write_keys(tmp_path / "jwks.json", rsa=RSA)), ISSUER, AUDIENCE, ("RS256",), "scope", "")
    oidc = Oidc(provider, Metrics(), lambda: int(now[0] * 1_000))
    presented = token(exp=int(now[0]) + 100)
    assert await oidc.caller_of(presented) is not None
    now[0] += 200
    assert await oidc.caller_of(presented) is None


async def test_a_replaced_key_is_found_and_a_removed_one_opens_nothing(tmp_path: Path) -> None:
    """Without a restart: an unknown key id has the keys read again, at most every ten seconds, whoever sends it."""
    path, clock = write_keys(tmp_path / "jwks.json", rsa=RSA), [0.0]
    oidc = verifier(path, monotonic=lambda: clock[0])
    old, new = token(), token(OTHER_RSA, "next")
    assert await oidc.caller_of(old) is not None
    write_keys(path, rsa=RSA, next=OTHER_RSA)
    assert await oidc.caller_of(new) is None
    clock[0] = 11.0
    assert await oidc.caller_of(new) is not None
    assert await oidc.caller_of(old) is not None
    write_keys(path, next=OTHER_RSA)
    await oidc.read()
    assert await oidc.caller_of(old) is None
    assert await oidc.caller_of(new) is not None


@pytest.mark.parametrize("broken", ["", "{", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "AAAA", "kid": "rsa"}]}', None])
async def test_keys_that_cannot_be_read_leave_the_former_ones(tmp_path: Path, broken: str | None) -> None:
    """A provider that is away, or says nonsense, shuts nobody out; a key of a secret is none."""
    path = write_keys(tmp_path / "jwks.json", rsa=RSA)
    oidc = verifier(path)
    assert await oidc.caller_of(token()) is not None
    if broken is None:
        path.unlink()
    else:
        path.write_text(broken)
    await oidc.read()
    assert await oidc.caller_of(token(sub="another")) is not None


async def test_before_the_first_keys_the_api_says_so(tmp_path: Path) -> None:
    """503: the token may be good. API keys work meanwhile."""
    jwks = str(tmp_path / "later.json")
    async with replica(api.new_log(), tmp_path / "store", oidc_jwks=jwks, **OIDC) as started:
        assert await status_of(started, token()) == 503
        assert (await started.get("/v1/items")).status_code == 200


@asynccontextmanager
async def provider_at(answer: bytes) -> AsyncIterator[tuple[str, list[int]]]:
    """A provider on a port; gives its URL, and a number for each request."""
    asked: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.append(1)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks", asked


async def test_keys_are_read_by_url_and_unknown_ones_are_not_asked_for_again_and_again(tmp_path: Path) -> None:
    """A hundred made-up key ids cost the provider one request."""
    body = write_keys(tmp_path / "jwks.json", rsa=RSA).read_bytes()
    async with provider_at(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as (url, asked):
        oidc = verifier(url)
        assert await oidc.caller_of(token()) is not None
        for number in range(100):
            assert await oidc.caller_of(token(kid=f"made-up-{number}")) is None
        assert len(asked) == 1


async def test_a_redirect_is_not_followed() -> None:
    """It could lead to anybody's keys over plain HTTP."""
    async with provider_at(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n") as (url, asked):
        oidc = verifier(url)
        await oidc.read()
        assert len(asked) == 1
        assert not oidc._keys


@pytest.mark.parametrize(
    ("claim", "prefix", "claims", "scopes"),
    [
        ("scope", "", {"scope": "openid read feedback unknown"}, {Scope.READ, Scope.FEEDBACK}),
        ("scp", "", {"scp": ["write"]}, {Scope.WRITE}),
        ("realm_access.roles", "isthmus:", {"realm_access": {"roles": ["isthmus:read", "write"]}}, {Scope.READ}),
        ("https://x.example/scopes", "", {"https://x.example/scopes": ["admin"]}, {Scope.ADMIN}),
        ("scope", "", {"scope": "public"}, set()),
        ("scope", "", {"scope": 7}, set()),
        ("a.b", "", {"a": ["b"]}, set()),
    ],
)
async def test_scopes_come_from_the_claim_that_is_set(
    tmp_path: Path, claim: str, prefix: str, claims: dict[str, Any], scopes: set[Scope]
) -> None:
    """A list or a text; what is no scope of this API is passed over, and no person is a page's key."""
    oidc = verifier(write_keys(tmp_path / "jwks.json", rsa=RSA), claim, prefix)
    caller = await oidc.caller_of(token(**{"scope": None, **claims}))
    assert caller is not None
    assert set(caller.scopes) == scopes
    assert "agent-7" not in caller.name


@pytest.mark.parametrize(
    "wrong",
    [
        {"oidc_jwks": "https://id.example/jwks", "oidc_issuer": ISSUER},
        {"oidc_jwks": "https://id.example/jwks", "oidc_audience": AUDIENCE},
        {"oidc_jwks": "http://id.example/jwks", **OIDC},
        {"oidc_algorithms": ("HS256",)},
        {"oidc_algorithms": ("none",)},
        {"oidc_algorithms": ()},
    ],
)
def test_settings_that_would_let_anybody_in_are_refused(wrong: dict[str, Any]) -> None:
    """Keys over plain HTTP, tokens for anybody, secrets as keys."""
    with pytest.raises(ValidationError):
        ApiSettings(**wrong)
