"""The API's HTTP server: its port, TLS, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from typing import TYPE_CHECKING, Any, Final

from stream.errors import IsthmusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from litestar.types import ASGIApp

    from stream.api.context import Api
    from stream.metrics import Metrics
    from stream.process_settings import ApiSettings

logger = logging.getLogger("isthmus")
GRACE_S: Final = 2  # for answers in flight when the process ends


async def serve(api: Api, metrics: Metrics, stop: asyncio.Event, say: Callable[[str], None] = logger.info) -> None:
    """Serves HTTP, and metrics on a separate port, until `stop`.

    Raises:
        IsthmusError: a port is taken, or TLS files cannot be used.
    """
    import uvicorn

    from stream.api.app import make_app

    own = api.settings
    _check_tls(own)
    if api.insecure:
        logger.warning("--insecure: whoever reaches %s:%d reads, writes and erases every user", own.host, own.port)
    config = uvicorn.Config(
        _aborting(make_app(api, metrics)),
        access_log=False,  # paths hold user ids
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        proxy_headers=bool(own.trusted_proxies),
        forwarded_allow_ips=list(own.trusted_proxies),
        ssl_certfile=own.tls_certificate,
        ssl_keyfile=own.tls_key,
    )
    listening, server = _listen(own), _server(config)
    metrics_server, _ = metrics.serve(own.metrics_port, api.health)
    scheme, port = "https" if own.tls_certificate else "http", listening.getsockname()[1]
    say(f"API at {scheme}://{own.host}:{port}")
    say(f"metrics and health at http://127.0.0.1:{metrics_server.server_port}/metrics, /livez, /readyz")
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        api.changes.end()
        server.should_exit = True
        await serving
        metrics_server.shutdown()
        metrics_server.server_close()


def _aborting(app: ASGIApp) -> Any:
    """Tells the application how to close a connection whose client reads nothing: ASGI has no message for it, and a mere close
    waits for the client. The server's `send` is a method of what holds the connection; tests notice where it no longer is.
    """
    from stream.api.stream_places import ABORT

    async def aborting(scope: Any, receive: Any, send: Any) -> None:
        transport = getattr(getattr(send, "__self__", None), "transport", None)
        if transport is not None:
            scope["state"][ABORT] = transport.abort
        await app(scope, receive, send)

    return aborting


def _check_tls(own: ApiSettings) -> None:
    """Raises IsthmusError where certificate and key cannot be used."""
    import ssl

    if own.tls_certificate is None:
        if own.tls_key is not None:
            raise IsthmusError("api.tls_key is set without api.tls_certificate: plain HTTP would be served")
        return
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(own.tls_certificate, own.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise IsthmusError(f"api.tls_certificate and api.tls_key cannot be used: {error}") from None


def _listen(own: ApiSettings) -> socket.socket:
    """The bound port; uvicorn would end the process where it is taken."""
    if own.tls_certificate is None and not ipaddress.ip_address(socket.gethostbyname(own.host)).is_loopback:
        logger.warning("API keys cross the network in the clear: set api.tls_certificate, or let a proxy end TLS")
    try:
        return socket.create_server((own.host, own.port))
    except OSError as error:
        raise IsthmusError(
            f"{own.host}:{own.port} cannot be listened on ({error.strerror}): choose another with --host and --port"
        ) from error


def _server(config: Any) -> Any:
    """A uvicorn server that leaves signals to the process."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(config)
