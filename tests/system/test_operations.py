"""Operations on real Kafka: health checks, SIGTERM under load, a topic and a changelog recreated under a running worker."""

import asyncio
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaAdminClient

from stream.core.events import Click
from stream.errors import IsthmusError
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.local_broker import free_port
from stream.kafka.cluster.producer import InputRecord, produce
from stream.kafka.cluster.topics import changelog_name, create_or_check, source_topics
from stream.services.child_processes import ChildProcess, wait_for
from stream.settings import TopicSettings
from tests.system.exact import assert_exact, contents_per_id, expected, newest, read_all, users_of
from tests.world import Store, history_of

TOPICS = TopicSettings(partitions=4)
START_MS = 1_750_000_000_000
WAIT_S = 120.0
MOST_EVENTS = 200_000


@pytest.fixture
def bootstrap(empty_kafka: str) -> str:
    """A broker with empty topics."""
    create_or_check(empty_kafka, TOPICS, dev=True)
    return empty_kafka


def start(bootstrap: str, folder: Path, port: int = 0, command: str = "worker", **more: str) -> ChildProcess:
    variables = {
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        "ISTHMUS_TOPICS__PARTITIONS": "4",
        "ISTHMUS_KAFKA__DEV": "true",
        **more,
    }
    return ChildProcess([command, "--bootstrap", bootstrap, "--metrics-port", str(port)], variables, folder / f"{command}.log")


def clicks(first: int, count: int) -> list[InputRecord]:
    """Returns clicks of 40 users, each with an event id."""
    made = []
    for number in range(first, first + count):
        user = f"user-{number % 40}"
        click = Click(user, START_MS + number * 1_000, ("home", f"tag{number % 5}"), event_id=f"e{number}")
        made.append(InputRecord("clicks", user, msgspec.json.encode(click)))
    return made


def send(bootstrap: str, events: Sequence[InputRecord]) -> None:
    asyncio.run(produce(bootstrap, events, TOPICS.model_dump(), lambda _: None))


def committed(bootstrap: str) -> int:
    return group_lag(bootstrap, "isthmus-profiles", source_topics(TOPICS)).committed


def folded(bootstrap: str, records: int) -> bool:
    try:
        progress = group_lag(bootstrap, "isthmus-profiles", source_topics(TOPICS))
    except IsthmusError:
        return False  # while a topic is missing
    return progress.end >= records and progress.lag == 0


