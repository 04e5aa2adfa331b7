"""The audit log: who opened whose profile, and when. One JSON line each.

Of the user it holds an HMAC-SHA256 (RFC 2104) of the id: with the key one can ask who opened one user's profile, and without it
the log tells nothing of users. What cannot be noted is not shown.
"""

import errno
import hashlib
import hmac
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from stream.api.callers import Caller
from stream.api.problems import ApiError
from stream.metrics import Metrics

Opened = Literal["profile", "list", "stream", "live"]
logger: Final = logging.getLogger("isthmus.audit")
_encode: Final = msgspec.json.Encoder().encode


class AuditLine(msgspec.Struct, frozen=True):
    """A line of the audit log.

    Attributes:
        at: When, RFC 3339.
        who: Subject of the person's token, or id of the API key; "" where the API asks for no credential.
        credential: Which of these.
        opened: What was opened.
        user: Keyed hash of the user's id.
    """

    at: str
    who: str
    credential: Literal["person", "key", "none"]
    opened: Opened
    user: str


class Audit:
    """Writes audit lines."""

    def __init__(
        self, key: bytes, metrics: Metrics, clock_ms: Callable[[], int], write: Callable[[str], None] = logger.info
    ) -> None:
        """`key` of the hash; `write` takes a line, and raises OSError where that fails."""
        self._key = key
        self._metrics = metrics
        self._clock_ms = clock_ms
        self._write = write

    def note(self, caller: Caller, user_id: str, opened: Opened) -> None:
        """Writes who opens what.

        Raises:
            ApiError: it cannot be written, so the caller must not see it.
        """
        at = datetime.fromtimestamp(self._clock_ms() / 1_000, UTC).isoformat(timespec="milliseconds")
        who, credential = _names(caller)
        line = AuditLine(at, who, credential, opened, self.hash_user(user_id))
        try:
            self._write(_encode(line).decode())
        except OSError as error:
            self._metrics.counter("api_audit_lines", "failed").inc()
            logger.error("the audit log cannot be written (%s), so no profile is shown: see api.audit_file", error)  # noqa: TRY400
            raise ApiError(503, "the audit log cannot be written, so nothing is shown", {"Retry-After": "10"}) from None
        self._metrics.counter("api_audit_lines", "written").inc()

    def hash_user(self, user_id: str) -> str:
        return hmac.new(self._key, user_id.encode(), hashlib.sha256).hexdigest()


def _names(caller: Caller) -> tuple[str, Literal["person", "key", "none"]]:
    if caller.subject is not None:
        return caller.subject, "person"
    return ("", "none") if caller.key is None else (caller.key.key_id, "key")


class AuditFile:
    """Appends lines to a file, which is opened for each, so that it may be rotated, and so that processes may share it."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where it cannot be written."""
        self._path = path
        self._is_torn = False
        os.close(self._open())

    def append(self, line: str) -> None:
        """Raises OSError where the line is not in the file whole. Then the next begins on a line of its own."""
        content = f"{line}\n".encode()
        content = b"\n" + content if self._is_torn else content
        file = self._open()
        try:
            written = os.write(file, content)
            self._is_torn = written < len(content)
        finally:
            os.close(file)
        if self._is_torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
