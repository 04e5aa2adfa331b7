"""Reads of the API: latency at a fixed rate and requests per core, from a store of a million users, beside a bare route.

    python -m tests.benchmarks.api [--users 1000000] [--seconds 10]

Both servers run on one core, one after the other, in alternating rounds; the client has the other core. Latencies count from the
moment at which a request was due, so that a slow server cannot slow the client down. Writes build/api.json.
"""

import argparse
import asyncio
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil

RATE: Final = 1_000
CONNECTIONS: Final = 32
ROUNDS: Final = 3
PARTITIONS: Final = 8


async def fill(folder: Path, users: int) -> None:
    """A store as a follower leaves it: list, head and facts of every user."""
    from stream.api.profiles import summary_of
    from stream.api.rocksdb_store import RocksDBStore
    from stream.api.store import Position, Row, Table
    from stream.core.outputs import Cause, Modalities, ModelName, RankedItem, Recommendation
    from stream.core.partitioner import partition_of
    from stream.core.state import Facts, Head, encode_state

    store = RocksDBStore(folder)
    encode = msgspec.json.Encoder().encode
    head, facts = summary_of(b"h", encode_state(Head(owned=("item-3",)))), summary_of(b"f", encode_state(Facts()))
    positions: dict[tuple[Table, int], Position] = {}
    for table in Table:
        for number in range(PARTITIONS):
            began = await store.begin(table, number, 1, 0, None)
            assert began is not None
            positions[table, number] = began
    rows: dict[tuple[Table, int], list[Row]] = {one: [] for one in positions}

    async def write(one: tuple[Table, int]) -> None:
        table, number = one
        after = positions[one].next_offset
        positions[one] = msgspec.structs.replace(positions[one], next_offset=after + len(rows[one]))
        await store.write(table, number, rows[one], positions[one], after)
        rows[one] = []

    for index in range(users):
        user = f"user-{index}".encode()
        number = partition_of(user, PARTITIONS)
        ranked = [RankedItem(f"item-{(index + rank) % 24}", rank + 1, 0.9 - rank / 100) for rank in range(15)]
        made = Recommendation(
            recommendation_id=f"{index:024x}",
            user_id=user.decode(),
            occurred_at=1_790_000_000_000,
            caused_by=Cause("e", "click", 0),  # type: ignore[arg-type]
            model=ModelName("isthmus", "7"),
            items=tuple(ranked[:5]),
            reserve=tuple(ranked[5:]),
            modalities=Modalities(2, 1),
        )
        for table, key, value in (
            (Table.LISTS, user, encode(made)),
            (Table.STATES, b"h" + user, head),
            (Table.STATES, b"f" + user, facts),
        ):
            held = rows[table, number]
            held.append(Row(key, value, positions[table, number].next_offset + len(held)))
            if len(held) == 2_000:
                await write((table, number))
    for one in list(positions):
        await write(one)
        await store.complete(*one, positions[one])
    store.compact()  # or the first server would compact while it is measured
    await store.close()


async def serve(folder: Path, port: int) -> None:
    """One replica on that store and an empty log, with one key; writes the key, and the seconds until it was ready."""
    from stream.api.api_keys import Scope, encode_api_key, make_api_key
    from stream.api.rocksdb_store import RocksDBStore
    from stream.core.events import Item
    from stream.core.ranking import Catalogue
    from stream.kafka.cluster.topics import specs
    from stream.kafka.embedded.event_sink import EmbeddedEventSink
    from stream.kafka.embedded.log import Log
    from stream.kafka.embedded.log_reader import EmbeddedLogReader
    from stream.metrics import Metrics
    from stream.process_settings import ApiSettings
    from stream.services.api import following, make_parts
    from stream.services.http_server import serve as serve_http
    from stream.settings import Settings, TopicSettings

    began = time.perf_counter()
    topics = TopicSettings(partitions=PARTITIONS)
    settings = Settings(topics=topics, api=ApiSettings(port=port, metrics_port=0))
    log = Log()
    log.create_topics(specs(topics))
    for topic in log.topics.values():
        topic.epoch = 1
        for partition in topic.partitions:
            partition.next = 1 << 40
    store, metrics, stop = RocksDBStore(folder), Metrics(), asyncio.Event()
    reader = EmbeddedLogReader(log)
    reader.open = lambda _: _opened(store, reader, settings)  # type: ignore[method-assign,assignment]
    parts = make_parts(settings, store, reader, EmbeddedEventSink(log, topics.model_dump()), metrics)
    parts.current.catalogue = Catalogue(Item(f"item-{number}", f"Item {number}") for number in range(24))
    secret, key = make_api_key("bench", [Scope.READ], 0)
    parts.api.keys._add(encode_api_key(key))
    async with following(parts, stop):
        await parts.follower.ready.wait()
        (folder.parent / "key").write_text(secret)
        (folder.parent / "ready_s").write_text(f"{time.perf_counter() - began:.2f}")
        await serve_http(parts.api, metrics, stop, lambda _: None)


