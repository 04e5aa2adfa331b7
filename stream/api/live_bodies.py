"""What the stream of the live page sends, as JSON. Names, tags, keywords and ids are text that producers wrote."""

from typing import Literal

import msgspec

from stream.api.answers import ListAnswer
from stream.api.live_numbers import Numbers

Kind = Literal["click", "call", "purchase"]


class Dot(msgspec.Struct, frozen=True, omit_defaults=True):
    """A user's place on the map.

    Attributes:
        user: The user.
        x: From -1 (left) to 1.
        y: From -1 (top) to 1.
        sessions: Sessions that the place rests on.
        conversations: Conversations that it rests on.
        by: What moved the user last; absent where that is not told.
    """

    user: str
    x: float
    y: float
    sessions: int
    conversations: int
    by: Kind | None = None


class Happened(msgspec.Struct, frozen=True):
    """The newest thing that a user did.

    Attributes:
        user: The user.
        kind: What it was.
        what: Tags of a click, keywords of a call, names of the items bought.
        at: When, ms.
    """

    user: str
    kind: Kind
    what: tuple[str, ...]
    at: int


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What changed in half a second; a sample where much did.

    Attributes:
        now: The replica's clock, ms.
        per_s: Events applied a second, by kind.
        lists_per_s: Lists that came a second.
        freshness_ms: Median time from an event's arrival in Kafka to its list's arrival here; None: no list came.
        dots: Places of users who changed.
        happened: Some of what they did.
        gone: Users who were erased, and others who are no longer shown.
    """

    now: int
    per_s: dict[str, float]
    lists_per_s: float
    freshness_ms: int | None
    dots: tuple[Dot, ...]
    happened: tuple[Happened, ...]
    gone: tuple[str, ...]


class PlacedItem(msgspec.Struct, frozen=True):
    """An item on the circle."""

    item: str
    name: str
    x: float
    y: float


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """The map of one model version.

    Attributes:
        model: The system; "" before the first model.
        version: The model version.
        published_at: When it was announced, ms; 0: unknown.
        items: The circle; empty for a model without a space, such as popularity.
        dots: The users who were active last.
    """

    model: str
    version: str
    published_at: int
    items: tuple[PlacedItem, ...]
    dots: tuple[Dot, ...]


class Move(msgspec.Struct, frozen=True):
    """How far an item rose. Ranks begin at 1."""

    item: str
    name: str
    before: int
    after: int


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One interaction or purchase of a user.

    Attributes:
        kind: What it was; `click` for a session.
        at: When it began, ms.
        what: Tags, keywords, or names of items.
        count: Clicks of a session, sentences of a call.
        place: Where the user was on the map afterwards; None where the model reads nothing of it.
        rose: What rose most because of it.
    """

    kind: Kind
    at: int
    what: tuple[str, ...]
    count: int = 0
    place: tuple[float, float] | None = None
    rose: tuple[Move, ...] = ()


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """The user whom a page follows.

    Attributes:
        user: The user.
        list: What the user may be offered now.
        steps: The last interactions and purchases in order of time; empty where the user was not active lately.
        start: Where somebody is of whom nothing is known; None without a map.
    """

    user: str
    list: ListAnswer
    steps: tuple[Step, ...]
    start: tuple[float, float] | None


LiveMessage = Frame | Picture | Followed | Numbers
