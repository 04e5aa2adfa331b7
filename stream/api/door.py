"""The door: who may do what, how often, and which paths are no user's.

Every route names the scope that it needs; one without a scope is open and holds no data.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from litestar.connection import ASGIConnection, Request
from litestar.handlers import BaseRouteHandler

from stream.api.addresses import counted_as
from stream.api.api_keys import ApiKeys, Scope
from stream.api.beacons import credentials_of, is_beacon
from stream.api.callers import EVERYBODY, Caller
from stream.api.oidc import Oidc
from stream.api.problems import AMBIGUOUS, ApiError, is_ambiguous
from stream.api.service import ReadService
from stream.api.signing import Signer
from stream.api.user_tokens import PREFIX as TOKEN_PREFIX
from stream.api.user_tokens import UserToken, read_token

SCOPE: Final = "scope"
"""Option of a route: the scope that it needs, or several, of which one is enough."""
USER: Final = "user"
"""Option of a route that a user token opens; without scopes, nothing else does."""
BEACON: Final = "beacon"
"""Option of a route that takes beacons of pages, whose credentials are in the body."""
USER_TOKEN_HEADER: Final = "Isthmus-User-Token"  # noqa: S105  (the name of a header)
_JWT: Final = "ey"  # a JSON object in base64
_REMEMBERED: Final = 10_000
_UNAUTHORISED: Final = {"WWW-Authenticate": 'Bearer realm="isthmus"'}
LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
Connection = ASGIConnection[Any, Any, Any, Any]


class Buckets:
    """One token bucket per name, `rate` a second and `burst` at once; the names used last are remembered. A rate of 0: no bound."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, name: str, *, take: float = 1.0) -> float:
        """Takes from a bucket; returns 0, or how long to wait where it holds too little. Taking 0 only asks."""
        if self._rate <= 0:
            return 0.0
        now = self._clock()
        left, since = self._buckets.pop(name, (self._burst, now))
        left = min(self._burst, left + (now - since) * self._rate)
        short = max(take, 1.0) - left
        self._buckets[name] = (left - take if short <= 0 else left, now)
        if len(self._buckets) > _REMEMBERED:
            self._buckets.popitem(last=False)
        return 0.0 if short <= 0 else short / self._rate


class OwnPages:
    """Keeps pages of other sites away from an API that asks for no key: a browser on its machine reaches it for any of them."""

    def __init__(self, host: str, origins: Sequence[str]) -> None:
        self._is_local = host in LOOPBACK
        self._origins = frozenset(origins)

    def refuse_others(self, connection: Connection) -> None:
        """Raises ApiError for a page of another origin, and for a name that foreign DNS may have pointed here."""
        origin = connection.headers.get("origin")
        if origin is not None and origin not in self._origins:
            raise ApiError(403, "without credentials no page may ask: set api.cors_origins, or start the API with keys")
        if self._is_local and connection.url.hostname not in LOOPBACK:
            raise ApiError(403, "without credentials this API is asked by the name localhost, 127.0.0.1 or ::1")


