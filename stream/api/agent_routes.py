"""The page of agents: the page itself, whom it shows, and the demo's token for it.

Agents log in at the identity provider, by authorization code with PKCE (RFC 7636). The page, a public client, asks the provider's
token endpoint itself, so its content security policy names that origin. Who logs out is sent to the provider's end session endpoint
by a form (OpenID Connect RP-Initiated Logout 1.0, section 2), for a URL would show the ID token.
"""

import html
from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import msgspec
from litestar import Request, Response, get, post
from litestar.params import JSONBody
from msgspec import Meta

from stream.api.answers import ListAnswer
from stream.api.api_keys import Scope
from stream.api.bodies import LIMIT
from stream.api.context import WRITING, Api, Authenticated, UsesApi, problems
from stream.api.door import LOOPBACK, SCOPE
from stream.api.ingest import check_user_id
from stream.api.page_routes import page
from stream.api.problems import ApiError
from stream.api.profile_answer import Profile
from stream.core import limits
from stream.core.events import UserId

_SCOPES: Final = (Scope.READ, Scope.FEEDBACK)


class ProfileBody(msgspec.Struct, frozen=True):
    """Whose profile and list are wanted.

    Attributes:
        user_id: The user.
        limit: Items of the list; default: the step's list length.
        placement: Where the list is shown; echoed.
    """

    user_id: UserId
    limit: Annotated[int, Meta(ge=1, le=LIMIT)] | None = None
    placement: Annotated[str, Meta(max_length=limits.ID_CHARACTERS)] | None = None


class OpenedProfile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user's profile and list.

    Attributes:
        list: What the user may be offered now, with what moved the first item where the step explains lists.
        profile: Who the user is; absent: nothing is known.
    """

    list: ListAnswer
    profile: Profile | None = None


class LogIn(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the page needs to know of the deployment.

    Attributes:
        length: Items that it shows.
        is_demo: Whether it asks the demo for its token.
        issuer: The provider; absent: nobody can log in.
        authorize_url: Its authorization endpoint.
        token_url: Its token endpoint.
        end_session_url: Its end session endpoint; absent: its session goes on.
        client_id: The page's id there.
        scope: What the page asks for.
        parameters: Further parameters of the authorization request.
    """

    length: int
    is_demo: bool = False
    issuer: str | None = None
    authorize_url: str | None = None
    token_url: str | None = None
    end_session_url: str | None = None
    client_id: str | None = None
    scope: str = ""
    parameters: Mapping[str, str] = {}


class DemoToken(msgspec.Struct, frozen=True):
    """What the demo's agent gets.

    Attributes:
        token: What the page presents.
        examples: Some users.
    """

    token: str
    examples: tuple[str, ...]


@get("/agent", include_in_schema=False)
async def agent_page(api: UsesApi) -> Response[bytes]:
    """The page of agents. It holds no data."""
    made = log_in_of(api)
    content = html.escape(msgspec.json.encode(made).decode())
    connect = () if made.token_url is None else (_origin(made.token_url),)
    forms = () if made.end_session_url is None else ("'self'", _origin(made.end_session_url))
    return page("agent.html", log_in=content, connect=connect, forms=forms)


def log_in_of(api: Api) -> LogIn:
    own = api.settings
    if api.demo_agent is not None or own.oidc_client_id is None:
        return LogIn(api.list_length, api.demo_agent is not None)
    scope = " ".join(["openid", *(own.oidc_scope_prefix + one.value for one in _SCOPES)])
    return LogIn(
        length=api.list_length,
        issuer=own.oidc_issuer,
        authorize_url=own.oidc_authorize_url,
        token_url=own.oidc_token_url,
        end_session_url=own.oidc_end_session_url,
        client_id=own.oidc_client_id,
        scope=own.oidc_login_scope or scope,
        parameters=own.oidc_login_parameters,
    )


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@post("/v1/profiles", status_code=200, opt={SCOPE: Scope.READ}, responses=problems(*WRITING), summary="Open a profile")
async def open_profile(api: UsesApi, request: Authenticated, data: JSONBody[ProfileBody]) -> OpenedProfile:
    """A user's profile and list in one answer. The id is in the body, so it is in no URL, and may hold any character."""
    check_user_id(data.user_id, "user_id")
    api.audit.note(request.auth, data.user_id, "profile")
    found = await api.service.profile(data.user_id)
    placement = api.placement(data.placement)
    (made,) = await api.service.lists([data.user_id], data.limit or api.list_length, placement, explain=True)
    api.count(made)
    return OpenedProfile(made, found)


@post("/demo/token", status_code=200, include_in_schema=False)
async def demo_token(api: UsesApi, request: Request[Any, Any, Any]) -> DemoToken:
    """The token of the demo's agent, for the demo's own page. Its users are synthetic; any other page is refused all the same."""
    assert api.demo_agent is not None  # the route is the demo's alone
    origin = request.headers.get("origin")
    if request.url.hostname not in LOOPBACK or origin not in {None, f"{request.url.scheme}://{request.url.netloc}"}:
        raise ApiError(403, "the demo gives its token to its own page alone, on the loopback address")
    return DemoToken(api.demo_agent.key, api.demo_agent.examples())
