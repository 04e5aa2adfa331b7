"""The door: who may do what, how often, and which paths are no user's.

Every route names the scope that it needs; one without a scope is open and holds no data.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from stream.api.api_keys import ApiKey, ApiKeys, Scope
from stream.api.problems import AMBIGUOUS, ApiError, is_ambiguous
from stream.api.service import ReadService
from stream.api.signing import Signer
from stream.api.user_tokens import UserToken, read_token

SCOPE: Final = "scope"
USER: Final = "user"
"""Option of a route that a user token opens, and nothing else."""
_REMEMBERED: Final = 10_000
_UNAUTHORISED: Final = {"WWW-Authenticate": 'Bearer realm="isthmus"'}
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
        failures: Buckets,
    ) -> None:
        """`missing` says why the store must not be answered from yet. `requests` bounds keys, `users` the users of tokens, and
        `failures` client addresses.
        """
        self._keys = keys
        self._signer = signer
        self._service = service
        self._missing = missing
        self._clock_ms = clock_ms
        self._requests = requests
        self._users = users
        self._failures = failures

    async def admit(self, connection: Connection, handler: BaseRouteHandler) -> None:
        """Raises ApiError where the request is not admitted; otherwise the connection's `auth` is its key."""
        scope, is_for_user = handler.opt.get(SCOPE), handler.opt.get(USER, False)
        if is_for_user:
            connection.scope["auth"] = self._user(connection)
        elif scope is not None:
            if is_ambiguous(connection.scope["raw_path"]):
                raise ApiError(400, AMBIGUOUS)
            connection.scope["auth"] = self._known(connection, scope)
        else:
            return
        missing = self._missing()
        if missing is not None:
            raise ApiError(503, f"the store is not ready: {missing}", {"Retry-After": "1"})
        if is_for_user:
            await self._refuse_erased(connection.scope["auth"])

    def _user(self, connection: Connection) -> UserToken:
        """The token of a browser; its user counts as a key does."""
        address = self._checked_address(connection)
        token = read_token(self._signer, _presented(connection), self._clock_ms())
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
        address = connection.client.host if connection.client else ""
        wait_s = self._failures.wait_s(address, take=0)
        if wait_s:
            raise _too_many("requests without a valid credential came from this address", wait_s)
        return address

    def _known(self, connection: Connection, scope: Scope) -> ApiKey:
        address = self._checked_address(connection)
        key = self._keys.find(_presented(connection), self._clock_ms())
        if key is None:
            self._failures.wait_s(address)
            raise ApiError(401, "present a live API key: `Authorization: Bearer isk_...`", dict(_UNAUTHORISED))
        wait_s = self._requests.wait_s(key.key_id)
        if wait_s:
            raise _too_many("requests came with this key", wait_s)
        if not key.allows(scope):
            raise ApiError(403, f"this key lacks the scope `{scope}`")
        return key


def _presented(connection: Connection) -> str:
    scheme, _, presented = connection.headers.get("authorization", "").partition(" ")
    return presented.strip() if scheme.lower() == "bearer" else ""


def _too_many(what: str, wait_s: float) -> ApiError:
    return ApiError(429, f"too many {what}", {"Retry-After": str(int(wait_s) + 1)})