class Door:
    """Admits requests: a guard of the whole application."""

    def __init__(
        self,
        keys: ApiKeys,
        signer: Signer,
        service: ReadService,
        missing: Callable[[], str | None],
        clock_ms: Callable[[], int],
        requests: Buckets,
        users: Buckets,
        addresses: Buckets,
        failures: Buckets,
        insecure: "OwnPages | None" = None,
        oidc: Oidc | None = None,
    ) -> None:
        """`missing` says why the store must not be answered from yet. `requests` bounds secret keys, `users` the users of tokens,
        `addresses` clients with a public key, and `failures` clients without a valid credential. With `insecure` nobody needs one.
        """
        self._keys = keys
        self._signer = signer
        self._service = service
        self._missing = missing
        self._clock_ms = clock_ms
        self._requests = requests
        self._users = users
        self._addresses = addresses
        self._failures = failures
        self._insecure = insecure
        self._oidc = oidc

    async def admit(self, connection: Connection, handler: BaseRouteHandler) -> None:
        """Raises ApiError where the request is not admitted; otherwise the connection's `auth` is its key."""
        if "null" in connection.query_params.getall("limit", ()):
            raise ApiError(400, "limit: a number is expected")  # else it would be read as None: as a limit that was left out
        needed = handler.opt.get(SCOPE)
        presented, sent_along, is_in_body = await self._credentials(connection, handler)
        token = None
        if handler.opt.get(USER, False) and (needed is None or presented.startswith(TOKEN_PREFIX)):
            token = connection.scope["auth"] = self._user(connection, presented)
        elif needed is not None:
            if is_ambiguous(connection.scope["raw_path"]):
                raise ApiError(400, AMBIGUOUS)
            caller = await self._known(connection, presented, needed if isinstance(needed, tuple) else (needed,))
            if is_in_body and not caller.is_public:
                raise ApiError(403, "a beacon presents a public key: send another credential in the header `Authorization`")
            if sent_along is not None and caller.is_public:
                token = self._user(connection, sent_along)
                caller = msgspec.structs.replace(caller, user_id=token.user_id)
            connection.scope["auth"] = caller
        else:
            return
        missing = self._missing()
        if missing is not None:
            raise ApiError(503, f"the store is not ready: {missing}", {"Retry-After": "1"})
        if token is not None:
            await self._refuse_erased(token)

    async def _credentials(self, connection: Connection, handler: BaseRouteHandler) -> tuple[str, str | None, bool]:
        """What is presented, the user token that is sent along, and whether they came in the body."""
        if self._insecure is None and handler.opt.get(BEACON, False) and isinstance(connection, Request) and is_beacon(connection):
            self._checked_address(connection)
            found = await credentials_of(connection)
            return found.key or found.user_token or "", found.user_token, True
        return _presented(connection), connection.headers.get(USER_TOKEN_HEADER.lower()), False

    def _user(self, connection: Connection, presented: str) -> UserToken:
        """The token of a browser; its user counts as a key does."""
        address = self._checked_address(connection)
        token = read_token(self._signer, presented, self._clock_ms())
        if token is None:
            self._failures.wait_s(address)
            raise ApiError(401, "present a live user token: `Authorization: Bearer ist...`", dict(_UNAUTHORISED))
        wait_s = self._users.wait_s(token.user_id)
        if wait_s:
            raise _too_many("requests came with this user's tokens", wait_s)
        return token

    async def _refuse_erased(self, token: UserToken) -> None:
        if await self._service.erased_at(token.user_id) >= token.issued_at:
            raise ApiError(401, "this token was made before its user was erased", dict(_UNAUTHORISED))

    def _checked_address(self, connection: Connection) -> str:
        address = counted_as(connection.client.host) if connection.client else ""
        wait_s = self._failures.wait_s(address, take=0)
        if wait_s:
            raise _too_many("requests without a valid credential came from this address", wait_s)
        return address

    async def _known(self, connection: Connection, presented: str, needed: tuple[Scope, ...]) -> Caller:
        if self._insecure is not None:
            self._insecure.refuse_others(connection)
            return EVERYBODY
        address = self._checked_address(connection)
        caller = await self._caller(presented)
        if caller is None:
            self._failures.wait_s(address)
            raise ApiError(401, "present a live API key: `Authorization: Bearer isk_...`", dict(_UNAUTHORISED))
        wait_s = self._addresses.wait_s(address) if caller.is_public else self._requests.wait_s(caller.name)
        if wait_s:
            raise _too_many("requests came from this address" if caller.is_public else "requests came with this key", wait_s)
        if not any(caller.allows(scope) for scope in needed):
            raise ApiError(403, f"this credential lacks the scope `{'` or `'.join(needed)}`")
        return caller

    async def _caller(self, presented: str) -> Caller | None:
        key = self._keys.find(presented, self._clock_ms())
        if key is not None:
            return Caller(key.key_id, key.scopes, key)
        if self._oidc is not None and presented.startswith(_JWT):
            return await self._oidc.caller_of(presented)
        return None


def _presented(connection: Connection) -> str:
    scheme, _, presented = connection.headers.get("authorization", "").partition(" ")
    return presented.strip() if scheme.lower() == "bearer" else ""


def _too_many(what: str, wait_s: float) -> ApiError:
    return ApiError(429, f"too many {what}", {"Retry-After": str(int(wait_s) + 1)})
