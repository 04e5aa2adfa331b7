"""A replica of the API as a process of its own, on an embedded log: for tests that attack its port and look at its memory and log.

`python -m tests.served_replica FOLDER SETTINGS` writes one line of JSON: the port and credentials. A line `USER` on its standard
input gives that user another list each millisecond.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

from stream.api.api_keys import Scope
from stream.api.user_tokens import UserToken, sign_token
from tests import api

USERS = ("u", "v")


class Served(NamedTuple):
    """A running replica.

    Attributes:
        process: Its process.
        port: Port of the API.
        keys: A key of each scope.
        tokens: A token of each of `USERS`.
        log: Its log file.
    """

    process: subprocess.Popen[str]
    port: int
    keys: dict[str, str]
    tokens: dict[str, str]
    log: Path

    def peak_bytes(self) -> int:
        """The most memory that it has had so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1_024

    def flood(self, user: str) -> None:
        """Gives a user another list each millisecond from now on."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{user}\n")
        self.process.stdin.flush()


@contextmanager
def served_replica(folder: Path, **settings: Any) -> Iterator[Served]:
    """Runs a replica until the end of the context."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with log.open("wb") as errors:
        command = [sys.executable, "-m", "tests.served_replica", str(folder / "store"), json.dumps(settings)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        yield Served(process=process, log=log, **json.loads(line))
    finally:
        process.terminate()
        process.wait(timeout=30)


async def _serve(folder: Path, settings: dict[str, Any]) -> None:
    from stream.metrics import Metrics
    from stream.services.api import now_ms
    from stream.services.http_server import serve

    log, stop = api.new_log(), asyncio.Event()
    api.put_items(log)
    for user in USERS:
        api.put_list(log, user)
        api.put_state(log, user)
    async with api.replica(log, folder, **settings) as running:
        made = {scope.value: api.put_key(log, scope) for scope in Scope}
        await running.until(lambda: _known(running, {key.key_id for _, key in made.values()}), within_s=20)
        tokens = {user: sign_token(running.parts.api.signer, UserToken(user, now_ms(), now_ms() + 3_600_000)) for user in USERS}
        keys = {scope: secret for scope, (secret, _) in made.items()}

        def say(line: str) -> None:
            if line.startswith("API at "):
                print(json.dumps({"port": int(line.rsplit(":", 1)[1]), "keys": keys, "tokens": tokens}), flush=True)

        flooding = asyncio.create_task(_flood(log))
        await serve(running.parts.api, Metrics(), stop, say)
        flooding.cancel()


async def _known(running: api.Replica, key_ids: set[str]) -> bool:
    return key_ids <= {key.key_id for key in running.parts.api.keys.all()}


async def _flood(log: Any) -> None:
    user = await asyncio.to_thread(sys.stdin.readline)
    for number in count():
        api.put_list(log, user.strip(), recommendation_id=str(number))
        await asyncio.sleep(0.001)


def main() -> None:
    import uvloop

    from stream.services.startup import log_to_stderr

    log_to_stderr()
    uvloop.run(_serve(Path(sys.argv[1]), json.loads(sys.argv[2])))


if __name__ == "__main__":
    main()
