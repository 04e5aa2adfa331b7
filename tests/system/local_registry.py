"""A real schema registry on loopback: Apicurio Registry, which speaks Confluent's API below `/apis/ccompat/v7`."""

import io
import json
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

import fastavro
import httpx
import pytest

from stream.kafka.cluster.local_broker import CHECKOUT, free_port

_START_S: Final = 90.0


def registry_or_skip() -> Path:
    """The registry's jar. Without it, tests are skipped on a developer's machine and fail in CI."""
    assert CHECKOUT is not None
    found = sorted((CHECKOUT / "build" / "registry").glob("*-runner.jar"))
    if found:
        return found[-1]
    reason = "no schema registry: `make setup-kafka` fetches it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class LocalRegistry:
    """Keeps its schemas in memory."""

    def __init__(self, folder: Path) -> None:
        self._jar = registry_or_skip()
        self._log = folder / "registry.log"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._schemas: dict[bytes, Any] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/apis/ccompat/v7"

    def __enter__(self) -> Self:
        options = ["-Xmx384m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dquarkus.http.host=127.0.0.1"]
        command = ["java", *options, f"-Dquarkus.http.port={self._port}", "-jar", str(self._jar)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()[-2_000:]
            assert time.monotonic() < deadline, self._log.read_text()[-2_000:]
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/subjects", timeout=5).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def register(self, subject: str, schema: str, kind: str = "AVRO", references: Sequence[dict[str, Any]] = ()) -> int:
        """Registers a schema as a producer's serializer does; returns its id."""
        document = {"schema": schema, "schemaType": kind, "references": list(references)}
        answer = httpx.post(f"{self.url}/subjects/{subject}/versions", json=document, timeout=30)
        answer.raise_for_status()
        return int(answer.json()["id"])

    def read(self, value: bytes) -> Any:
        """A framed Avro value, read with the schema that the registry has under its id."""
        schema = self._schemas.get(value[:5])
        if schema is None:
            answer = httpx.get(f"{self.url}/schemas/ids/{int.from_bytes(value[1:5])}", timeout=30)
            schema = self._schemas[value[:5]] = fastavro.parse_schema(json.loads(answer.json()["schema"]))
        return fastavro.schemaless_reader(io.BytesIO(value[5:]), schema, None)
