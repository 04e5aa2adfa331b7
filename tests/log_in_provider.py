"""An identity provider at which browsers log in, for tests: authorization code with PKCE, as strict as a real one.

It shows no form: whoever comes is logged in. What it answers can be bent.
"""

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode

from litestar import Litestar, Request, Response, get, post
from litestar.config.cors import CORSConfig
from litestar.response import Redirect

from tests import oidc
from tests.serving import listening, serving, url_of

CLIENT = "agent-page"


@dataclass
class LogInProvider:
    """A running provider.

    Attributes:
        url: Where it is.
        name: Who logs in.
        scope: What the tokens may do.
        expires_in: How long an access token is said to live, s.
        bent: Parameters that replace those of the redirect back; None takes one away.
        nonce: Replaces the nonce of ID tokens.
        asked: The authorization requests, and those for tokens.
        ended: What came to its end session endpoint.
    """

    url: str
    name: str = "Ada Agent"
    scope: str = "openid read feedback"
    expires_in: int = 300
    bent: dict[str, str | None] = field(default_factory=dict)
    nonce: str | None = None
    asked: list[dict[str, str]] = field(default_factory=list)
    ended: list[dict[str, str]] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    renewals: set[str] = field(default_factory=set)

    @property
    def settings(self) -> dict[str, Any]:
        """Of an API whose agents log in here."""
        return {
            **oidc.OIDC,
            "oidc_client_id": CLIENT,
            "oidc_authorize_url": f"{self.url}/authorize",
            "oidc_token_url": f"{self.url}/token",
            "oidc_login_parameters": {"audience": oidc.AUDIENCE},
        }

    def authorize(self, asked: dict[str, str]) -> str:
        """Returns where to go back to."""
        self.asked.append(asked)
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert asked["audience"] == oidc.AUDIENCE
        assert asked["code_challenge_method"] == "S256"
        assert min(len(asked[name]) for name in ("state", "nonce", "code_challenge")) >= 22  # 128 bits
        code = secrets.token_urlsafe()
        self.codes[code] = asked
        answer = {"code": code, "state": asked["state"], "iss": oidc.ISSUER, **self.bent}
        return f"{asked['redirect_uri']}?{urlencode({name: value for name, value in answer.items() if value is not None})}"

    def tokens(self, asked: dict[str, str]) -> dict[str, Any] | None:
        """Returns the tokens for a code or a renewal, once; None where the request is wrong."""
        self.asked.append(asked)
        if asked.get("client_id") != CLIENT:
            return None
        if asked.get("grant_type") == "refresh_token":
            if asked.get("refresh_token") not in self.renewals:
                return None
            self.renewals.remove(asked["refresh_token"])
            return self._issued()
        begun = self.codes.pop(asked.get("code", ""), None)
        if begun is None or begun["redirect_uri"] != asked.get("redirect_uri"):
            return None
        digest = hashlib.sha256(asked.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != begun["code_challenge"]:
            return None
        nonce = begun["nonce"] if self.nonce is None else self.nonce
        return {**self._issued(), "id_token": oidc.token(aud=CLIENT, nonce=nonce, name=self.name, scope=None)}

    def _issued(self) -> dict[str, Any]:
        renewal = secrets.token_urlsafe()
        self.renewals.add(renewal)
        access = oidc.token(scope=self.scope, jti=secrets.token_hex(8))
        return {"access_token": access, "token_type": "Bearer", "expires_in": self.expires_in, "refresh_token": renewal}


@asynccontextmanager
async def log_in_provider(page_origin: str) -> AsyncIterator[LogInProvider]:
    """Serves a provider that admits one page to its token endpoint."""
    port = listening()
    provider = LogInProvider(url_of(port))

    @get("/authorize")
    async def authorize(request: Request[Any, Any, Any]) -> Redirect:
        return Redirect(provider.authorize(dict(request.query_params.items())))

    @post("/token")
    async def token(request: Request[Any, Any, Any]) -> Response[Any]:
        asked = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        made = provider.tokens(asked)
        return Response({"error": "invalid_grant"}, status_code=400) if made is None else Response(made, status_code=200)

    @post("/end")
    async def end(request: Request[Any, Any, Any]) -> Redirect:
        provider.ended.append({name: values[0] for name, values in parse_qs((await request.body()).decode()).items()})
        return Redirect(provider.ended[-1]["post_logout_redirect_uri"], status_code=303)

    app = Litestar([authorize, token, end], cors_config=CORSConfig(allow_origins=[page_origin]), openapi_config=None)
    async with serving(app, port):
        yield provider
