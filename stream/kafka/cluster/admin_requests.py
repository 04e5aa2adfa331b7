"""Requests to a cluster from an event loop, over an admin client that is kept open and called in a thread."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kafka.errors import KafkaError

from stream.kafka.cluster.topics import admin_client


class AdminRequests:
    """One request at a time, none longer than `answer_s`.

    A request that is still unanswered then keeps its thread, and further requests are refused until it ends.
    """

    def __init__(self, bootstrap: str, answer_s: float = 4.0) -> None:
        self._bootstrap = bootstrap
        self._answer_s = answer_s
        self._admin: Any = None
        self._busy = threading.Lock()

    async def request(self, call: Callable[..., Any], *arguments: Any) -> Any:
        """Calls `call(admin client, *arguments)`. Raises OSError if the broker does not answer."""
        return await asyncio.wait_for(asyncio.to_thread(self._with_admin, call, *arguments), self._answer_s)

    async def close(self) -> None:
        if self._admin is not None:
            with suppress(OSError):
                await self.request(lambda _: self._close())

    def _with_admin(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if not self._busy.acquire(blocking=False):
            raise ConnectionError(f"the broker at {self._bootstrap} has not answered the last request yet")
        try:
            if self._admin is None:
                self._admin = admin_client(self._bootstrap, int(self._answer_s * 1_000))
            return call(self._admin, *arguments)
        except Exception as error:  # whatever it is, the next call reconnects
            self._close()
            raise ConnectionError(f"the broker at {self._bootstrap} does not answer ({type(error).__name__})") from error
        finally:
            self._busy.release()

    def _close(self) -> None:
        if self._admin is not None:
            with suppress(KafkaError, OSError):
                self._admin.close()
            self._admin = None
