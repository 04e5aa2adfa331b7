"""A TCP proxy in front of a broker, whose connections can be broken as networks break them. Loopback only.

The broker advertises the proxy's port, so that every client goes through it.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from stream.kafka.cluster.local_broker import free_port

Result = TypeVar("Result")


class Proxy:
    """Forwards bytes between clients and `127.0.0.1:port`, in a thread with its own event loop."""

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self._target = port
        self._open = asyncio.Event()
        self._pairs: dict[asyncio.StreamWriter, tuple[asyncio.StreamWriter, list[asyncio.Task[None]]]] = {}
        self._stranded: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._call(self._serve())

    def stop(self) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def freeze(self) -> None:
        """Stops forwarding until `thaw`; no byte is lost."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def thaw(self) -> None:
        self._loop.call_soon_threadsafe(self._open.set)

    def strand(self) -> int:
        """Closes the broker's side of all connections and returns their number. Clients keep half-open connections that stay
        silent; new connections work.
        """
        return self._call(self._strand())

    def reset(self) -> int:
        """Closes both sides of all connections."""
        return self._call(self._reset())

    def _call(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _serve(self) -> None:
        self._open.set()
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)

    async def _connect(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, broker = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            client.close()
            return
        tasks = [asyncio.create_task(self._pass(reader, broker)), asyncio.create_task(self._pass(answers, client))]
        self._pairs[client] = (broker, tasks)
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if self._pairs.pop(client, None) is not None:
            self._close(client, broker, tasks)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                await self._open.wait()
                writer.write(data)
                await writer.drain()

    def _close(self, client: asyncio.StreamWriter, broker: asyncio.StreamWriter, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        client.close()
        broker.close()

    async def _strand(self) -> int:
        pairs, self._pairs = self._pairs, {}
        for broker, tasks in pairs.values():
            for task in tasks:
                task.cancel()
            broker.close()
        self._stranded += pairs
        return len(pairs)

    async def _reset(self) -> int:
        pairs, self._pairs = self._pairs, {}
        for client, (broker, tasks) in pairs.items():
            self._close(client, broker, tasks)
        return len(pairs)

    async def _end(self) -> None:
        self._server.close()
        await self._reset()
