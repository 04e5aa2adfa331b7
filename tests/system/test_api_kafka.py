"""The API on real Kafka, as processes: events in by HTTP, the list out by HTTP, erasure, keys, a kill and an empty store."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stream.core.events import Item
from stream.kafka.cluster.local_broker import LocalKafka, free_port
from stream.kafka.cluster.producer import InputRecord, produce
from stream.kafka.cluster.topics import create_or_check
from stream.services.child_processes import ChildProcess, wait_for
from stream.settings import TopicSettings
from tests.system.needs import broker_or_skip

TOPICS = TopicSettings(partitions=2)
ITEMS = tuple(f"item-{number}" for number in range(8))


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalKafka]:
    broker_or_skip()
    with LocalKafka(tmp_path / "kafka") as running:
        create_or_check(running.bootstrap, TOPICS, dev=True)
        yield running


class Site:
    """A site's backend: calls the API with a key."""

    def __init__(self, port: int, key: str) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self.key = key

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        request = urllib.request.Request(self._url + path, method=method, headers={"Authorization": f"Bearer {self.key}"})
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, None
        except OSError:
            return 0, None

    def is_ready(self) -> bool:
        try:
            return bool(urllib.request.urlopen(self._url + "/readyz", timeout=5).status == 200)
        except OSError:
            return False


def age_s(site: Site) -> float:
    return float(site.ask("GET", "/v1/users/u/profile")[1]["age_s"])


def variables(bootstrap: str, folder: Path) -> Mapping[str, str]:
    return {
        "ISTHMUS_KAFKA__BOOTSTRAP": bootstrap,
        "ISTHMUS_KAFKA__DEV": "true",
        "ISTHMUS_TOPICS__PARTITIONS": str(TOPICS.partitions),
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "worker"),
        "ISTHMUS_WORKER__STATIC_MEMBERSHIP": "false",
        "ISTHMUS_API__STATE_DIR": str(folder / "api"),
        "ISTHMUS_API__SEND_TIMEOUT_S": "2",
    }


def keys(environment: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "stream.cli.main", "keys", *arguments]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


async def test_a_click_by_http_becomes_a_list_by_http(broker: LocalKafka, tmp_path: Path) -> None:
    """A replica that was killed says what the topics say, one whose broker is away says how old it is, an erasure ends the list,
    and a revoked key opens nothing.
    """
    environment, port = variables(broker.bootstrap, tmp_path), free_port()
    records = [InputRecord("items", item, msgspec.json.encode(Item(item, item.title()))) for item in ITEMS]
    await produce(broker.bootstrap, records, TOPICS.model_dump(), lambda _: None)
    site = Site(port, keys(environment, "make", "site", "--scope", "admin"))
    arguments = ["api", "--port", str(port), "--metrics-port", "0"]
    api = ChildProcess(arguments, environment, tmp_path / "api.log")
    worker = ChildProcess(["worker", "--metrics-port", "0"], environment, tmp_path / "worker.log")
    try:
        wait_for(site.is_ready, [api, worker], 60, "the API did not get there")
        now = time.time_ns() // 1_000_000
        click = {"type": "click", "user_id": "u", "occurred_at": now, "tags": ["home"]}
        status, answer = site.ask("POST", "/v1/events", {"events": [click]})
        assert (status, answer["results"][0]["status"]) == (202, "accepted")
        wait_for(lambda: site.ask("GET", "/v1/users/u/profile")[0] == 200, [api, worker], 60, "the API did not get there")
        wait_for(
            lambda: "recommendation_id" in site.ask("GET", "/v1/users/u/recommendations")[1],
            [api, worker],
            20,
            "the API did not get there",
        )
        assert [one["item"] for one in site.ask("GET", "/v1/users/u/recommendations")[1]["items"]] == list(ITEMS[:5])

        api.kill()
        api = ChildProcess(arguments, environment, tmp_path / "api-again.log")
        wait_for(site.is_ready, [api, worker], 60, "the API did not get there")
        assert site.ask("GET", "/v1/users/u/profile")[1]["interactions"] == 1

        broker.stop()
        wait_for(lambda: age_s(site) > 2, [api], 20, "the answers do not say that they are old")
        assert site.is_ready()
        assert site.ask("POST", "/v1/events", {"events": [click]})[0] == 503
        broker.start()
        wait_for(lambda: age_s(site) < 2, [api], 60, "the API did not come back to the broker")
        wait_for(lambda: site.ask("POST", "/v1/events", {"events": [click]})[0] == 202, [api], 60, "no event was taken")

        _, receipt = site.ask("DELETE", "/v1/users/u")
        wait_for(lambda: site.ask("GET", receipt["status_url"])[1]["done"], [api, worker], 30, "the API did not get there")
        assert site.ask("GET", "/v1/users/u/profile")[0] == 404

        other = Site(port, keys(environment, "make", "other", "--scope", "read"))
        wait_for(lambda: other.ask("GET", "/v1/items")[0] == 200, [api, worker], 10, "the API did not get there")
        keys(environment, "revoke", other.key.split("_")[1])
        wait_for(lambda: other.ask("GET", "/v1/items")[0] == 401, [api, worker], 10, "the API did not get there")
        assert "site" in keys(environment, "list")
        assert other.key.split("_")[1] not in keys(environment, "list")
    finally:
        worker.stop()
        api.stop()
