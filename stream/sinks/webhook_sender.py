"""Posts a message until the endpoint accepts it, with growing pauses and, for lists, a deadline."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, NamedTuple

import httpx
import stamina
from stamina.instrumentation import set_on_retry_hooks

from stream.metrics import Metrics
from stream.sinks.webhook_messages import Signer

logger = logging.getLogger("isthmus")
_BODY_BYTES: Final = 65_536
_BODY_S: Final = 1.0
"""How much of a response body is read, and for how long. Only the status counts; the connection of a longer response is closed."""
_SKEW_S: Final = 240
"""Receivers refuse a timestamp that is more than five minutes off (Standard Webhooks)."""
_HINTS: Final = {
    410: "it is gone for good: correct webhook.url, or end this sink",
    413: "the message is too large for it: lower webhook.batch_lists",
}


class Endpoint(NamedTuple):
    """URL and retry policy, as in the settings `[webhook]`."""

    url: str
    timeout_s: float
    first_pause_s: float
    longest_pause_s: float
    give_up_s: float


class NotTaken(Exception):  # noqa: N818  (the endpoint's decision, not an error of ours)
    """The endpoint did not accept a message. The text says why, and quotes nothing of the message.

    Attributes:
        pause_s: Pause that it asks for (`Retry-After`); None if it does not.
    """

    def __init__(self, why: str, pause_s: float | None = None) -> None:
        super().__init__(why)
        self.pause_s = pause_s


class Sender:
    """Posts messages one at a time. Enters `guard` around each attempt; it may raise to stop retrying."""

    def __init__(self, endpoint: Endpoint, signer: Signer, guard: Callable[[], Any], metrics: Metrics) -> None:
        set_on_retry_hooks([])  # stamina's own would log the arguments of calls
        self._endpoint = endpoint
        self._signer = signer
        self._guard = guard
        self._metrics = metrics
        self._client = httpx.AsyncClient(
            timeout=endpoint.timeout_s,
            follow_redirects=False,  # the users' lists go to nobody but the endpoint
            headers={"user-agent": "isthmus"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # keeps none
        )
        self._problem: str | None = None

    def problem(self) -> str | None:
        """Returns the last refusal, for health; None after a 2xx."""
        return self._problem

    async def post(self, message_id: str, body: bytes, *, for_ever: bool) -> None:
        """Posts until the endpoint accepts the message.

        Raises:
            NotTaken: it did not within `give_up_s`. Never raised with `for_ever`.
        """
        end = self._endpoint
        attempts = stamina.retry_context(
            on=self._pause,
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

    def _pause(self, error: Exception) -> bool | float:
        """Returns whether to try again, or the pause that the endpoint asked for, clamped to our bounds."""
        if not isinstance(error, NotTaken):
            return False
        if error.pause_s is None:
            return True
        return min(max(error.pause_s, self._endpoint.first_pause_s), self._endpoint.longest_pause_s)

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
        now = datetime.now(UTC)
        answer = await self._ask(body, self._signer.headers(message_id, body, now))
        if not answer.is_success:
            self._metrics.counter("webhook_attempts", "refused").inc()
            why = refusal(answer.status_code, answer.headers, now.timestamp())
            raise NotTaken(why, asked_pause_s(answer.headers, now.timestamp()))

    async def _ask(self, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        """Returns the response without its body. Ignores errors after its head has arrived."""
        answer = None
        try:
            async with (
                asyncio.timeout(self._endpoint.timeout_s),
                self._client.stream("POST", self._endpoint.url, content=body, headers=headers) as answer,
            ):
                await _read_out(answer)
        except (httpx.HTTPError, OSError) as error:
            if answer is None:
                self._metrics.counter("webhook_attempts", "unreachable").inc()
                raise NotTaken(f"the endpoint does not answer ({type(error).__name__})") from error
        return answer


async def _read_out(answer: httpx.Response) -> None:
    """Reads a short body to its end, so that the connection can be reused."""
    held = 0
    async with asyncio.timeout(_BODY_S):
        async for part in answer.aiter_raw():
            held += len(part)
            if held > _BODY_BYTES:
                return


def refusal(status: int, headers: Mapping[str, str], now_s: float) -> str:
    """Explains a refusal and what to do about it. Quotes nothing but the status."""
    text = f"the endpoint answered {status}"
    if 300 <= status < 400:
        return f"{text}: redirects are not followed, so set webhook.url to where it is now"
    if status in _HINTS:
        return f"{text}: {_HINTS[status]}"
    its_s = _seconds_of(headers.get("date", ""))
    if its_s is not None and abs(its_s - now_s) > _SKEW_S:
        return f"{text}: its clock and ours are {abs(its_s - now_s):.0f} s apart, and receivers refuse more than five minutes"
    return text


def asked_pause_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Parses `Retry-After`: seconds or a date (RFC 9110, section 10.2.3). Returns None if it is missing or malformed."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    at_s = _seconds_of(text)
    return None if at_s is None else at_s - now_s


def _seconds_of(date: str) -> float | None:
    """Returns an HTTP date as seconds since 1970; None if it is malformed."""
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None
