"""Clients of the API on bare sockets: a thousand open event streams in one event loop, and a sender at a fixed rate."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

import msgspec

from stream.api.answers import ListAnswer

SENDERS: Final = 16
OPENING: Final = 50
"""Streams that are opened at the same time."""
_decode: Final = msgspec.json.Decoder(ListAnswer).decode


class Arrival(NamedTuple):
    """One list on a stream.

    Attributes:
        at: When, on the clock of `time.perf_counter`, s.
        at_ms: When, ms since 1970, to compare with Kafka's timestamps.
        event_id: Its id on the stream.
        answer: The list.
    """

    at: float
    at_ms: float
    event_id: str
    answer: ListAnswer


class Streams:
    """Open streams, one a user, and what came on each."""

    def __init__(self, port: int, key: str, users: Sequence[str]) -> None:
        self.arrivals: dict[str, list[Arrival]] = {user: [] for user in users}
        self._port = port
        self._key = key
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Opens them all, and waits until each has its first list."""
        users = list(self.arrivals)
        for first in range(0, len(users), OPENING):
            some = users[first : first + OPENING]
            self._tasks += [asyncio.create_task(self._follow(user)) for user in some]
            async with asyncio.timeout(60):
                while not all(self.arrivals[user] for user in some):
                    self.check()
                    await asyncio.sleep(0.01)

    def check(self) -> None:
        """Raises what ended a stream: none ends by itself."""
        for task in self._tasks:
            if task.done():
                task.result()
                raise ConnectionError("the API ended a stream")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, user: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(_request("GET", f"/v1/users/{user}/events", self._key))
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                raise ConnectionError(f"no stream: {head.decode()}")
            async for event in _events(reader):
                fields = dict(line.split(": ", 1) for line in event.decode().splitlines() if not line.startswith(":"))
                if fields.get("event") == "list":
                    answer = _decode(fields["data"])
                    self.arrivals[user].append(Arrival(time.perf_counter(), time.time() * 1_000, fields["id"], answer))
        finally:
            writer.close()


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The events of a chunked body."""
    held = b""
    while size := int(await reader.readline() or b"0", 16):
        held += (await reader.readexactly(size + 2))[:-2]
        *events, held = held.split(b"\n\n")
        for event in events:
            yield event


class Sent(NamedTuple):
    """One purchase that is due, and when: s on `time.perf_counter`, ms since 1970."""

    user: str
    item: str
    event_id: str
    due: float
    due_ms: float


async def send(port: int, key: str, purchases: Sequence[tuple[str, str, str]], rate: float) -> list[Sent]:
    """Posts purchases (user, item, event id) at `rate` a second, one a request. The clock of each starts when it is due.

    Raises:
        ConnectionError: the API did not accept one.
    """
    due: asyncio.Queue[Sent | None] = asyncio.Queue()
    sent: list[Sent] = []

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (one := await due.get()) is not None:
            writer.write(_request("POST", "/v1/events", key, _purchase(one)))
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            if not head.startswith(b"HTTP/1.1 202"):
                raise ConnectionError(f"an event was not accepted: {(head + body).decode()}")
            sent.append(one)
        writer.close()

    async def pace() -> None:
        began, began_ms = time.perf_counter(), time.time() * 1_000
        for number, purchase in enumerate(purchases):
            after = number / rate
            await asyncio.sleep(max(0.0, began + after - time.perf_counter()))
            due.put_nowait(Sent(*purchase, began + after, began_ms + after * 1_000))
        for _ in range(SENDERS):
            due.put_nowait(None)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(SENDERS):
            tasks.create_task(connection())
        tasks.create_task(pace())
    return sent


def _purchase(one: Sent) -> bytes:
    event = {"type": "purchase", "user_id": one.user, "occurred_at": int(one.due_ms), "items": [one.item], "event_id": one.event_id}
    return msgspec.json.encode({"events": [event]})


def _request(method: str, path: str, key: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{head}{kind}\r\n".encode() + body
