"""`isthmus demo` as a newcomer runs it: a short run with its summary, and Ctrl-C.

The long run, until a trained model serves, is for hand and eye.
"""

import json
import logging
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stream.kafka.cluster.local_broker import free_port
from stream.settings import TopicSettings
from tests.system.exact import read_all

WITHIN_S = 60
KEYS = {
    "events",
    "recommendations",
    "dead_letters",
    "planted_dead_letters",
    "first_recommendation_s",
    "trained_model_s",
    "swaps",
    "hit_rate_3",
    "peak_rss_bytes",
}


def demo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "stream.cli.main", "demo", *arguments]


@pytest.mark.timeout(120)
def test_a_short_demo_recommends_and_says_what_it_did(tmp_path: Path) -> None:
    """Lists, only planted dead letters, memory of each process, exit code 0; again on the same data."""
    for _ in range(2):
        command = demo("--seconds", "14", "--summary", str(tmp_path / "summary.json"), "--data", str(tmp_path / "data"))
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary.keys() == KEYS
        assert summary["first_recommendation_s"] < 14
        assert summary["recommendations"] > 100
        assert summary["events"] > 500
        assert summary["dead_letters"] == summary["planted_dead_letters"]
        assert summary["peak_rss_bytes"]["demo"] > 0
        assert "do not react" in done.stdout.replace("does not react", "do not react")


def run_printed(line: str) -> dict[str, Any]:
    """Runs a request that the demo printed."""
    command = shlex.split(line.split(":  ", 1)[1])
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def watch(printed: list[str]) -> None:
    """Opens the live page with the key that stands in it, and reads how its stream begins."""
    address = address_of(printed, "watch it live")
    with urllib.request.urlopen(address, timeout=10) as answer:
        found = re.search(r'name="isthmus-key" content="(isk_[^"]+)"', answer.read().decode())
    assert found is not None
    asked = urllib.request.Request(f"{address}v1/live/events", headers={"Authorization": f"Bearer {found[1]}"})
    with urllib.request.urlopen(asked, timeout=20) as stream:
        assert b"event: picture\n" in (stream.readline() for _ in range(4))


def change_a_list(printed: list[str]) -> None:
    """Asks for the list, which holds the item to buy, buys it, and asks until it is gone."""
    ask, change = (next(line for line in printed if text in line) for text in ("ask for a list", "then change it"))
    bought = re.search(r'"items": \["(\w+)"\]', change)
    assert bought is not None
    assert bought[1] in {entry["item"] for entry in run_printed(ask)["items"]}
    assert run_printed(change)["results"][0]["status"] == "accepted"
    deadline = time.monotonic() + WITHIN_S
    while bought[1] in {entry["item"] for entry in run_printed(ask)["items"]}:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def post(url: str, body: object = None, token: str = "") -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read())


def open_a_profile(printed: list[str]) -> None:
    """As the page for agents does, with the token that the demo gives it. It says where the list was shown."""
    url = address_of(printed, "be an agent").removesuffix("/agent")
    entered = post(f"{url}/demo/token")
    deadline = time.monotonic() + WITHIN_S
    while "profile" not in (opened := post(f"{url}/v1/profiles", {"user_id": entered["examples"][0]}, entered["token"])):
        assert time.monotonic() < deadline  # a list is in the log before the state that it rests on
        time.sleep(0.2)
    assert opened["profile"]["user_id"] == entered["examples"][0]
    items = [one["item"] for one in opened["list"]["items"]]
    event = {"user_id": entered["examples"][0], "occurred_at": time.time_ns() // 1_000_000, "channel": "phone", "action": "shown"}
    post(f"{url}/v1/feedback", {"events": [{**event, "placement": "agent", "items": items}]}, entered["token"])


def address_of(printed: list[str], text: str) -> str:
    (line,) = (line for line in printed if text in line)
    return line.split(":  ", 1)[1].strip()


def open_the_shop(printed: list[str]) -> None:
    """Its key, which is printed too, makes a visitor."""
    address = address_of(printed, "open the shop")
    with urllib.request.urlopen(address, timeout=10) as answer:
        found = re.search(r'data-key="(isk_[^"]+)"', answer.read().decode())
    assert found is not None
    assert any(f'data-key="{found[1]}"' in line for line in printed)
    assert post(f"{address.removesuffix('/shop')}/v1/visitors", {}, found[1])["user_id"].startswith("anon-")


@contextmanager
def running_demo(folder: Path, *arguments: str) -> Iterator[list[str]]:
    """Runs a demo until it has printed its addresses, gives what it printed, and ends it by Ctrl-C: with exit code 0."""
    log = folder / "out.log"
    with log.open("wb") as output:
        process = subprocess.Popen(demo(*arguments), stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 120
        while "then change it" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield log.read_text().splitlines()
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # a killed demo would leave its processes
            process.wait(90)
    assert "peak memory" in log.read_text()


@pytest.mark.timeout(240)
def test_ctrl_c_ends_with_the_summary_while_metrics_and_api_are_served(tmp_path: Path) -> None:
    """The requests that it prints show a list that changes, the pages are served where it was told; exit code 0; nothing stays."""
    port, pages = free_port(), free_port()
    with running_demo(tmp_path, "--metrics-port", str(port), "--port", str(pages)) as printed:
        assert address_of(printed, "watch it live") == f"http://127.0.0.1:{pages}/"
        change_a_list(printed)
        watch(printed)
        open_a_profile(printed)
        open_the_shop(printed)
        deadline = time.monotonic() + WITHIN_S
        while not re.search(r'isthmus_feedback_items_total\{.*placement="agent"', metrics_at(port)):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def test_the_demo_says_of_what_it_plants_that_there_is_nothing_to_fix() -> None:
    """The worker's advice, to replay, is for others: without a broker it could not be followed."""
    from stream.kafka.agents.profile_agent import UNUSABLE
    from stream.services.demo.embedded import without_advice

    record = logging.makeLogRecord({"msg": UNUSABLE, "args": (1, "purchases", "what was bought may be offered again", "purchases")})
    assert without_advice(record)
    assert record.getMessage().startswith(
        "1 records of purchases could not be used: what was bought may be offered again. The demo"
    )
    assert "replay" not in record.getMessage()


def metrics_at(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.timeout(300)
def test_the_demo_on_kafka_serves_the_same_pages(empty_kafka: str, tmp_path: Path) -> None:
    """With keys that the broker never sees."""
    with running_demo(tmp_path, "--kafka", "--bootstrap", empty_kafka) as printed:
        change_a_list(printed)
        watch(printed)
        open_a_profile(printed)
        open_the_shop(printed)
    assert not any(read_all(empty_kafka, TopicSettings().api_keys).values())


def test_the_metrics_port_serves_all_that_is_declared() -> None:
    """Over HTTP, under their names."""
    from stream.metrics import DECLARED, Metrics

    metrics = Metrics()
    metrics.count({("events", "click", "applied"): 3})
    server, thread = metrics.serve(0)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert [name for name in DECLARED if f"isthmus_{name}" not in text] == []
    assert 'isthmus_events_total{outcome="applied",source="click"} 3.0' in text
