"""Runs a real Kafka broker on loopback, one Java process from plain jars, for tests, benchmarks and `isthmus demo --kafka`.

Not for production: one node, replication 1, no authentication.
"""

import base64
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Self
from uuid import uuid4

from stream.errors import IsthmusError

CHECKOUT: Final = next((folder for folder in Path(__file__).parents if (folder / "deploy" / "kafka" / "pom.xml").exists()), None)
"""The source checkout that this module belongs to, known by the file that names the jars; None in an installed package."""
JARS: Final = (CHECKOUT / "build" if CHECKOUT else Path(os.path.expanduser("~/.cache/isthmus"))) / "kafka"  # noqa: PTH111  (see settings)
START_S: Final = 60.0
_JVM: Final = ("-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_CLASSES: Final = "classes.jsa"  # the JVM's archive of loaded classes, beside the jars: half of a start is loading them


class LocalKafka:
    """A broker that keeps its data in `folder`. After `stop` (SIGTERM) or `kill` (-9) it may be started again with the same port.

    `properties`, set before the first start, override the broker's own; tests use them to form a cluster.
    """

    def __init__(self, folder: Path, jars: Path | None = None) -> None:
        self.jars = jars or Path(os.environ.get("ISTHMUS_KAFKA_JARS", JARS))
        reason = missing_requirement(self.jars)
        if reason is not None:
            raise IsthmusError(reason)
        self.folder = folder
        self.port, self.controller_port = free_ports(2)
        self.properties: dict[str, str] = {}
        archive = self.jars / _CLASSES
        self.jvm = (*_JVM, f"-XX:SharedArchiveFile={archive}") if archive.exists() else _JVM
        self.cluster_id = random_cluster_id()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise IsthmusError("the local broker is not running: call start() first")
        return self._process.pid

    def start(self) -> Self:
        """Formats the folder the first time, starts the broker and waits until it accepts connections.

        Raises:
            IsthmusError: it cannot be started.
        """
        properties = self.folder / "server.properties"
        if not properties.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            properties.write_text("".join(f"{name}={value}\n" for name, value in self._all_properties().items()))
            self.format()
        log = (self.folder / "broker.log").open("ab")
        command = ["java", *self.jvm, "-cp", f"{self.jars}/*", "kafka.Kafka", str(properties)]
        self._process = subprocess.Popen(  # noqa: S603  (our own command)
            command,
            stdout=log,
            stderr=log,
            cwd=self.folder,
            process_group=0,  # Ctrl-C in a terminal reaches this process only, which stops the broker last
        )
        log.close()
        self._wait_until_ready()
        return self

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise IsthmusError(f"the local broker exited while starting: see {self.folder / 'broker.log'}")
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        self.kill()
        raise IsthmusError(f"the local broker was not ready within {START_S:.0f} s: see {self.folder / 'broker.log'}")

    def format(self) -> None:
        """Formats the log directories that are new or were deleted."""
        properties = str(self.folder / "server.properties")
        command = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", self.cluster_id, "-c", properties]
        done = subprocess.run(  # noqa: S603  (our own command)
            ["java", *self.jvm, "-cp", f"{self.jars}/*", *command],  # noqa: S607
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
        )
        if done.returncode:
            raise IsthmusError(f"the local broker's folder {self.folder} could not be formatted:\n{done.stdout[-2_000:]}")

    def _all_properties(self) -> dict[str, str]:
        own = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "8",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.num.partitions": "8",
            "transaction.state.log.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
        }
        return own | self.properties


def archive_classes(jars: Path = JARS) -> None:
    """Starts and stops a broker to archive the JVM's loaded classes beside the jars: later brokers start in half the time."""
    with tempfile.TemporaryDirectory(prefix="isthmus-kafka-") as folder:
        kafka = LocalKafka(Path(folder), jars)
        kafka.jvm = (*_JVM, f"-XX:ArchiveClassesAtExit={jars / _CLASSES}")
        with kafka:
            pass


def random_cluster_id() -> str:
    """22 characters of URL-safe base64 without a leading dash, as Kafka's own tool returns."""
    encoded = base64.urlsafe_b64encode(uuid4().bytes).rstrip(b"=").decode()
    return encoded if encoded[0] != "-" else random_cluster_id()


def missing_requirement(jars: Path | None = None) -> str | None:
    """What is missing to run a local broker, and what to do about it; None if nothing is."""
    jars = jars or Path(os.environ.get("ISTHMUS_KAFKA_JARS", JARS))
    if shutil.which("java") is None:
        return "a local Kafka broker needs Java 17: `make setup-kafka` installs it, or name a broker with --bootstrap HOST:PORT"
    if not any(jars.glob("kafka_*.jar")):
        return f"Kafka's jars are not in {jars}: run `make setup-kafka`, or name a broker with --bootstrap HOST:PORT"
    return None


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Distinct free ports: all are held until the last is found."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