def answer(port: int, path: str) -> tuple[int, str]:
    """Returns status and text; status 0 before the port is open."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


@pytest.mark.timeout(240)
def test_a_sigterm_under_load_drains_within_ten_seconds_and_loses_nothing(bootstrap: str, tmp_path: Path) -> None:
    """Exit code 0; everything acknowledged is committed; after a restart everything is exact."""
    sent_events, ended = [0], threading.Event()

    def keep_sending() -> None:
        while not ended.is_set() and sent_events[0] < MOST_EVENTS:
            send(bootstrap, clicks(sent_events[0], 1_000))
            sent_events[0] += 1_000

    child = start(bootstrap, tmp_path)
    sender = threading.Thread(target=keep_sending, daemon=True)
    try:
        sender.start()
        wait_for(lambda: committed(bootstrap) > 2_000, [child], WAIT_S, "the folding of the first events")
        child.process.terminate()
        assert child.process.wait(10) == 0
        ended.set()
        sender.join(60)
        send(bootstrap, clicks(sent_events[0], 1_000))
        events = sent_events[0] + 1_000
        assert 2_000 < committed(bootstrap) < events
        child = start(bootstrap, tmp_path)
        wait_for(lambda: folded(bootstrap, events), [child], WAIT_S, "the folding of the rest")
    finally:
        ended.set()
        child.stop()
    assert assert_exact(bootstrap, TOPICS, None) == 40
    sent = [record.value for found in read_all(bootstrap, TOPICS.recommendations).values() for record in found]
    assert all(len(contents) == 1 for contents in contents_per_id(sent).values())


@pytest.mark.parametrize("noticed", [False, True], ids=["at once", "after the worker noticed"])
def test_events_of_a_topic_recreated_under_a_running_worker_are_applied(bootstrap: str, tmp_path: Path, noticed: bool) -> None:
    """Without a restart of the process, and logged: states contain the events of both topics, each once."""
    old, new = clicks(0, 400), clicks(400, 200)
    port = free_port()
    child = start(bootstrap, tmp_path, port)
    try:
        send(bootstrap, old)
        wait_for(lambda: folded(bootstrap, len(old)), [child], WAIT_S, "the folding of the old topic")
        first = expected(bootstrap, TOPICS, None)
        delete(bootstrap, TOPICS.clicks)
        if noticed:
            wait_for(lambda: "waiting for web-clicks: deleted" in child.log.read_text(), [child], WAIT_S, "noticing the deletion")
        wait_for(lambda: recreated(bootstrap), [child], WAIT_S, "the new topic")
        send(bootstrap, new)
        wait_for(lambda: "restarting the app: web-clicks" in child.log.read_text(), [child], WAIT_S, "the notice")
        wait_for(lambda: folded(bootstrap, len(new)) and answer(port, "/readyz")[0] == 200, [child], WAIT_S, "the new topic")
    finally:
        child.stop()
    assert child.process.returncode == 0
    both = Store(dict(first.records))
    wanted = expected(bootstrap, TOPICS, None, both)
    found = Store(newest(read_all(bootstrap, changelog_name("isthmus-profiles"))))
    assert users_of(found) == users_of(wanted) == {f"user-{number}" for number in range(40)}
    assert [user for user in sorted(users_of(wanted)) if history_of(found, user) != history_of(wanted, user)] == []


def delete(bootstrap: str, topic: str) -> None:
    with closing(KafkaAdminClient(bootstrap_servers=bootstrap)) as admin:
        admin.delete_topics([topic])


def recreated(bootstrap: str) -> bool:
    """Creates the topic again; fails until the broker has dropped the old one."""
    try:
        create_or_check(bootstrap, TOPICS, dev=True)
    except IsthmusError:
        return False
    return True


def test_a_recreated_changelog_is_refused_with_a_way_to_start_over(bootstrap: str, tmp_path: Path) -> None:
    """A running worker refuses it, and so does a restarted one."""
    child = start(bootstrap, tmp_path)
    send(bootstrap, clicks(0, 100))
    wait_for(lambda: folded(bootstrap, 100), [child], WAIT_S, "the folding of the events")
    delete(bootstrap, changelog_name("isthmus-profiles"))
    wait_for(lambda: recreated(bootstrap), [], WAIT_S, "the new changelog")
    assert child.process.wait(30) == 2
    again = start(bootstrap, tmp_path)
    assert again.process.wait(30) == 2
    for log in (child.log, again.log):
        assert "was deleted and recreated: it no longer holds" in log.read_text()
    assert "run `isthmus reset`" in again.log.read_text()


def test_a_worker_reports_liveness_and_readiness(bootstrap: str, tmp_path: Path) -> None:
    """503 with the reason until it is ready; the gauges agree."""
    port = free_port()
    child = start(bootstrap, tmp_path, port)
    try:
        wait_for(lambda: answer(port, "/livez")[0] == 200, [child], WAIT_S, "life")
        seen: list[str] = []

        def ready() -> bool:
            seen.append(answer(port, "/readyz")[1])
            return seen[-1] == "ok\n"

        wait_for(ready, [child], WAIT_S, "readiness")
        assert {one for text in seen[:-1] for one in text.splitlines()} <= {
            "partitions: none are assigned yet",
            "partitions: being assigned, or their tables restored",
            "items: is not read whole yet",
            "encoded-items: is not read whole yet",
            "models: is not read whole yet",
            "name: whether another process has this name is not known yet",
        }
        text = answer(port, "/metrics")[1]
        assert all(line in text for line in ("isthmus_live 1.0", "isthmus_ready 1.0", "isthmus_stalled_partitions 0.0"))
    finally:
        child.stop()


def test_an_encoder_reports_liveness_and_readiness(bootstrap: str, tmp_path: Path) -> None:
    """It is live at once and ready once it has its partitions."""
    port = free_port()
    child = start(bootstrap, tmp_path, port, "encoder")
    try:
        wait_for(lambda: answer(port, "/readyz") == (200, "ok\n"), [child], WAIT_S, "readiness")
        assert answer(port, "/livez") == (200, "ok\n")
    finally:
        child.stop()
