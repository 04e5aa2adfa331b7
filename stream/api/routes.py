"""The routes: parameters in, answers out. What they do is in `service`, `ingest` and `streams`; who may, in `door`."""

from collections.abc import Callable
from typing import Annotated, Any, Final

from litestar import MediaType, Request, Response, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, JSONBody, PathParameter, QueryParameter
from litestar.response import Stream as StreamResponse

from stream.api import ingest
from stream.api.addresses import counted_as
from stream.api.agent_routes import OpenedProfile, ProfileBody, agent_page, open_profile
from stream.api.answers import ListAnswer
from stream.api.api_keys import Scope
from stream.api.audit import Opened
from stream.api.beacons import BeaconCredentials
from stream.api.bodies import (
    CatalogueItem,
    CataloguePage,
    ErasureStatus,
    IssuedToken,
    Lists,
    Receipt,
    TokenBody,
    UsersBody,
    Visitor,
    VisitorBody,
)
from stream.api.context import (
    AGE_HEADER,
    OWN,
    READING,
    WRITING,
    Api,
    Authenticated,
    IdempotencyKey,
    Limit,
    OfUser,
    Placement,
    UserPath,
    UsesApi,
    problems,
)
from stream.api.credential_routes import token, visitor
from stream.api.door import BEACON, SCOPE, USER, USER_TOKEN_HEADER
from stream.api.feedback import FeedbackAnswer, FeedbackBody
from stream.api.feedback_route import feedback
from stream.api.guests import GuestBody
from stream.api.ingest import Clock, EventsAnswer, EventsBody, check_user_id, erasure_event, outgoing
from stream.api.live_routes import live_page, live_stream
from stream.api.page_routes import page_file, snippet
from stream.api.problems import ApiError, Problem
from stream.api.profile_answer import Profile
from stream.api.streams import Stream, begun, stream_lists
from stream.api.visitors import is_visitor_id, refuse_foreign_users
from stream.core import limits
from stream.core.events import Click, Item, to_milliseconds
from stream.health import Health


@get(
    "/v1/users/{user_id:str}/recommendations",
    opt={SCOPE: Scope.READ},
    responses=problems(304, *READING),
    summary="A user's list",
)
async def recommendations(
    api: UsesApi,
    user_id: UserPath,
    request: Authenticated,
    limit: Limit = None,
    placement: Placement = None,
    explain: Annotated[  # noqa: FBT002  (a query parameter)
        bool, QueryParameter(description="Adds what moved the first item, where the step explains lists.")
    ] = False,
    if_none_match: Annotated[
        str | None, HeaderParameter(name="If-None-Match", description="ETag of the list that is held.")
    ] = None,
) -> Response[ListAnswer]:
    """What the user may be offered now. A user nobody knows gets popularity's list, under `fallback`."""
    check_user_id(user_id, "user_id")
    _note_person(api, request, user_id, "list")
    (found,) = await api.service.lists([user_id], limit or api.list_length, api.placement(placement), explain=explain)
    api.count(found)
    return _unless_held(found, found.etag, found.age_s, if_none_match)


def _note_person(api: Api, request: Authenticated, user_id: str, opened: Opened) -> None:
    """Of lists, only what people open is noted: a site's backend asks for one at each page, on behalf of the user."""
    if request.auth.subject is not None:
        api.audit.note(request.auth, user_id, opened)


def _unless_held(content: Any, etag: str, age_s: float, if_none_match: str | None) -> Response[Any]:
    """The content, or 304 where the client holds it."""
    headers = {"ETag": etag, AGE_HEADER: f"{age_s:.3f}"}
    held = {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}
    if etag in held or "*" in held:
        return Response(None, status_code=304, headers=headers)
    return Response(content, headers=headers)


@post("/v1/users/batch", status_code=200, opt={SCOPE: Scope.READ}, responses=problems(*WRITING), summary="Lists of many users")
async def batch(api: UsesApi, request: Authenticated, data: JSONBody[UsersBody]) -> Lists:
    """Lists of up to 1,000 users. Ids that cannot stand in a path can be asked for here."""
    for index, user in enumerate(data.users):
        check_user_id(user, f"users[{index}]")
    for user in data.users:
        _note_person(api, request, user, "list")
    return Lists(await api.service.lists(data.users, data.limit or api.list_length))


@post(
    "/v1/recommendations",
    status_code=200,
    opt={SCOPE: Scope.READ},
    responses=problems(*WRITING, 501),
    summary="A list for a guest",
)
async def guest(api: UsesApi, data: JSONBody[GuestBody]) -> ListAnswer:
    """What a guest may be offered, by clicks and sentences of this request, of which nothing is stored."""
    if api.guests is None:
        raise ApiError(501, "guests get no lists here: start the API with --guests (setting api.guests)")
    limit, clock = data.limit or api.list_length, Clock(api.service.clock_ms(), api.max_ahead_ms, api.times)
    found = api.service.guest_list(await api.guests.made(data, limit, clock), limit, api.placement(data.placement))
    api.count(found)
    return found


@get("/v1/users/{user_id:str}/profile", opt={SCOPE: Scope.READ}, responses=problems(*READING, 404), summary="Who a user is")
async def profile(api: UsesApi, user_id: UserPath, request: Authenticated) -> Profile:
    """Counts of interactions, purchases, owned items and feedback, and the last of each. No text; tags only by a setting."""
    check_user_id(user_id, "user_id")
    api.audit.note(request.auth, user_id, "profile")
    found = await api.service.profile(user_id)
    if found is None:
        raise ApiError(404, "nothing is known of this user")
    return found


@get("/v1/items", opt={SCOPE: Scope.READ}, responses=problems(304, *READING), summary="The catalogue")
async def items(
    api: UsesApi,
    limit: Annotated[int, QueryParameter(description="Items of an answer.", ge=1, le=1_000)] = 100,
    after: Annotated[
        str | None, QueryParameter(description="Item id after which to go on.", max_length=limits.ID_CHARACTERS)
    ] = None,
    if_none_match: Annotated[
        str | None, HeaderParameter(name="If-None-Match", description="ETag of the part that is held.")
    ] = None,
) -> Response[CataloguePage]:
    """The items in order of their ids."""
    catalogue, now_ms = api.service.current.catalogue, api.service.clock_ms()
    offered = set(catalogue.offered_at(now_ms))
    later = [item for name, item in catalogue.items.items() if after is None or name > after]
    page = CataloguePage(
        [_catalogue_item(item, offered=item.item_id in offered) for item in later[:limit]],
        later[limit - 1].item_id if len(later) > limit else None,
    )
    return _unless_held(page, ingest.content_tag(page), api.service.age_s(), if_none_match)


def _catalogue_item(item: Item, *, offered: bool) -> CatalogueItem:
    start, end = item.offered_from, item.offered_until
    return CatalogueItem(
        item.item_id,
        item.name,
        offered,
        item.repeatable,
        None if start is None else to_milliseconds(start),
        None if end is None else to_milliseconds(end),
    )


@get("/v1/me/recommendations", opt={USER: True}, responses=problems(304, *OWN), summary="The list of a token's user")
async def own_recommendations(
    api: UsesApi,
    request: OfUser,
    limit: Limit = None,
    placement: Placement = None,
    if_none_match: Annotated[
        str | None, HeaderParameter(name="If-None-Match", description="ETag of the list that is held.")
    ] = None,
) -> Response[ListAnswer]:
    """As `/v1/users/{user_id}/recommendations`, for the user whom the token names."""
    (found,) = await api.service.lists([request.auth.user_id], limit or api.list_length, api.placement(placement))
    api.count(found)
    return _unless_held(found, found.etag, found.age_s, if_none_match)


@get(
    "/v1/me/events",
    opt={USER: True},
    media_type="text/event-stream",
    responses=problems(*OWN),
    summary="The list of a token's user as it changes",
)
async def own_stream(
    api: UsesApi,
    request: OfUser,
    limit: Limit = None,
    last_event_id: Annotated[
        str, HeaderParameter(name="Last-Event-ID", description="Id of the last event seen.", max_length=64)
    ] = "",
) -> StreamResponse:
    """As `/v1/users/{user_id}/events`, for the user whom the token names; it ends with the token."""
    own = request.auth
    asked = _stream(api, own.user_id, limit, last_event_id, lambda: api.service.clock_ms() < own.expires_at)
    address = counted_as(request.client.host) if request.client and is_visitor_id(own.user_id, api.signer) else None
    return _streamed(api, request, asked._replace(issued_at=own.issued_at), own.user_id, address)


@delete("/v1/users/{user_id:str}", status_code=202, opt={SCOPE: Scope.ERASE}, responses=problems(*READING), summary="Forget a user")
async def erase(api: UsesApi, user_id: UserPath, request: Authenticated, idempotency_key: IdempotencyKey = None) -> Receipt:
    """Sends an erasure event. State, list and training examples go once a worker reads it; the receipt says where to ask.

    Sent again with its `Idempotency-Key`, it erases nothing that came since.
    """
    return await _erase(api, user_id, request, idempotency_key)


async def _erase(api: Api, user_id: str, request: Authenticated, idempotency_key: str | None) -> Receipt:
    check_user_id(user_id, "user_id")
    event = erasure_event(user_id, idempotency_key)
    (until_ms,) = await api.sink.send([event])
    if until_ms is None:
        raise ApiError(503, "Kafka did not take the erasure: try again", {"Retry-After": "1"})
    path = request.scope["raw_path"].decode()
    return Receipt(event.event_id, until_ms, f"{path}/erasures/{until_ms}?event_id={event.event_id}")


@delete("/v1/users/batch", status_code=202, opt={SCOPE: Scope.ERASE}, include_in_schema=False)
async def erase_batch(api: UsesApi, request: Authenticated, idempotency_key: IdempotencyKey = None) -> Receipt:
    """Erases the user `batch`, whose path a route of its own would hide."""
    return await _erase(api, "batch", request, idempotency_key)


@get(
    "/v1/users/{user_id:str}/erasures/{until_ms:int}",
    opt={SCOPE: Scope.ERASE},
    responses=problems(*READING, 404),
    summary="How far an erasure is",
)
async def erasure(
    api: UsesApi,
    user_id: UserPath,
    until_ms: Annotated[int, PathParameter(description="`erased_until` of the receipt.", ge=0)],
    event_id: Annotated[
        str | None,
        QueryParameter(
            description="`event_id` of the receipt: of an erasure that was sent again, the first one counts.",
            min_length=1,
            max_length=limits.ID_CHARACTERS,
        ),
    ] = None,
) -> ErasureStatus:
    """Whether this replica still holds anything of the user from before the erasure."""
    check_user_id(user_id, "user_id")
    return ErasureStatus(await api.service.is_erased(user_id, until_ms, event_id), api.service.age_s())


@post(
    "/v1/events",
    status_code=202,
    opt={SCOPE: (Scope.WRITE, Scope.PUBLIC), BEACON: True},
    responses={207: ResponseSpec(EventsAnswer, generate_examples=False, description="Some failed."), **problems(*WRITING, 411)},
    summary="Send events",
)
async def events(
    api: UsesApi,
    request: Authenticated,
    data: JSONBody[EventsBody],
    idempotency_key: IdempotencyKey = None,
    user_token: Annotated[
        str | None, HeaderParameter(name=USER_TOKEN_HEADER, description="With a public key: the token of the user who clicked.")
    ] = None,
) -> Response[EventsAnswer]:
    """Clicks, transcripts and purchases. 202: Kafka has all of them; 207: some failed, send those again with the ids returned.

    A public key sends clicks alone, for ids of `POST /v1/visitors` and for the user of the token in `Isthmus-User-Token`. A page
    that closes sends them as text/plain, with key and token in `credentials`.
    """
    del user_token  # the door has read it
    if request.auth.is_public and not all(isinstance(event, Click) for event in data.events):
        raise ApiError(403, "a public key sends clicks alone: purchases and transcripts need a secret key")
    await refuse_foreign_users(request.auth, (event.user_id for event in data.events), api.signer, api.service)
    clock = Clock(api.service.clock_ms(), api.max_ahead_ms, api.times)
    sent = outgoing(data, idempotency_key, clock)
    took = await api.send(sent)
    return Response(EventsAnswer(ingest.results_of(data, clock, sent, took)), status_code=202 if all(took) else 207)


