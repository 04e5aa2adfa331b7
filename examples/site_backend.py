"""A site's backend: it makes tokens for the users it has logged in, and serves a page with the snippet (docs/guides/web-pages)."""

from html import escape
from os import environ
from string import Template
from typing import Any

from httpx import AsyncClient
from litestar import Litestar, Request, Response, get, post
from litestar.middleware.session.server_side import ServerSideSessionConfig

PAGE = Template("""<!doctype html><html lang="en"><title>Our shop</title><script src="$api/snippet.js" data-key="$key"></script>
<button id="agree" onclick="isthmus.consent(true)">Recommend by my clicks</button><ol id="list"></ol>
<button id="dog" onclick="isthmus.click(['pets', 'dog'])">Dog insurance</button>
<script data-user="$user">const user = document.currentScript.dataset.user;
async function token() {
  const answer = await fetch("/token", {method: "POST"});
  if (!answer.ok) throw new Error(`no token: $${answer.status}`);
  return answer.json();
}
if (user) isthmus.user(user, token);
isthmus.recommendations("front page", (list) => document.getElementById("list").replaceChildren(
  ...(list?.items ?? []).map(({item, name}) =>
    Object.assign(document.createElement("li"), {textContent: name ?? item}))));</script>""")


def site(api: str = "http://localhost:8080", log_in: str = "c-17") -> Litestar:
    """`log_in` stands for your own log-in: whoever posts to /login becomes this user."""
    isthmus = AsyncClient(base_url=api, headers={"Authorization": f"Bearer {environ['ISTHMUS_TOKENS_KEY']}"})  # scope `tokens`

    @post("/login")
    async def login(request: Request[Any, Any, Any]) -> None:
        request.set_session({"user": log_in})

    @post("/token")
    async def token(request: Request[Any, Any, Any]) -> Response[bytes]:
        if not (user := request.session.get("user")):
            return Response(b"{}", status_code=401)
        made = await isthmus.post("/v1/tokens", json={"user_id": user})
        return Response(made.content, status_code=made.status_code)

    @get("/", media_type="text/html")
    async def page(request: Request[Any, Any, Any]) -> str:
        return PAGE.substitute(api=api, key=environ["ISTHMUS_PUBLIC_KEY"], user=escape(request.session.get("user", "")))

    return Litestar([login, token, page], middleware=[ServerSideSessionConfig().middleware], on_shutdown=[isthmus.aclose])
