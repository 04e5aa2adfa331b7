"""A site's backend: it makes tokens for the users it has logged in, and forwards what the snippet asks of the API.

ISTHMUS_TOKENS_KEY=isk_... ISTHMUS_PUBLIC_KEY=isk_... uvicorn --factory examples.site_backend:site

The key with the scope `tokens` stays here; the one with the scope `public` stands in the page.
"""

import os
import secrets
from collections.abc import AsyncIterator
from html import escape
from typing import Any

import httpx
from litestar import Litestar, Request, Response, get, post, route
from litestar.response import Stream

FORWARDED = ["/snippet.js", "/v1/visitors", "/v1/events", "/v1/feedback", "/v1/me/events", "/v1/me/recommendations"]
PASSED = {"accept", "authorization", "content-type", "isthmus-user-token", "last-event-id", "retry-after"}
PAGE = """<!doctype html><html lang="en"><title>Our shop</title>
<script src="/snippet.js" data-key="{key}" defer></script><script src="/site.js" data-user="{user}" defer></script>
<button id="agree">Recommend by my clicks</button><button id="dog">Dog insurance</button><ol id="list"></ol>"""
SCRIPT = """const user = document.currentScript.dataset.user, at = (id) => document.getElementById(id);
if (user) isthmus.user(user, async () => (await fetch("/token", {method: "POST"})).json());
at("agree").onclick = () => isthmus.consent(true);
at("dog").onclick = () => isthmus.click(["pets", "dog"]);
isthmus.recommendations("front page", (list) => at("list").replaceChildren(...list.items.map(({item, name}) =>
  Object.assign(document.createElement("li"), {textContent: name ?? item}))));"""


def site(url: str = "http://localhost:8080", log_in: str = "c-17") -> Litestar:
    """`log_in` stands for your own log-in: whoever opens /login becomes this user."""
    key, public_key = os.environ["ISTHMUS_TOKENS_KEY"], os.environ["ISTHMUS_PUBLIC_KEY"]
    api, users = httpx.AsyncClient(base_url=url, timeout=httpx.Timeout(10, read=None)), dict[str, str]()

    def user_of(request: Request[Any, Any, Any]) -> str:
        return users.get(request.cookies.get("session", ""), "")

    @post("/login", status_code=204)
    async def login() -> Response[None]:
        answer, session = Response(None), secrets.token_urlsafe()
        users[session] = log_in
        answer.set_cookie("session", session, httponly=True, samesite="strict")  # and secure=True, behind TLS
        return answer

    @post("/token")
    async def token(request: Request[Any, Any, Any]) -> Response[Any]:
        if not (user := user_of(request)):
            return Response({"detail": "log in first"}, status_code=401)
        made = await api.post("/v1/tokens", json={"user_id": user}, headers={"Authorization": f"Bearer {key}"})
        return Response(made.json(), status_code=made.status_code)

    @get("/", media_type="text/html")
    async def page(request: Request[Any, Any, Any]) -> str:
        return PAGE.format(key=escape(public_key), user=escape(user_of(request)))

    @get("/site.js", media_type="text/javascript")
    async def script() -> str:
        return SCRIPT

    @route(FORWARDED, http_method=["GET", "POST"])
    async def forward(request: Request[Any, Any, Any]) -> Stream:
        headers = {name: value for name, value in request.headers.items() if name in PASSED} | {"accept-encoding": "identity"}
        headers["x-forwarded-for"] = request.client.host if request.client else ""  # believed where api.trusted_proxies names us
        asked = api.build_request(request.method, request.url.path, headers=headers, content=await request.body())
        answer = await api.send(asked, stream=True)

        async def parts() -> AsyncIterator[bytes]:
            try:
                async for part in answer.aiter_raw():
                    yield part
            finally:
                await answer.aclose()

        kept = {name: value for name, value in answer.headers.items() if name in PASSED}
        return Stream(parts(), status_code=answer.status_code, headers=kept)

    return Litestar([login, token, page, script, forward], on_shutdown=[api.aclose])
