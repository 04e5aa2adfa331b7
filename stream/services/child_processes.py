"""Child processes: `isthmus` commands on a broker, and the local broker that they use. They are ended by pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from stream.errors import IsthmusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

STOP_S: Final = 20.0


class ChildProcess:
    """One `isthmus` command, with `environment` added to this process's; its output goes to `log`.

    It has its own process group: Ctrl-C in a terminal reaches its parent only, which ends it in order.
    """

    def __init__(self, arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = " ".join(arguments[:1])
        self.log = log
        command = [sys.executable, "-m", "stream.cli.main", *arguments]
        with log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603  (our own command)
                command, stdout=output, stderr=output, env={**os.environ, **environment}, process_group=0
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def check(self) -> None:
        """Raises IsthmusError with the end of its log if it has ended by itself."""
        if self.process.poll() is not None:
            tail = self.log.read_text(errors="replace")[-2_000:]
            raise IsthmusError(f"`isthmus {self.name}` ended with code {self.process.returncode}:\n{tail}")

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def named_or_local_broker(bootstrap: str | None, folder: Path) -> Iterator[str]:
    """Yields the address of a broker: the named one, or a local one that is started in `folder` for the block."""
    with ExitStack() as stack:
        if bootstrap is None:
            from stream.kafka.cluster.local_broker import LocalKafka
            from stream.kafka.cluster.security import require_plain_for_local_broker

            require_plain_for_local_broker()
            bootstrap = stack.enter_context(LocalKafka(folder / "kafka")).bootstrap
        yield bootstrap


def wait_for(condition: Callable[[], bool], children: list[ChildProcess], timeout_s: float, what: str) -> None:
    """Polls `condition` until it is true.

    Raises:
        IsthmusError: a child ended by itself, or `timeout_s` passed; `what` names what did not happen.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        for child in children:
            child.check()
        if time.monotonic() > deadline:
            raise IsthmusError(f"{what} did not happen within {timeout_s:.0f} s")
        time.sleep(0.1)
