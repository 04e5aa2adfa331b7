"""The API on real Kafka, as processes: events in by HTTP, the list out by HTTP, erasure, keys, a kill and an empty store."""

import json
import os
import signal
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
from tests import api
from tests.redis_server import RedisServer, redis_or_skip
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
        self.port = port
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

    def followed(self, user: str) -> Any:
        """What the live page's stream first says of a user."""
        request = urllib.request.Request(f"{self._url}/v1/live/events?user={user}", headers={"Authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(request, timeout=20) as stream:
            while stream.readline() != b"event: followed\n":
                pass
            return json.loads(stream.readline().removeprefix(b"data: "))

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
    and a revoked key opens nothing. The live page shows what the user did.
    """
    environment, port = {**variables(broker.bootstrap, tmp_path), "ISTHMUS_API__LIVE": "true"}, free_port()
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
        assert [(step["kind"], step["what"]) for step in site.followed("u")["steps"]] == [("click", ["home"])]

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


async def test_a_shared_store_says_what_the_topics_say_in_the_end(broker: LocalKafka, tmp_path: Path) -> None:
    """Two replicas fill a Redis. One is paused past its session, one is killed, and Redis is killed and comes back empty.
    In the end every replica serves the last list of every user, and meanwhile `readyz` says where it does not.
    """
    redis_or_skip()
    server = RedisServer(tmp_path / "redis").start()
    environment = {
        **variables(broker.bootstrap, tmp_path),
        "ISTHMUS_API__REDIS_URL": server.url,
        "ISTHMUS_API__FAILURES_PER_MINUTE": "0",
    }
    await put_lists(broker.bootstrap, "1")
    key = keys(environment, "make", "site", "--scope", "read")
    sites = {name: Site(free_port(), key) for name in ("api-1", "api-2")}

    def replica(name: str) -> ChildProcess:
        arguments = ["api", "--name", name, "--port", str(sites[name].port), "--metrics-port", "0"]
        return ChildProcess(arguments, environment, tmp_path / f"{name}.log")

    def all_serve(version: str, *names: str) -> bool:
        return all(served(sites[name]) == {user: f"{user}-{version}" for user in USERS} for name in names)

    running = {name: replica(name) for name in sites}
    try:
        for name, site in sites.items():
            wait_for(site.is_ready, [running[name]], 90, f"{name} did not become ready")
        assert all_serve("1", "api-1", "api-2")

        running["api-1"].process.send_signal(signal.SIGSTOP)
        await put_lists(broker.bootstrap, "2")
        wait_for(lambda: all_serve("2", "api-2"), [running["api-2"]], 90, "the other replica did not take over")
        await put_lists(broker.bootstrap, "3")
        running["api-1"].process.send_signal(signal.SIGCONT)
        wait_for(lambda: all_serve("3", "api-1", "api-2"), list(running.values()), 90, "the paused replica did not come back")

        running["api-2"].kill()
        await put_lists(broker.bootstrap, "4")
        wait_for(lambda: all_serve("4", "api-1"), [running["api-1"]], 90, "the partitions of a dead replica were not followed")
        running["api-2"] = replica("api-2")
        wait_for(sites["api-2"].is_ready, [running["api-2"]], 90, "a restarted replica did not become ready")

        server.kill()
        wait_for(lambda: not any(site.is_ready() for site in sites.values()), list(running.values()), 30, "ready without a store")
        assert sites["api-1"].ask("GET", "/v1/users/user-0/recommendations")[0] == 503
        await put_lists(broker.bootstrap, "5")
        server.start()
        wait_for(lambda: all_serve("5", *sites), list(running.values()), 90, "an emptied Redis was not filled again")
        wait_for(lambda: all(site.is_ready() for site in sites.values()), list(running.values()), 30, "they are not ready again")
    finally:
        for child in running.values():
            child.process.send_signal(signal.SIGCONT)
            child.stop()
        server.stop()


USERS = tuple(f"user-{number}" for number in range(20))


async def put_lists(bootstrap: str, version: str) -> None:
    """A list of each user, as a worker sends it."""
    log = api.new_log()
    for user in USERS:
        api.put_list(log, user, recommendation_id=f"{user}-{version}")
    records = [record for partition in log.topics[TOPICS.recommendations].partitions for record in partition.records]
    outputs = [InputRecord("recommendations", (record.key or b"").decode(), record.value) for record in records]
    await produce(bootstrap, outputs, {"recommendations": TOPICS.recommendations}, lambda _: None)


def served(site: Site) -> dict[str, str]:
    """The ids of the lists that are served; none where the replica does not answer."""
    status, answer = site.ask("POST", "/v1/users/batch", {"users": list(USERS)})
    return {one["user_id"]: one.get("recommendation_id", "") for one in answer["lists"]} if status == 200 else {}
