"""The ASGI application: routes, door, bounds, metrics, and the OpenAPI document."""

import asyncio
import time
from importlib.metadata import version
from typing import Any, Final

import msgspec
from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.middleware import ASGIMiddleware
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from stream.api.agent_routes import demo_token
from stream.api.context import AGE_HEADER, Api
from stream.api.door import BEACON, USER_TOKEN_HEADER, Buckets, Door, OwnPages
from stream.api.page_routes import DEMO_PAGES
from stream.api.problems import PRIVATE, ApiError, ApiRequest, problem_response
from stream.api.routes import BODIES, ROUTES
from stream.api.stream_places import KeepsPlaces
from stream.api.streams import LOOK_S
from stream.metrics import Metrics
from stream.process_settings import ApiSettings

METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})


class Observed(ASGIMiddleware):
    """Counts and times answers by route, never by path, and bounds how long a body may take."""

    scopes = (ScopeType.HTTP,)

    def __init__(self, metrics: Metrics, body_timeout_s: float) -> None:
        self._metrics = metrics
        self._body_timeout_s = body_timeout_s

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        began = time.perf_counter()
        body = _Body(receive, self._body_timeout_s)

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                body.is_answered = True
                method = scope.get("method")
                route = f"{method if method in METHODS else 'other'} {scope.get('path_template', 'unknown')}"
                self._metrics.counter("api_requests", route, str(int(message["status"]))).inc()
                self._metrics.histogram("api_request_seconds", route).observe(time.perf_counter() - began)
            await send(message)

        await next_app(scope, body.receive, noting)


class _Body:
    """Receives a body within a time. What comes after it, or after the answer began, is the client going away: that has no bound.

    Attributes:
        is_answered: Whether the answer began.
    """

    def __init__(self, receive: Receive, timeout_s: float) -> None:
        self.is_answered = False
        self._receive = receive
        self._timeout_s = timeout_s
        self._deadline = asyncio.get_running_loop().time() + timeout_s
        self._is_whole = False

    async def receive(self) -> Any:
        if self._is_whole or self.is_answered:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise ApiError(408, f"the body did not come within {self._timeout_s:g} s") from None
        if message["type"] == "http.disconnect":  # nobody reads this, and it is no error of ours
            raise ApiError(400, "the client went away before its body was whole")
        self._is_whole = not message.get("more_body", False)
        return message


async def add_private_headers(message: Message, _: Scope) -> None:
    """Adds the headers of every answer, also of preflights and unknown paths. They replace the `Vary` that CORS sets."""
    if message["type"] == "http.response.start":
        message["headers"] = [*((name, value) for name, value in message["headers"] if name.lower() != b"vary"), *PRIVATE]


