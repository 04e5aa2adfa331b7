"""The bodies of requests and answers that belong to one route each."""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from stream.api.answers import ListAnswer
from stream.core.events import UserId

LIMIT: Final = 100
USERS: Final = 1_000


class UsersBody(msgspec.Struct, frozen=True):
    """Users whose lists are wanted.

    Attributes:
        users: User ids.
        limit: Items of each list; default: the step's list length.
    """

    users: Annotated[tuple[UserId, ...], Meta(min_length=1, max_length=USERS)]
    limit: Annotated[int, Meta(ge=1, le=LIMIT)] | None = None


class TokenBody(msgspec.Struct, frozen=True):
    """Whose token is wanted.

    Attributes:
        user_id: The user.
        lifetime_s: How long it shall live, in seconds; default, and at most: `api.token_lifetime_s`.
    """

    user_id: UserId
    lifetime_s: Annotated[int, Meta(ge=1)] | None = None


class IssuedToken(msgspec.Struct, frozen=True):
    """A user token.

    Attributes:
        token: What the browser presents: `Authorization: Bearer ist...`. Never put it into a URL.
        expires_at: When it ends, ms.
    """

    token: str
    expires_at: int


class VisitorBody(msgspec.Struct, frozen=True):
    """Whose token is wanted.

    Attributes:
        user_id: The id that was issued to the visitor before; default: a new one.
    """

    user_id: UserId | None = None


class Visitor(msgspec.Struct, frozen=True):
    """An anonymous visitor.

    Attributes:
        user_id: The visitor's id, which clicks name. Whoever knows it can read the visitor's list: keep it in the browser alone.
        token: A user token for it: `Authorization: Bearer ist...` on `/v1/me/...`.
        expires_at: When the token ends, ms; renew it with the id.
    """

    user_id: str
    token: str
    expires_at: int


class Lists(msgspec.Struct, frozen=True):
    """Lists of several users.

    Attributes:
        lists: One for each user, in order.
    """

    lists: list[ListAnswer]


class CatalogueItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One item of the catalogue.

    Attributes:
        item: Item id.
        name: For people.
        offered: Whether it is on offer now.
        repeatable: Whether a user who owns it may be offered it again.
        offered_from: Start of the offer, ms.
        offered_until: End of the offer, ms.
    """

    item: str
    name: str
    offered: bool
    repeatable: bool
    offered_from: int | None = None
    offered_until: int | None = None


class CataloguePage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Part of the catalogue.

    Attributes:
        items: In order of their ids.
        next: What to give as `after` for the next part; absent: there is none.
    """

    items: list[CatalogueItem]
    next: str | None = None


class Receipt(msgspec.Struct, frozen=True):
    """An erasure on its way.

    Attributes:
        event_id: Id of the erasure event.
        erased_until: Everything up to this time is forgotten, ms: the Kafka timestamp of the erasure event.
        status_url: Says whether it is done here.
    """

    event_id: str
    erased_until: int
    status_url: str


class ErasureStatus(msgspec.Struct, frozen=True):
    """How far an erasure is.

    Attributes:
        done: Whether this replica holds nothing of the user from before it.
        age_s: Seconds since the store was last known to be complete.
    """

    done: bool
    age_s: float
