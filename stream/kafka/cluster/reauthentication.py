"""Makes aiokafka authenticate again on its open connections before the broker ends their session (KIP-368). kafka-python does so.

A broker with `connections.max.reauth.ms`, and every broker under OAUTHBEARER, ends a session after a time that its last answer of
the authentication names, and then closes the connection at the next request. aiokafka 0.14 ignores that time: requests in flight
would fail every few minutes, and group membership with them. tests/contracts/test_clients.py fails when its code changes.

During a renewal new requests wait: between handshake and answer the broker takes nothing else on the connection.
"""

import asyncio
import logging
import weakref
from collections.abc import Awaitable
from typing import Any, Final

from aiokafka import conn
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.protocol.admin import SaslAuthenticateRequest, SaslHandShakeRequest

logger = logging.getLogger("isthmus")
_SHARE: Final = 0.8
"""Of a session's life, after which it is renewed: the broker needs time for what is in flight before."""


class RenewingConnection(AIOKafkaConnection):
    """aiokafka's connection, whose session is renewed."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._session_ms = 0
        self._renewal: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def send(self, request: Any, expect_response: bool = True) -> Awaitable[Any]:  # noqa: FBT001, FBT002  (aiokafka's signature)
        if isinstance(request, SaslAuthenticateRequest):
            return self._authenticate(request)
        if self._renewal is not None and not isinstance(request, SaslHandShakeRequest):
            return self._send_after(self._renewal, request, expect_response=expect_response)
        sent: Awaitable[Any] = super().send(request, expect_response)
        return sent

    async def _authenticate(self, request: Any) -> Any:
        answer = await super().send(request)
        self._session_ms = getattr(answer, "session_lifetime_ms", 0)  # 0, and no such field in version 0: it never ends
        return answer

    async def _send_after(self, renewal: asyncio.Task[None], request: Any, *, expect_response: bool) -> Any:
        await asyncio.wait([renewal])
        return await self.send(request, expect_response)

    async def _do_sasl_handshake(self) -> None:
        await super()._do_sasl_handshake()
        if self._session_ms > 0:
            self._timer = self._loop.call_later(_SHARE * self._session_ms / 1_000, _begin_renewal, weakref.ref(self))

    async def renew(self) -> None:
        """Authenticates again. A refusal, or no answer, closes the connection; the next one says why."""
        try:
            await self._do_sasl_handshake()
        except Exception as error:  # noqa: BLE001  (whatever it is, nobody waits for this task)
            logger.warning("a session with the broker at %s could not be renewed: %s", self.host, error or type(error).__name__)
            self.close(CloseReason.AUTH_FAILURE)
        finally:
            self._renewal = None

    def close(self, reason: Any = None, exc: Exception | None = None) -> Any:
        if self._timer is not None:
            self._timer.cancel()
        return super().close(reason, exc)


def _begin_renewal(reference: "weakref.ref[RenewingConnection]") -> None:
    connection = reference()
    if connection is not None and connection.connected():
        connection._renewal = asyncio.create_task(connection.renew())


def install() -> None:
    """Makes all aiokafka clients of this process use it; a second call does nothing."""
    conn.AIOKafkaConnection = RenewingConnection
