"""The live page and its stream. The page holds no data; whoever opens the stream needs a key with the scope `live`."""

from typing import Annotated

from litestar import Response, get
from litestar.params import QueryParameter
from litestar.response import Stream as StreamResponse

from stream.api.api_keys import Scope
from stream.api.context import READING, Authenticated, UsesApi, problems
from stream.api.door import SCOPE
from stream.api.ingest import check_user_id
from stream.api.page_routes import page
from stream.api.problems import ApiError
from stream.api.streams import begun
from stream.core import limits

_OFF = "the live page is off here: set api.live (ISTHMUS_API__LIVE=true)"


@get("/", include_in_schema=False)
async def live_page(api: UsesApi) -> Response[bytes]:
    """The live page. In the demo, the key of its stream stands in it: everybody there is synthetic."""
    if api.live is None:
        raise ApiError(501, _OFF)
    return page("live.html", key=api.live_key)


@get(
    "/v1/live/events",
    opt={SCOPE: Scope.LIVE},
    media_type="text/event-stream",
    responses=problems(*READING, 501),
    summary="What happens now, for the live page",
)
async def live_stream(
    api: UsesApi,
    request: Authenticated,
    user: Annotated[
        str | None, QueryParameter(description="A user to follow.", min_length=1, max_length=limits.USER_ID_BYTES)
    ] = None,
) -> StreamResponse:
    """Server-sent events: `picture` with the map, `frame` every half second, `numbers`, and `followed` with one user's list and
    way. They are made for the live page and may change with it.
    """
    if api.live is None:
        raise ApiError(501, _OFF)
    caller = request.auth
    if user is not None:
        check_user_id(user, "user")
        api.audit.note(caller, user, "live")

    def goes_on() -> bool:
        return not api.changes.ended and caller.is_live(api.keys, api.service.clock_ms())

    events = begun(api.live.messages(user, goes_on))
    api.places.take(request.scope, events, goes_on)
    return StreamResponse(events, headers={"X-Accel-Buffering": "no"})