async def _opened(store: Any, reader: Any, settings: Any) -> Any:
    """Bounds that end where the store does: nothing is left to read."""
    from stream.api.store import Table
    from stream.kafka.cluster.log_reader import Bounds
    from stream.kafka.cluster.topics import changelog_name

    bounds = {}
    for topic, table in ((settings.topics.recommendations, Table.LISTS), (changelog_name("isthmus-profiles"), Table.STATES)):
        for number in range(PARTITIONS):
            position = await store.position(table, number)
            bounds[topic, number] = Bounds(0, position.next_offset)
            reader._positions[topic, number] = position.next_offset
    return bounds


def bare(port: int) -> None:
    """The yardstick: one route of the same framework that answers a fixed list."""
    import uvicorn
    from litestar import Litestar, get

    from stream.api.answers import ListAnswer, OfferedItem

    fixed = ListAnswer(user_id="u", items=tuple(OfferedItem(f"item-{n}", n, f"Item {n}", 0.5) for n in range(5)), age_s=0.1)

    @get("/v1/users/{user_id:str}/recommendations")
    async def answer(user_id: str) -> ListAnswer:
        del user_id
        return fixed

    uvicorn.run(Litestar([answer], logging_config=None), port=port, access_log=False, log_config=None)


async def load(port: int, key: str, users: int, seconds: float, rate: int | None) -> list[float]:
    """Latencies in ms; at `rate` requests a second, or as fast as the server answers."""
    due: asyncio.Queue[float] = asyncio.Queue()
    latencies: list[float] = []
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds

    async def connection() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while loop.time() < end:
            if rate is None:
                began = loop.time()
            else:
                began = await due.get()
            user = random.randrange(users)
            writer.write(
                b"GET /v1/users/user-%d/recommendations HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n"
                % (user, key.encode())
            )
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(size)
            latencies.append((loop.time() - began) * 1_000)
        writer.close()

    async def pace() -> None:
        start, sent = loop.time(), 0
        while loop.time() < end:
            wanted = int((loop.time() - start) * (rate or 0))
            for number in range(sent, wanted):
                due.put_nowait(start + number / (rate or 1))
            sent = wanted
            await asyncio.sleep(0.001)
        for _ in range(CONNECTIONS):
            due.put_nowait(loop.time())

    work = [connection() for _ in range(CONNECTIONS if rate else 8)]
    await asyncio.gather(*work, *([pace()] if rate else []))
    return latencies


def measure(arguments: list[str], port: int, key_file: Path, users: int, seconds: float) -> dict[str, float]:
    """One server on core 0: latency at the rate, then requests per CPU second of the server, and its memory."""
    child = subprocess.Popen(["taskset", "-c", "0", sys.executable, "-m", "tests.benchmarks.api", *arguments])
    process = psutil.Process(child.pid)
    try:
        _wait(port)
        key = key_file.read_text() if key_file.exists() else "none"
        asyncio.run(load(port, key, users, 1, None))
        latencies = sorted(asyncio.run(load(port, key, users, seconds, RATE)))
        before = process.cpu_times()
        fast = asyncio.run(load(port, key, users, seconds / 2, None))
        after = process.cpu_times()
        used_s = after.user + after.system - before.user - before.system
        return {
            "p50_ms": round(latencies[len(latencies) // 2], 2),
            "p99_ms": round(latencies[int(len(latencies) * 0.99)], 2),
            "requests_per_cpu_s": round(len(fast) / used_s),
            "cpu_us_per_request": round(used_s / len(fast) * 1e6),
            "resident_mb": round(process.memory_info().rss / 1e6),
        }
    finally:
        child.terminate()
        child.wait()


def _wait(port: int) -> None:
    import socket

    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise SystemExit("the server did not come")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--bare", action="store_true")
    parser.add_argument("--port", type=int, default=18_080)
    options = parser.parse_args()
    import uvloop

    if options.serve:
        uvloop.run(serve(options.serve, options.port))
        return
    if options.bare:
        bare(options.port)
        return
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        began = time.perf_counter()
        asyncio.run(fill(store, options.users))
        size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
        found: dict[str, Any] = {
            "users": options.users,
            "store_mb": round(size / 1e6),
            "fill_s": round(time.perf_counter() - began, 1),
        }
        port = str(options.port)
        for number in range(ROUNDS):
            found[f"api_{number}"] = measure(
                ["--serve", str(store), "--port", port], options.port, store.parent / "key", options.users, options.seconds
            )
            found[f"bare_{number}"] = measure(
                ["--bare", "--port", port], options.port, Path("none"), options.users, options.seconds
            )
        found["ready_s"] = float((store.parent / "ready_s").read_text())
    found["client_peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1_000
    Path("build").mkdir(exist_ok=True)
    Path("build/api.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
