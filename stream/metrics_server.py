"""The server of metrics and health. Its bounds keep it answering while clients hold connections open; it knows no metric."""

import logging
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from operator import itemgetter
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

logger = logging.getLogger("isthmus")
CLIENTS: Final = 64
"""Open connections to the port of metrics and health."""
CLIENT_S: Final = 10.0
"""How long such a connection may last."""
_LOG_EVERY_S: Final = 60.0


class MetricsServer(ThreadingMixIn, WSGIServer):
    """A thread for each client, for a bounded time. A client too many ends the oldest, which is the slowest: so scrapes and health
    checks are answered while others hold connections open.

    Attributes:
        note: Takes why a connection was closed.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: Callable[..., WSGIRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.note: Callable[[str], None] = lambda _: None
        self._since: dict[Any, float] = {}
        self._logged_at = -_LOG_EVERY_S
        super().__init__(address, handler)

    @property
    def url(self) -> str:
        """Where this machine finds it."""
        host = str(self.server_address[0])
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104  (all interfaces)
        return f"http://{host}:{self.server_port}"

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self._since) >= CLIENTS:
            oldest, _ = min(list(self._since.items()), key=itemgetter(1), default=(None, 0))
            self._close(oldest, "crowded_out")
        self._since[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        super().service_actions()
        before = time.monotonic() - CLIENT_S
        for request in [request for request, since in list(self._since.items()) if since < before]:
            self._close(request, "slow")

    def _close(self, request: Any, reason: str) -> None:
        """Ends what its thread waits for; the thread then closes it. The log says so once a minute."""
        if self._since.pop(request, None) is None:
            return
        self.note(reason)
        with suppress(OSError):
            request.shutdown(socket.SHUT_RDWR)
        if time.monotonic() - self._logged_at >= _LOG_EVERY_S:
            self._logged_at = time.monotonic()
            logger.warning(
                "a connection to the port of metrics and health was closed (%s): more than %d at once, or longer than %g s; "
                "health.metrics_host and a firewall keep others away from it",
                reason,
                CLIENTS,
                CLIENT_S,
            )

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing, where the client went away or was closed."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class SilentHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (its base's name)
        """Nothing: scrapes are not news."""
