"""A deployment for the API's benchmarks: a local broker, its topics, a key, and `isthmus` processes beside them."""

import json
import os
import resource
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from stream.kafka.cluster.local_broker import LocalKafka, free_port
from stream.kafka.cluster.topics import create_or_check
from stream.services.child_processes import ChildProcess, wait_for
from stream.settings import TopicSettings

TOPICS: Final = TopicSettings(partitions=4)


class Deployment:
    """Processes on one broker; `stop` ends those that still run."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.bootstrap = bootstrap
        self.folder = folder
        self.port = free_port()
        self.children: list[ChildProcess] = []
        self.environment = {
            "ISTHMUS_KAFKA__BOOTSTRAP": bootstrap,
            "ISTHMUS_KAFKA__DEV": "true",
            "ISTHMUS_TOPICS__PARTITIONS": str(TOPICS.partitions),
            "ISTHMUS_WORKER__STATE_DIR": str(folder / "worker"),
            "ISTHMUS_WORKER__STATIC_MEMBERSHIP": "false",
            "ISTHMUS_API__STATE_DIR": str(folder / "api"),
            "ISTHMUS_API__MAX_CONNECTIONS_OF_AN_ADDRESS": "0",  # all clients have one
        }
        self.key = self._make_key()

    def _make_key(self) -> str:
        command = [sys.executable, "-m", "stream.cli.main", "keys", "make", "bench", "--scope", "admin"]
        done = subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    def start(self, *arguments: str, **environment: str) -> ChildProcess:
        """Starts `isthmus` with these arguments; its metrics are on a port of their own."""
        log = self.folder / f"{arguments[0]}.log"
        child = ChildProcess([*arguments, "--metrics-port", "0"], {**self.environment, **environment}, log)
        self.children.append(child)
        return child

    def start_api(self, **environment: str) -> ChildProcess:
        return self.start("api", "--port", str(self.port), **environment)

    def wait_until_ready(self, timeout_s: float) -> None:
        wait_for(self._is_ready, self.children, timeout_s, "the API's readiness")

    def _is_ready(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5).status == 200)
        except OSError:
            return False

    def post(self, path: str, body: Any) -> Any:
        """What the API answers; None where it refuses or is not there."""
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.loads(answer.read())
        except OSError:
            return None

    def stop(self) -> None:
        for child in self.children:
            child.stop()
        self.children.clear()


@contextmanager
def deployment(folder: Path) -> Iterator[Deployment]:
    """A broker with empty topics, and no process yet."""
    raise_open_files()
    with LocalKafka(folder / "kafka") as broker:
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        made = Deployment(broker.bootstrap, folder)
        try:
            yield made
        finally:
            made.stop()


def raise_open_files() -> None:
    """A thousand streams are more sockets than a process may open by default; child processes inherit the bound."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def used(child: ChildProcess | subprocess.Popen[bytes]) -> dict[str, float]:
    """CPU seconds of a child process since its start, and its resident memory, now and at most."""
    process = psutil.Process(child.pid)
    times = process.cpu_times()
    status = Path(f"/proc/{child.pid}/status").read_text()
    peak_kb = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {
        "cpu_s": round(times.user + times.system, 2),
        "resident_mb": round(process.memory_info().rss / 1e6),
        "peak_mb": round(peak_kb * 1_024 / 1e6),
    }


def say(began: float, text: str) -> None:
    """Progress, with the seconds since the beginning."""
    print(f"{time.perf_counter() - began:6.1f} s  {text}", file=sys.stderr, flush=True)
