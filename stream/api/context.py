"""What the routes share: what they work with, their parameters, and the problems that they declare."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from litestar import Request
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import HeaderParameter, PathParameter, QueryParameter

from stream.api.answers import ListAnswer
from stream.api.api_keys import ApiKeys
from stream.api.audit import Audit
from stream.api.bodies import (
    LIMIT,
)
from stream.api.callers import Caller
from stream.api.guests import Guests
from stream.api.live_view import LiveView
from stream.api.oidc import Oidc
from stream.api.problems import MEDIA_TYPE, ApiError, Problem
from stream.api.service import ReadService
from stream.api.signing import Signer
from stream.api.stream_places import Places
from stream.api.streams import Changes
from stream.api.user_tokens import UserToken
from stream.core import limits
from stream.core.event_times import TimeRule
from stream.health import Health
from stream.kafka.cluster.event_sink import EventSink, OutgoingEvent
from stream.metrics import Metrics
from stream.process_settings import ApiSettings

AGE_HEADER: Final = "Isthmus-Age"
OTHER: Final = "other"

UserPath = Annotated[
    str, PathParameter(description="User id.", min_length=1, max_length=limits.USER_ID_BYTES, pattern=r"^[^/\\\x00-\x1f]+$")
]
Limit = Annotated[int | None, QueryParameter(description="Items of a list; default: the step's list length.", ge=1, le=LIMIT)]
Placement = Annotated[str | None, QueryParameter(description="Where the list is shown; echoed.", max_length=limits.ID_CHARACTERS)]
IdempotencyKey = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        description="Names the request: sent again with it, events without an id get the same ids.",
        min_length=1,
        max_length=limits.ID_CHARACTERS,
    ),
]
Authenticated = Request[Any, Caller, Any]
OfUser = Request[Any, UserToken, Any]


def problems(*statuses: int) -> dict[int, ResponseSpec]:
    """The problems that a route may answer with, for the OpenAPI document."""
    texts = {
        304: "Not modified since the ETag that was presented.",
        400: "A parameter or the body does not fit; the detail names it.",
        401: "No live API key.",
        403: "The key lacks the scope.",
        404: "Nothing is known.",
        408: "The body came too slowly.",
        410: "The visitor was erased.",
        411: "A beacon does not state its length.",
        413: "The body is too large.",
        415: "The body is compressed.",
        422: "An item is not known here, or the list that is named.",
        429: "Too many requests.",
        501: "A setting turns it off here.",
        503: "The store or Kafka is not ready.",
    }
    empty = {304}
    return {
        status: ResponseSpec(
            None if status in empty else Problem, generate_examples=False, description=texts[status], media_type=MEDIA_TYPE
        )
        for status in statuses
    }


READING: Final = (400, 401, 403, 429, 503)
OWN: Final = (400, 401, 429, 503)
WRITING: Final = (400, 401, 403, 408, 413, 415, 429, 503)


class DemoAgent(NamedTuple):
    """The agent of the demo.

    Attributes:
        key: An API key.
        examples: Gives ids of some users.
    """

    key: str
    examples: Callable[[], tuple[str, ...]]


class Api(msgspec.Struct, frozen=True):
    """What the routes work with.

    `page_key` is the public key of the demo's shop, `live_key` the key of its live page; "" outside the demo.
    """

    service: ReadService
    keys: ApiKeys
    signer: Signer
    changes: Changes
    places: Places
    audit: Audit
    sink: EventSink
    metrics: Metrics
    settings: ApiSettings
    list_length: int
    max_ahead_ms: int
    times: Mapping[str, TimeRule]
    health: Health
    guests: Guests | None = None
    page_key: str = ""
    live_key: str = ""
    live: LiveView | None = None
    demo_agent: DemoAgent | None = None
    insecure: bool = False
    oidc: Oidc | None = None

    async def send(self, events: Sequence[OutgoingEvent]) -> list[bool]:
        """Sends events; returns which of them Kafka took.

        Raises:
            ApiError: it took none.
        """
        took = [at_ms is not None for at_ms in await self.sink.send(events)]
        if not any(took):
            raise ApiError(503, "Kafka took none of the events: send the request again", {"Retry-After": "1"})
        return took

    def placement(self, asked: str | None) -> str | None:
        """The placement as metrics and answers name it."""
        return asked if asked is None or asked in self.settings.placements else OTHER

    def count(self, served: ListAnswer) -> None:
        self.metrics.counter("api_lists", served.placement or "", served.fallback or served.changed or "as_sent").inc()


UsesApi = NamedDependency[Api]
