"""Serves an application on a port, inside a test's event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn


def listening() -> socket.socket:
    """A free port on the loopback address."""
    return socket.create_server(("127.0.0.1", 0))


def url_of(port: socket.socket) -> str:
    return f"http://127.0.0.1:{port.getsockname()[1]}"


@asynccontextmanager
async def serving(app: Any, port: socket.socket) -> AsyncIterator[None]:
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
    running = asyncio.create_task(server.serve(sockets=[port]))
    try:
        yield
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def served(app: Any, before_end: Callable[[], None] = lambda: None) -> AsyncIterator[str]:
    """Serves an application on a free port and gives its address. `before_end` ends what would hold the server up."""
    port = listening()
    async with serving(app, port):
        try:
            yield url_of(port)
        finally:
            before_end()
