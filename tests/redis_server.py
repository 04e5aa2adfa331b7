"""A real Redis server, or a cluster of two, on loopback, for the tests of the shared store. Ended by pid."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

import pytest
from redis import Redis
from redis.exceptions import RedisError

from stream.kafka.cluster.local_broker import free_port, free_ports

START_S: Final = 30.0
SLOTS: Final = 16_384


class RedisServer:
    """A server that keeps its data in `folder`. After `stop` or `kill` (-9) it may be started again with the same port."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> Any:
        return Redis(port=self.port)

    def start(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        log = (self.folder / "redis.log").open("ab")
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        self._process = subprocess.Popen(["redis-server", *own, *self._options], stdout=log, stderr=log, process_group=0)
        log.close()
        self.until(lambda client: client.ping())
        return self

    def until(self, holds: Any) -> None:
        """Waits until what is asked of the server holds."""
        deadline = time.monotonic() + START_S
        with self.client() as client:
            while True:
                try:
                    if holds(client):
                        return
                except RedisError:
                    pass
                assert time.monotonic() < deadline, f"Redis did not get there: see {self.folder / 'redis.log'}"
                time.sleep(0.02)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_S)
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def redis_cluster(folder: Path) -> Iterator[RedisServer]:
    """Two servers with half of the slots each; yields one of them."""
    buses = dict(zip(("one", "two"), free_ports(2), strict=True))  # by default 10,000 above the port: not always a port
    servers = [RedisServer(folder / name, "--cluster-enabled", "yes", "--cluster-port", str(bus)) for name, bus in buses.items()]
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        for server, first in zip(servers, (0, SLOTS // 2), strict=True):
            with server.client() as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, first + SLOTS // 2 - 1)
        with servers[0].client() as client:
            client.execute_command("CLUSTER MEET", "127.0.0.1", servers[1].port, buses["two"])
        for server in servers:
            server.until(lambda client: is_whole(client.execute_command("CLUSTER INFO")))
        yield servers[0]


def is_whole(info: Any) -> bool:
    known = info if isinstance(info, dict) else dict(line.split(":") for line in info.decode().split())
    return known["cluster_state"] == "ok" and int(known["cluster_known_nodes"]) == 2


def redis_or_skip() -> None:
    if shutil.which("redis-server"):
        return
    reason = "redis-server is missing: `make setup-kafka` installs it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
