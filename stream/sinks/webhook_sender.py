"""Posting one message until it is taken: growing pauses, and an end where there may be one."""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

import httpx
import stamina
from stamina.instrumentation import set_on_retry_hooks

from stream.metrics import Metrics
from stream.sinks.webhook_messages import Signer

logger = logging.getLogger("isthmus")


class Endpoint(NamedTuple):
    """Where messages go, and how patiently; seconds as in `[webhook]`."""

    url: str
    timeout_s: float
    first_pause_s: float
    longest_pause_s: float
    give_up_s: float


class NotTaken(Exception):  # noqa: N818  (the endpoint's decision, not an error of ours)
    """The endpoint did not take a message; the text says why, without what was sent."""


class Sender:
    """Posts messages one after the other. `guard` is entered around each attempt, and may raise to end them."""

    def __init__(self, endpoint: Endpoint, signer: Signer, guard: Callable[[], Any], metrics: Metrics) -> None:
        set_on_retry_hooks([])  # stamina's own would log the arguments of calls
        self._endpoint = endpoint
        self._signer = signer
        self._guard = guard
        self._metrics = metrics
        self._client = httpx.AsyncClient(timeout=endpoint.timeout_s, follow_redirects=False, headers={"user-agent": "isthmus"})
        self._problem: str | None = None

    def problem(self) -> str | None:
        """What the endpoint last answered, if it was no 2xx. For health."""
        return self._problem

    async def post(self, message_id: str, body: bytes, *, for_ever: bool) -> None:
        """Posts until the message is taken.

        Raises:
            NotTaken: it was not, for `give_up_s`; never with `for_ever`.
        """
        end = self._endpoint
        attempts = stamina.retry_context(
            on=NotTaken,
            attempts=None,
            timeout=None if for_ever else end.give_up_s,
            wait_initial=end.first_pause_s,
            wait_max=end.longest_pause_s,
            wait_jitter=end.first_pause_s,
        )
        async for attempt in attempts:
            with attempt:
                await self._attempt(message_id, body)

    async def close(self) -> None:
        await self._client.aclose()

    async def _attempt(self, message_id: str, body: bytes) -> None:
        async with self._guard():
            try:
                await self._answered(message_id, body)
            except NotTaken as error:
                if self._problem is None:
                    logger.warning("%s; trying again", error)
                self._problem = str(error)
                raise
        self._metrics.counter("webhook_attempts", "accepted").inc()
        if self._problem is not None:
            logger.info("the endpoint takes messages again")
        self._problem = None

    async def _answered(self, message_id: str, body: bytes) -> None:
        headers = self._signer.headers(message_id, body, datetime.now(UTC))
        try:
            async with asyncio.timeout(self._endpoint.timeout_s):
                answer = await self._client.post(self._endpoint.url, content=body, headers=headers)
        except (httpx.HTTPError, OSError) as error:
            self._metrics.counter("webhook_attempts", "unreachable").inc()
            raise NotTaken(f"the endpoint does not answer ({type(error).__name__})") from error
        if not answer.is_success:
            self._metrics.counter("webhook_attempts", "refused").inc()
            raise NotTaken(f"the endpoint answered {answer.status_code}")
