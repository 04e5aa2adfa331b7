"""A real PostgreSQL server on loopback with databases, for the sink's tests, chaos cases and benchmarks."""

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import psycopg

from stream.kafka.cluster.local_broker import free_port

FAST = ("fsync=off", "full_page_writes=off")


def binaries() -> Path | None:
    """Returns the folder of `initdb`, from the path or Debian's newest version; None without PostgreSQL."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).resolve().parent
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return debian[-1].parent if debian else None


class LocalPostgres:
    """A server with its own data folder. PostgreSQL refuses to run as root, so it then runs as the user `postgres`.

    `durable` is for tests that cut its power; all others do without fsync.
    """

    def __init__(self, *, settings: tuple[str, ...] = FAST) -> None:
        found = binaries()
        assert found is not None, "no PostgreSQL: `make setup-kafka` installs it"
        self._binaries = found
        self._settings = settings
        self._user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        self.folder = Path(tempfile.mkdtemp(prefix="isthmus-postgres-"))
        self.port = free_port()
        self.data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "-D", str(self.data), "-U", "test", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")

    def start(self) -> Self:
        options = [*self._settings, "listen_addresses=127.0.0.1", f"port={self.port}", f"unix_socket_directories={self.folder}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.data, *(part for one in options for part in ("-c", one))],
                stdout=log,
                stderr=log,
                process_group=0,
                **self._as_user(),
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.dsn("postgres")).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2_000:]
                time.sleep(0.05)
            else:
                return self

    def stop(self) -> None:
        """Ends the server and its connections at once, like a crash."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def dsn(self, database: str, port: int | None = None) -> str:
        return f"postgresql://test@127.0.0.1:{port or self.port}/{database}"

    def new_database(self) -> "Database":
        name = f"d{uuid4().hex[:12]}"
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return Database(self, name)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([self._binaries / program, *arguments], check=True, capture_output=True, cwd=self.folder, **self._as_user())

    def _as_user(self) -> dict[str, Any]:
        return {} if self._user is None else {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


class Database:
    """A database and its contents."""

    def __init__(self, server: LocalPostgres, name: str) -> None:
        self.server = server
        self.name = name

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    def ask(self, query: str) -> list[Any]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query)
            return [] if cursor.description is None else cursor.fetchall()

    def lists(self) -> dict[str, list[str]]:
        """Returns user -> items from the table with one row per user."""
        return {
            user: [one["item"] for one in items] for user, items in self._rows("SELECT user_id, items FROM isthmus.recommendations")
        }

    def ranks(self) -> dict[str, list[str]]:
        """Returns user -> items from the table with one row per user and rank."""
        found: dict[str, list[str]] = {}
        for user, item in self._rows("SELECT user_id, item FROM isthmus.recommended_items ORDER BY user_id, rank"):
            found.setdefault(user, []).append(item)
        return found

    def _rows(self, query: str) -> list[Any]:
        """Returns no rows while the sink has not created the table."""
        try:
            return self.ask(query)
        except psycopg.errors.UndefinedTable:
            return []


class CommitCutter:
    """A proxy that cuts the next `cuts` connections at the answer to a COMMIT, so that the client does not know the outcome."""

    def __init__(self, port: int, cuts: int) -> None:
        self.port = free_port()
        self.cuts = cuts
        self._target = port
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        forward = asyncio.create_task(self._pass(reader, server, lambda _: False))
        back = asyncio.create_task(self._pass(answers, writer, self._is_cut))
        await asyncio.wait({forward, back}, return_when=asyncio.FIRST_COMPLETED)
        for task, end in ((forward, server), (back, writer)):
            task.cancel()
            end.close()

    def _is_cut(self, data: bytes) -> bool:
        if b"COMMIT\0" not in data or not self.cuts:
            return False
        self.cuts -= 1
        return True

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: Callable[[bytes], bool]) -> None:
        with contextlib.suppress(OSError):
            while (data := await reader.read(1 << 16)) and not ends(data):
                writer.write(data)
                await writer.drain()


def sink_variables(bootstrap: str, database: Database, partitions: int) -> Mapping[str, str]:
    """Returns the environment of a sink's process."""
    return {
        "ISTHMUS_KAFKA__BOOTSTRAP": bootstrap,
        "ISTHMUS_KAFKA__DEV": "true",
        "ISTHMUS_TOPICS__PARTITIONS": str(partitions),
        "ISTHMUS_POSTGRES__DSN": database.dsn,
    }
