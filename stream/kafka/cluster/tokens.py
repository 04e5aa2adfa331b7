"""Access tokens for SASL OAUTHBEARER, fetched with the client credentials grant (RFC 6749, section 4.4; RFC 7628 for SASL).

One token serves every connection of the process and is renewed when half of its life is over, so that a connection that begins with
it has time left.
"""

import base64
import json
import re
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from stream.errors import IsthmusError

TIMEOUT_S: Final = 5.0
_DEFAULT_LIFE_S: Final = 60.0
"""Life of a token whose answer has no `expires_in`, which RFC 6749 only recommends."""
_LONGEST_LIFE_S: Final = 86_400.0
"""A token is renewed twice a day at least, whatever life its server states."""
_MAX_ANSWER: Final = 1 << 20
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")
"""RFC 6750, section 2.1. Other characters would end the field of the SASL message."""


class TokenError(IsthmusError):
    """No token could be had."""


class Token(NamedTuple):
    """An access token.

    Attributes:
        text: What the broker gets.
        renew_at: When half of its life is over (monotonic clock, s).
        ends_at: When it ends (monotonic clock, s).
    """

    text: str
    renew_at: float
    ends_at: float


class TokenSource:
    """Fetches a token when none is known or the known one is half over. May be called from several threads.

    While the token server is away, a token is used until it ends.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: str,
        scope: str | None,
        ca_file: Path | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Token | None = None
        credentials = ":".join(urllib.parse.quote_plus(part) for part in (client_id, client_secret))
        self._authorization = f"Basic {base64.b64encode(credentials.encode()).decode()}"
        grant = {"grant_type": "client_credentials"} | ({} if scope is None else {"scope": scope})
        self._body = urllib.parse.urlencode(grant).encode()
        self._ca_file = ca_file

    def token(self) -> str:
        """Returns a token that has not ended.

        Raises:
            TokenError: the token server gives none; the message says why.
        """
        with self._lock:
            now = self._clock()
            if self._token is None or now >= self._token.renew_at:
                try:
                    self._token = self._fetch(now)
                except TokenError:
                    if self._token is None or now >= self._token.ends_at:
                        raise
            return self._token.text

    def _fetch(self, now: float) -> Token:
        answer = self._ask()
        text, life_s = answer.get("access_token"), _life(answer.get("expires_in"))
        if not isinstance(text, str) or not _TOKEN.fullmatch(text):
            raise TokenError(f"the token server at {self._url} answers without access_token: check kafka.token_url")
        return Token(text, now + life_s / 2, now + life_s)

    def _ask(self) -> dict[str, Any]:
        headers = {"Authorization": self._authorization, "Content-Type": "application/x-www-form-urlencoded"}
        request = urllib.request.Request(self._url, self._body, headers)  # noqa: S310  (the settings allow http and https only)
        try:
            opener = urllib.request.build_opener(NoRedirect, urllib.request.HTTPSHandler(context=self._context()))
            with opener.open(request, timeout=TIMEOUT_S) as answer:
                found = json.loads(_content(answer))
        except urllib.error.HTTPError as error:
            raise TokenError(f"the token server at {self._url} refuses us ({_refusal(error)}): {_WHAT_TO_DO}") from None
        except (OSError, ValueError, RecursionError) as error:
            reason = getattr(error, "reason", None) or error
            raise TokenError(f"the token server at {self._url} gives no token ({reason}): check kafka.token_url") from None
        if not isinstance(found, dict):
            raise TokenError(f"the token server at {self._url} answers no JSON object: check kafka.token_url")
        return found

    def _context(self) -> ssl.SSLContext | None:
        """The system's authorities, and those of `kafka.ca_file` beside them."""
        if not self._url.startswith("https://"):
            return None
        context = ssl.create_default_context()
        if self._ca_file is not None:
            context.load_verify_locations(self._ca_file)
        return context


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would send our secret to another address, or ask one that no setting names."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _content(answer: Any) -> bytes:
    """Returns what a server answers, up to a size and within a time: it might send a byte every second.

    Raises:
        OSError: it is longer, or takes longer.
    """
    deadline, content = time.monotonic() + TIMEOUT_S, bytearray()
    while part := answer.read1(_MAX_ANSWER):
        content += part
        if len(content) > _MAX_ANSWER or time.monotonic() > deadline:
            raise OSError(f"its answer has more than {_MAX_ANSWER} bytes, or takes more than {TIMEOUT_S:g} s")
    return bytes(content)


def _life(stated: Any) -> float:
    """How long a token lives, s."""
    try:
        life_s = float(stated)
    except (TypeError, ValueError, OverflowError):
        return _DEFAULT_LIFE_S
    return min(life_s, _LONGEST_LIFE_S) if life_s > 0 else _DEFAULT_LIFE_S  # not for NaN either


_WHAT_TO_DO: Final = "check kafka.client_id, kafka.client_secret and kafka.scope"


def _refusal(error: urllib.error.HTTPError) -> str:
    """The status and the error code of RFC 6749, section 5.2. Nothing else of the answer, which may repeat what we sent."""
    try:
        code = json.loads(_content(error)).get("error")
    except (OSError, ValueError, RecursionError, AttributeError):
        code = None
    known = {"invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type", "invalid_scope"}
    return f"{error.code} {code}" if code in known else str(error.code)