def _cors(settings: ApiSettings) -> CORSConfig | None:
    """What browsers are told; None: no page of another origin may read an answer. Credentials are headers, never cookies."""
    if not settings.cors_origins:
        return None
    return CORSConfig(
        allow_origins=list(settings.cors_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", USER_TOKEN_HEADER],
        expose_headers=["ETag", AGE_HEADER, "Retry-After"],
    )


def make_app(api: Api, metrics: Metrics) -> Litestar:
    """Returns the application."""
    settings = api.settings
    door = Door(
        api.keys,
        api.signer,
        api.service,
        lambda: next(iter(api.health.wrong(api.health.ready)), None),
        api.service.clock_ms,
        Buckets(settings.requests_per_s, 2 * settings.requests_per_s),
        Buckets(settings.requests_per_s_of_a_user, 4 * settings.requests_per_s_of_a_user),
        Buckets(settings.requests_per_s_of_an_address, 4 * settings.requests_per_s_of_an_address),
        Buckets(settings.failures_per_minute / 60, settings.failures_per_minute),
        OwnPages(settings.host, settings.cors_origins) if api.insecure else None,
        api.oidc,
    )
    return Litestar(
        [*ROUTES, *(DEMO_PAGES if api.page_key else ()), *((demo_token,) if api.demo_agent else ())],
        dependencies={"api": Provide(lambda: api, sync_to_thread=False)},
        guards=[door.admit],
        request_class=ApiRequest,
        before_send=[add_private_headers],
        cors_config=_cors(settings),
        middleware=[
            Observed(metrics, settings.body_timeout_s),
            KeepsPlaces(api.places, min(LOOK_S, settings.heartbeat_s)),
        ],
        exception_handlers={Exception: problem_response},
        request_max_body_size=settings.max_body_bytes,
        openapi_config=None,
        logging_config=None,
    )


_LIST: Final = ("get", "/v1/users/{user_id}/recommendations")
_VISITOR: Final = ("post", "/v1/visitors")
_LINKS: Final[tuple[tuple[tuple[str, str], str, tuple[str, str], dict[str, Any]], ...]] = (
    (
        ("delete", "/v1/users/{user_id}"),
        "202",
        ("get", "/v1/users/{user_id}/erasures/{until_ms}"),
        {
            "parameters": {
                "path.user_id": "$request.path.user_id",
                "path.until_ms": "$response.body#/erased_until",
                "query.event_id": "$response.body#/event_id",
            }
        },
    ),
    (("get", "/v1/items"), "200", ("get", "/v1/items"), {"parameters": {"query.after": "$response.body#/next"}}),
    (
        _LIST,
        "200",
        _LIST,
        {"parameters": {"path.user_id": "$request.path.user_id", "header.If-None-Match": "$response.header.ETag"}},
    ),
    (_VISITOR, "201", _VISITOR, {"requestBody": {"user_id": "$response.body#/user_id"}}),
    (_VISITOR, "201", _LIST, {"parameters": {"path.user_id": "$response.body#/user_id"}}),
    (_VISITOR, "201", ("delete", "/v1/users/{user_id}"), {"parameters": {"path.user_id": "$response.body#/user_id"}}),
)
"""Which answer holds what another request needs: operation and status, then the other operation and how its request is made."""


def openapi_config() -> OpenAPIConfig:
    """Of the document in `deploy/openapi.json`. It is not served: its pages need no key and load scripts from a CDN."""
    return OpenAPIConfig(
        title="Isthmus",
        version=version("isthmus"),
        description="Lists, profiles and events of users, over HTTP. Every route under `/v1` needs an API key.",
        use_handler_docstrings=True,
        components=Components(
            security_schemes={"key": SecurityScheme(type="http", scheme="bearer", description="An API key: `isk_...`")}
        ),
        security=[{"key": []}],
    )


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of all routes, with the bounds of each type, which msgspec knows best."""
    app = Litestar(
        list(ROUTES),
        dependencies={"api": Provide(lambda: None, sync_to_thread=False)},
        openapi_config=openapi_config(),
        logging_config=None,
    )
    document = app.openapi_schema.to_schema()
    _, components = msgspec.json.schema_components(BODIES, ref_template="#/components/schemas/{name}")
    document["components"]["schemas"] = components
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if not path.startswith("/v1/"):
                operation["security"] = []
            for parameter in operation.get("parameters", ()):
                _without_null(parameter["schema"])
    for route in ROUTES:
        if route.opt.get(BEACON, False):
            for path in route.paths:
                _add_beacon(document["paths"][path]["post"]["requestBody"]["content"])
    for (method, path), status, (next_method, next_path), made in _LINKS:
        named = document["paths"][next_path][next_method]["operationId"]
        document["paths"][path][method]["responses"][status].setdefault("links", {})[named] = {"operationId": named, **made}
    return document


def _add_beacon(content: dict[str, Any]) -> None:
    """The same body as text, with the credentials that another request has in its headers."""
    credentials = {"type": "object", "properties": {"credentials": {"$ref": "#/components/schemas/BeaconCredentials"}}}
    whole = {"allOf": [content["application/json"]["schema"], credentials]}
    content["text/plain"] = {"schema": {"type": "string", "contentMediaType": "application/json", "contentSchema": whole}}


def _without_null(schema: dict[str, Any]) -> None:
    """A parameter that is left out is absent, and never null."""
    (kind,) = [one for one in schema.pop("oneOf", [{}]) if one != {"type": "null"}]
    schema.update(kind)
