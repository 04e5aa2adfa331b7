"""Bearer tokens of an identity provider (OpenID Connect, RFC 9068): people, such as agents, whose scopes stand in a claim.

The provider's keys (JWKS, RFC 7517) come from a URL or a file. They are read again every five minutes, and where a token names one
that is not known yet, and stay in use while the provider is away. PyJWT verifies the signatures, with fixed asymmetric algorithms.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import jwt
from jwt.exceptions import PyJWTError

from stream.api.api_keys import Scope
from stream.api.callers import Caller
from stream.api.problems import ApiError
from stream.core import limits
from stream.metrics import Metrics

AGAIN_S: Final = 300.0
UNKNOWN_KEY_S: Final = 10.0
"""A token with an unknown key has the keys read again at most this often: anybody can send one."""
_LEEWAY_S: Final = 30
_TIMEOUT_S: Final = 5.0
_REMEMBERED: Final = 10_000
_LONGEST: Final = 8_192
_LARGEST_KEYS: Final = 1 << 20
_KEY_TYPES: Final = frozenset({"RSA", "EC", "OKP"})
logger = logging.getLogger("isthmus")


class Provider(NamedTuple):
    """What is asked of a token.

    Attributes:
        jwks: Where the keys are: a URL, or a file.
        issuer: The claim `iss`.
        audience: What the claim `aud` must hold.
        algorithms: Signature algorithms that are accepted, all asymmetric.
        scope_claim: Claim with the scopes, a list or a text with spaces; a dot leads into an object.
        scope_prefix: What stands before a scope of this API, such as `isthmus:`; names without it are passed over.
    """

    jwks: str
    issuer: str
    audience: str
    algorithms: tuple[str, ...]
    scope_claim: str
    scope_prefix: str


class Oidc:
    """Verifies tokens of one provider."""

    def __init__(
        self, provider: Provider, metrics: Metrics, clock_ms: Callable[[], int], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._provider = provider
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._monotonic = monotonic
        self._keys: dict[str, jwt.PyJWK] = {}
        self._read_at = -float("inf")
        self._lock = asyncio.Lock()
        self._callers: OrderedDict[bytes, Caller] = OrderedDict()

    async def caller_of(self, token: str) -> Caller | None:
        """Returns whom a token vouches for; None where it is not valid now.

        Raises:
            ApiError: no key of the provider could be read yet.
        """
        digest = hashlib.sha256(token.encode(errors="replace")).digest()
        caller = self._callers.get(digest)
        if caller is None:
            caller = await self._verified(token)
            if caller is None:
                return None
            self._callers[digest] = caller
            if len(self._callers) > _REMEMBERED:
                self._callers.popitem(last=False)
        return caller if caller.expires_at is not None and self._clock_ms() < caller.expires_at else None

    async def _verified(self, token: str) -> Caller | None:
        try:
            name = jwt.get_unverified_header(token).get("kid") if len(token) <= _LONGEST else None
        except (PyJWTError, ValueError, RecursionError):
            return None
        key = await self._key(name) if isinstance(name, str) else None
        if key is None:
            return None
        own = self._provider
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=list(own.algorithms),
                audience=own.audience,
                issuer=own.issuer,
                leeway=_LEEWAY_S,
                options={"require": ["exp", "iat", "sub"]},
            )
            expires_at = 1_000 * (int(claims["exp"]) + _LEEWAY_S)
            if expires_at > limits.LAST_TIME_MS:
                return None  # a token without an end
            subject = str(claims["sub"])
            name = "oidc:" + hashlib.sha256(subject.encode()).hexdigest()[:16]
            return Caller(name, _scopes(claims, own), expires_at=expires_at, subject=subject)
        except (PyJWTError, ValueError, OverflowError, RecursionError):
            return None

    async def _key(self, name: str) -> jwt.PyJWK | None:
        if name not in self._keys:
            async with self._lock:
                if name not in self._keys and self._monotonic() - self._read_at >= UNKNOWN_KEY_S:
                    await self.read()
        if not self._keys:
            raise ApiError(503, "the identity provider's keys could not be read yet", {"Retry-After": "10"})
        return self._keys.get(name)

    async def read(self) -> None:
        """Reads the provider's keys; where that fails, those that were read before stay."""
        self._read_at = self._monotonic()
        try:
            keys = _asymmetric(jwt.PyJWKSet.from_json(await self._content()))
        except (PyJWTError, ValueError, RecursionError, OSError, httpx.HTTPError, httpx.InvalidURL) as error:
            self._metrics.counter("api_jwks_reads", "failed").inc()
            logger.warning(
                "the keys of the identity provider at %s cannot be read (%s): the former ones stay",
                self._provider.jwks,
                str(error) or type(error).__name__,
            )
            return
        self._metrics.counter("api_jwks_reads", "read").inc()
        if keys.keys() != self._keys.keys():
            self._callers.clear()  # a key that was taken away opens nothing any more
        self._keys = keys

    async def _content(self) -> str:
        if not self._provider.jwks.startswith(("https://", "http://")):
            return await asyncio.to_thread(_file_content, Path(self._provider.jwks))
        async with (
            asyncio.timeout(_TIMEOUT_S),
            httpx.AsyncClient(timeout=_TIMEOUT_S, follow_redirects=False) as client,
            client.stream("GET", self._provider.jwks, headers={"accept-encoding": "identity"}) as answer,
        ):
            answer.raise_for_status()
            content = bytearray()
            async for part in answer.aiter_bytes():
                content += part
                if len(content) > _LARGEST_KEYS:
                    raise ValueError(f"it has more than {_LARGEST_KEYS} bytes")
            return content.decode()

    async def keep_reading(self) -> None:
        """Reads the keys now and again, for ever."""
        while True:
            async with self._lock:
                await self.read()
            await asyncio.sleep(AGAIN_S)


def _file_content(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(_LARGEST_KEYS + 1)
    if len(content) > _LARGEST_KEYS:
        raise ValueError(f"it has more than {_LARGEST_KEYS} bytes")
    return content.decode()


def _asymmetric(keys: jwt.PyJWKSet) -> dict[str, jwt.PyJWK]:
    """The public keys by their ids.

    Raises:
        ValueError: there is none.
    """
    found = {key.key_id: key for key in keys.keys if key.key_id and key.key_type in _KEY_TYPES}
    if not found:
        raise ValueError("it holds no public key with an id")
    return found


def _scopes(claims: dict[str, Any], own: Provider) -> tuple[Scope, ...]:
    """The scopes of this API that a token has; `public` is for keys in pages alone."""
    found: Any = claims.get(own.scope_claim)
    if found is None:
        found = claims
        for part in own.scope_claim.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    names = found.split() if isinstance(found, str) else found if isinstance(found, list) else []
    stated = {name.removeprefix(own.scope_prefix) for name in names if isinstance(name, str) and name.startswith(own.scope_prefix)}
    return tuple(scope for scope in Scope if scope.value in stated and scope is not Scope.PUBLIC)