@get(
    "/v1/users/{user_id:str}/events",
    opt={SCOPE: Scope.READ},
    media_type="text/event-stream",
    responses=problems(*READING),
    summary="A user's list as it changes",
)
async def stream(
    api: UsesApi,
    user_id: UserPath,
    request: Authenticated,
    limit: Limit = None,
    last_event_id: Annotated[
        str, HeaderParameter(name="Last-Event-ID", description="Id of the last event seen.", max_length=64)
    ] = "",
) -> StreamResponse:
    """Server-sent events: `list` with the list, and `erased` when the user was erased."""
    check_user_id(user_id, "user_id")
    _note_person(api, request, user_id, "stream")
    caller = request.auth
    is_allowed = lambda: caller.is_live(api.keys, api.service.clock_ms())  # noqa: E731
    return _streamed(api, request, _stream(api, user_id, limit, last_event_id, is_allowed))


def _stream(api: Api, user_id: str, limit: int | None, last_event_id: str, is_allowed: Callable[[], bool]) -> Stream:
    return Stream(user_id, limit or api.list_length, last_event_id, api.settings.heartbeat_s, is_allowed)


def _streamed(
    api: Api, request: Request[Any, Any, Any], asked: Stream, user: str | None = None, address: str | None = None
) -> StreamResponse:
    """The stream, in a place that counts for the user of a token and for a visitor's address. It ends where the store must not be
    answered from.
    """
    live, missing = asked.is_allowed, api.health.ready["store"]
    asked = asked._replace(is_allowed=lambda: live() and missing() is None)
    events = begun(stream_lists(api.service, api.changes, asked))
    api.places.take(request.scope, events, asked.is_allowed, user, address)
    return StreamResponse(events, headers={"X-Accel-Buffering": "no"})


@get("/livez", media_type=MediaType.TEXT, summary="Whether the process works", responses=problems(503))
async def livez(api: UsesApi) -> Response[str]:
    """200, or 503 with what is wrong."""
    return _checked(Health.wrong(api.health.live))


@get("/readyz", media_type=MediaType.TEXT, summary="Whether the store may be answered from", responses=problems(503))
async def readyz(api: UsesApi) -> Response[str]:
    """200 once the store has caught up, or 503 with what is missing. A broker that is away later does not change it."""
    return _checked(Health.wrong(api.health.ready))


def _checked(wrong: list[str]) -> Response[str]:
    if wrong:
        raise ApiError(503, "; ".join(wrong))
    return Response("ok\n")


ROUTES: Final = (
    recommendations,
    batch,
    guest,
    profile,
    items,
    token,
    visitor,
    own_recommendations,
    own_stream,
    erase,
    erase_batch,
    erasure,
    events,
    feedback,
    stream,
    livez,
    readyz,
    open_profile,
    snippet,
    page_file,
    live_page,
    live_stream,
    agent_page,
)
BODIES: Final = (
    UsersBody,
    GuestBody,
    TokenBody,
    IssuedToken,
    VisitorBody,
    Visitor,
    EventsBody,
    BeaconCredentials,
    ListAnswer,
    Lists,
    Profile,
    ProfileBody,
    OpenedProfile,
    CataloguePage,
    Receipt,
    ErasureStatus,
    EventsAnswer,
    FeedbackBody,
    FeedbackAnswer,
    Problem,
)
