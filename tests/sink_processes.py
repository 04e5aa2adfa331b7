"""Processes of a sink, started, stopped, killed and paused by number, and the command for dead letters."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from signal import SIGCONT, SIGSTOP

from stream.kafka.cluster.local_broker import free_port
from stream.services.child_processes import ChildProcess
from tests.system.readiness import readiness


class Sinks:
    """Processes of `isthmus sink KIND`. The oldest running one has the number 0."""

    def __init__(self, kind: str, environment: Mapping[str, str], folder: Path) -> None:
        self._kind = kind
        self._environment = environment
        self._folder = folder
        self._ports: list[int] = []
        self.running: list[ChildProcess] = []

    def start(self) -> None:
        port = free_port()
        arguments = ["sink", self._kind, "--metrics-port", str(port)]
        self.running.append(ChildProcess(arguments, self._environment, self._folder / f"sink-{port}.log"))
        self._ports.append(port)

    def kill(self, number: int = 0) -> None:
        """With SIGKILL."""
        self._taken_out(number).kill()

    def stop(self, number: int = 0) -> None:
        """With SIGTERM."""
        self._taken_out(number).stop()

    def _taken_out(self, number: int) -> ChildProcess:
        self._ports.pop(number)
        return self.running.pop(number)

    def pause(self, number: int = 0) -> None:
        self.running[number].process.send_signal(SIGSTOP)

    def resume(self, number: int = 0) -> None:
        self.running[number].process.send_signal(SIGCONT)

    def are_ready(self) -> bool:
        return all(readiness(port) == "ok\n" for port in self._ports)

    def stop_all(self) -> None:
        while self.running:
            self.resume()
            self.stop()


def dead_letters(environment: Mapping[str, str], *arguments: str) -> str:
    """Runs `isthmus dead-letters` and returns its output."""
    command = [sys.executable, "-m", "stream.cli.main", "dead-letters", *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr
