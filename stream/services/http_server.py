"""The API's HTTP server: its port, TLS, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import resource
import socket
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

from stream.errors import IsthmusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stream.api.context import Api
    from stream.metrics import Metrics
    from stream.process_settings import ApiSettings

logger = logging.getLogger("isthmus")
GRACE_S: Final = 2  # for answers in flight when the process ends
OTHER_FILES: Final = 1_024
"""Open files beside clients' connections: of the store, above all."""
SENDING_BYTES: Final = 262_144
"""What the kernel keeps for a client that does not read. By default it is up to 4 MB, which a stream takes hours to fill."""


async def serve(
    api: Api, metrics: Metrics, stop: asyncio.Event, say: Callable[[str], None] = logger.info, metrics_host: str = ""
) -> None:
    """Serves HTTP, and metrics on a separate port, by default on all interfaces, until `stop`.

    Raises:
        IsthmusError: a port is taken, or TLS files cannot be used.
    """
    import uvicorn

    from stream.api.app import make_app
    from stream.api.connections import BoundedProtocol, Connections

    own = api.settings
    check_tls(own)
    if api.insecure:
        logger.warning("--insecure: whoever reaches %s:%d reads, writes and erases every user", own.host, own.port)
    config = uvicorn.Config(
        make_app(api, metrics),
        http=cast("Any", partial(BoundedProtocol, Connections(own, metrics))),
        ws="none",
        timeout_keep_alive=own.keep_alive_s,
        access_log=False,  # paths hold user ids
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        proxy_headers=bool(own.trusted_proxies),
        forwarded_allow_ips=list(own.trusted_proxies),
        ssl_certfile=own.tls_certificate,
        ssl_keyfile=own.tls_key,
    )
    _raise_file_limit(own.max_connections)
    listening, server = _listen(own), _server(config)
    metrics_server, _ = metrics.serve(own.metrics_port, api.health, metrics_host)
    scheme, port = "https" if own.tls_certificate else "http", listening.getsockname()[1]
    say(f"API at {scheme}://{own.host}:{port}")
    say(f"metrics and health at {metrics_server.url}/metrics, /livez, /readyz")
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


def _raise_file_limit(connections: int) -> None:
    """Lets the process have a file for each connection; warns where it may not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < needed:
            logger.warning("%d open files are allowed, and api.max_connections needs %d: raise `ulimit -Hn`", allowed, needed)


def check_tls(own: ApiSettings) -> None:
    """Raises IsthmusError if certificate and key of the API cannot be used; the message names the files."""
    import ssl

    if own.tls_certificate is None:
        if own.tls_key is not None:
            raise IsthmusError(
                "api.tls_key is set without api.tls_certificate: plain HTTP would be served; set the certificate that it belongs to"
            )
        return
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(own.tls_certificate, own.tls_key, "")  # without a password, OpenSSL would ask on the terminal
    except (OSError, ssl.SSLError) as error:
        what = error.strerror or (error.reason if isinstance(error, ssl.SSLError) else "") or type(error).__name__
        key = own.tls_key or "api.tls_key is not set: in the same file"
        raise IsthmusError(
            f"api.tls_certificate {own.tls_certificate} and its key ({key}) cannot be used ({what}): check both files, that they "
            "belong together, and that the key has no password"
        ) from None


def _listen(own: ApiSettings) -> socket.socket:
    """The bound port; uvicorn would end the process where it is taken."""
    if own.tls_certificate is None and not ipaddress.ip_address(socket.gethostbyname(own.host)).is_loopback:
        logger.warning("API keys cross the network in the clear: set api.tls_certificate, or let a proxy end TLS")
    try:
        listening = socket.create_server((own.host, own.port))
    except OSError as error:
        raise IsthmusError(
            f"{own.host}:{own.port} cannot be listened on ({error.strerror}): choose another with --host and --port"
        ) from error
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENDING_BYTES)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # of Linux: a client that vanished is noticed in this time, not in a quarter of an hour
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2_000 * own.answer_timeout_s))
    return listening


def _server(config: Any) -> Any:
    """A uvicorn server that leaves signals to the process."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

    return Server(config)
