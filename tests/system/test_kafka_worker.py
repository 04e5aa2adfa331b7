"""A worker on real Kafka: hostile messages, two workers sharing, a model swap, and refusals at startup."""

import asyncio
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import pytest
from kafka import KafkaProducer

from models.artifact import write_ranker
from models.popular import Popular
from stream.core.announcements import ModelAnnouncement
from stream.core.events import Click, Item, Reason
from stream.core.partitioner import partition_of
from stream.kafka.cluster.compacted_topic import announce
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.local_broker import free_port
from stream.kafka.cluster.producer import produce
from stream.kafka.cluster.topics import create_or_check, source_topics
from stream.services.child_processes import ChildProcess, wait_for
from stream.settings import TopicSettings
from tests.system.exact import assert_exact, newest, read_all
from training.datasets.synthetic.live import LiveEvent, Rates, stream_events
from training.datasets.synthetic.world import make_world

TOPICS = TopicSettings(partitions=4)
START_MS = 1_750_000_000_000
ITEMS = tuple(f"item-{number}" for number in range(5))


@pytest.fixture
def bootstrap(empty_kafka: str) -> str:
    """A broker with empty topics."""
    create_or_check(empty_kafka, TOPICS, dev=True)
    return empty_kafka


def worker(
    bootstrap: str, folder: Path, name: str = "worker-1", port: int = 0, more: Mapping[str, str] | None = None
) -> ChildProcess:
    variables = {
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        "ISTHMUS_TOPICS__PARTITIONS": "4",
        "ISTHMUS_KAFKA__DEV": "true",
        "ISTHMUS_WORKER__STATIC_MEMBERSHIP": "false",
        "ISTHMUS_REGISTRY__FOLDER": str(folder),
        **(more or {}),
    }
    arguments = ["worker", "--bootstrap", bootstrap, "--name", name, "--metrics-port", str(port)]
    return ChildProcess(arguments, variables, folder / f"{name}.log")


def folded(bootstrap: str, records: int) -> bool:
    progress = group_lag(bootstrap, "isthmus-profiles", source_topics(TOPICS))
    return progress.end >= records and progress.lag == 0


def click(user: str, number: int = 0) -> bytes:
    return msgspec.json.encode(Click(user, START_MS + number, ("home",), event_id=f"{user}-{number}"))


HOSTILE: list[tuple[bytes | None, bytes | None, Reason]] = [
    (b"h", b"{", Reason.NOT_JSON),
    (b"h", b"\xff\xfe", Reason.NOT_JSON),
    (b"h", b"", Reason.EMPTY),
    (b"h", None, Reason.EMPTY),
    (None, click("h"), Reason.MISSING_KEY),
    (b"other", click("h"), Reason.KEY_MISMATCH),
    (b"h", b"[" * 100_000, Reason.INVALID),
    (b"h", b'{"user_id":"h","x":' + b"[" * 100_000, Reason.NOT_JSON),
    (b"h", b'{"user_id":"h","occurred_at":NaN,"tags":["a"]}', Reason.NOT_JSON),
    (b"h", b'{"user_id":"h","occurred_at":Infinity,"tags":["a"]}', Reason.NOT_JSON),
    (b"h", b'{"user_id":"h","occurred_at":1e999,"tags":["a"]}', Reason.INVALID),
    (b"h", b'{"user_id":["h"],"occurred_at":{},"tags":7}', Reason.INVALID),
    (b"h", b'{"user_id":"h","occurred_at":99999999999999,"tags":["a"]}', Reason.TOO_FAR_AHEAD),
    (b"h", b'{"user_id":"h","occurred_at":1,"tags":["' + b"a" * 1_000_000 + b'"]}', Reason.INVALID),
    (b"h", b'"' + b"a" * 1_048_400 + b'"', Reason.INVALID),
]
"""(key, value, reason): each must become one dead letter with this reason. The last value is as large as the topic allows."""


def send_aborted(bootstrap: str) -> None:
    """One record to each input of the step, in a transaction that is aborted."""
    producer = KafkaProducer(bootstrap_servers=bootstrap, transactional_id="aborts")
    producer.init_transactions()
    producer.begin_transaction()
    for topic in source_topics(TOPICS):
        producer.send(topic, key=b"aborted", value=b"{}", partition=partition_of(b"aborted", 4))
    producer.flush()
    producer.abort_transaction()
    producer.close()


def test_hostile_messages_become_dead_letters_and_their_partitions_continue(bootstrap: str, tmp_path: Path) -> None:
    """Random bytes included. Ancient times and unknown fields are accepted; valid clicks after them are answered. Of inputs with
    aborted transactions only, a worker gets batches without records.
    """
    rng = np.random.default_rng(5)
    noise = [rng.bytes(int(rng.integers(1, 300))) for _ in range(25)]
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", max_request_size=2 << 20)
    partition = partition_of(b"h", 4)
    for key, value, _ in HOSTILE:
        producer.send(TOPICS.clicks, key=key, value=value, partition=partition).get(10)
    for value in noise:
        producer.send(TOPICS.clicks, key=b"h", value=value, partition=partition).get(10)
    producer.send(TOPICS.clicks, key=b"stray", value=click("stray"), partition=(partition_of(b"stray", 4) + 1) % 4).get(10)
    ancient = b'{"user_id":"ancient","occurred_at":946684800000,"tags":["a"],"colour":{"deep":[1]}}'
    producer.send(TOPICS.clicks, key=b"ancient", value=ancient, partition=partition_of(b"ancient", 4)).get(10)
    good = [f"good-{number}" for number in range(12)]
    for user in good:
        producer.send(TOPICS.clicks, key=user.encode(), value=click(user), partition=partition_of(user.encode(), 4)).get(10)
    producer.close()
    send_aborted(bootstrap)
    sent = len(HOSTILE) + len(noise) + 2 + len(good)
    child = worker(bootstrap, tmp_path)
    try:
        wait_for(lambda: folded(bootstrap, sent), [child], 40, "the folding of all events")
    finally:
        child.stop()
    letters = [msgspec.json.decode(value) for value in newest(read_all(bootstrap, TOPICS.dead_letters)).values()]
    by_offset = {(letter["origin"]["partition"], letter["origin"]["offset"]): letter["reason"] for letter in letters}
    assert [by_offset[partition, offset] for offset in range(len(HOSTILE))] == [reason for _, _, reason in HOSTILE]
    assert len(letters) == len(HOSTILE) + len(noise) + 1
    assert Reason.WRONG_PARTITION in by_offset.values()
    answered = newest(read_all(bootstrap, TOPICS.recommendations)).keys()
    assert {user.encode() for user in good} | {b"ancient"} <= answered
    assert child.process.returncode == 0


def test_two_workers_share_partitions_and_one_hands_over_when_it_leaves(bootstrap: str, tmp_path: Path) -> None:
    """One stops on SIGTERM and the other processes the rest: every history, example and list is exact."""
    world = make_world(np.random.default_rng(1))
    events = [
        event
        for event, _ in zip(stream_events(world, np.random.default_rng(2), START_MS, rates=Rates()), range(5_000), strict=False)
    ]
    user_events = [event for event in events if event.role != "transcripts"]
    first, second = worker(bootstrap, tmp_path, "one"), worker(bootstrap, tmp_path, "two")
    half = len(user_events) // 2
    try:
        wait_for(lambda: shares(tmp_path), [first, second], 40, "sharing")
        send(bootstrap, user_events[:half])
        wait_for(lambda: folded(bootstrap, half - 24), [first, second], 40, "the folding of the first half")
        first.stop()
        assert first.process.returncode == 0
        send(bootstrap, user_events[half:])
        wait_for(lambda: folded(bootstrap, len(user_events) - 24), [second], 40, "the folding of the rest")
    finally:
        first.stop()
        second.stop()
    assert assert_exact(bootstrap, TOPICS, None) > 100


def shares(folder: Path) -> bool:
    """Returns whether both logs report half of the partition numbers."""
    logs = [(folder / f"{name}.log").read_text() if (folder / f"{name}.log").exists() else "" for name in ("one", "two")]
    return all("serving 2 partition numbers" in log for log in logs)


def send(bootstrap: str, events: list[LiveEvent]) -> None:
    asyncio.run(produce(bootstrap, events, TOPICS.model_dump(), lambda _: None))


def publish(bootstrap: str, folder: Path, version: str) -> None:
    prior = np.linspace(0.9, 0.1, len(ITEMS), dtype=np.float32)
    items = ITEMS if version == "1" else ITEMS[::-1]
    sha256 = write_ranker(folder, Popular("0", "popular", items, prior), version=version)
    announcement = ModelAnnouncement(
        role="champion", name="popular", version=version, uri=str(folder), sha256=sha256, published_at=1
    )
    if version == "3":
        (folder / "items.json").write_text("{}")
    announce(bootstrap, TOPICS.models, announcement)


def test_a_champion_is_swapped_in_and_a_corrupt_one_refused_without_a_restart(bootstrap: str, tmp_path: Path) -> None:
    """Lists carry the model version; the refusal is counted with its reason; the catalogue is followed live. One in a folder that
    is not trusted is refused, too.
    """
    port = free_port()
    child = worker(bootstrap, tmp_path, port=port, more={"ISTHMUS_REGISTRY__FOLDER": str(tmp_path / "models")})
    number = 0

    def version_of_next_list() -> str:
        nonlocal number
        number += 1
        user = f"user-{number}"
        producer = KafkaProducer(bootstrap_servers=bootstrap)
        producer.send(TOPICS.clicks, key=user.encode(), value=click(user), partition=partition_of(user.encode(), 4)).get(10)
        producer.close()
        wait_for(lambda: user.encode() in newest(read_all(bootstrap, TOPICS.recommendations)), [child], 30, "a list")
        found = msgspec.json.decode(newest(read_all(bootstrap, TOPICS.recommendations))[user.encode()])
        version: str = found["model"]["version"]
        return version

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text: str = answer.read().decode()
            return text

    try:
        producer = KafkaProducer(bootstrap_servers=bootstrap)
        for item in ITEMS:
            producer.send(TOPICS.items, key=item.encode(), value=msgspec.json.encode(Item(item, item))).get(10)
        producer.close()
        assert version_of_next_list() == "0"
        for version in ("1", "2"):
            publish(bootstrap, tmp_path / "models" / version, version)
            wait_for(lambda: f'version="{version}"' in metrics(), [child], 20, "the swap")  # noqa: B023
            assert version_of_next_list() == version
        publish(bootstrap, tmp_path / "models" / "3", "3")
        publish(bootstrap, tmp_path / "models-elsewhere" / "4", "4")
        for reason in ("hash", "untrusted"):
            refused = f'isthmus_model_refusals_total{{reason="{reason}"}} 1.0'
            wait_for(lambda: refused in metrics(), [child], 20, f"the refusal ({reason})")  # noqa: B023
        assert version_of_next_list() == "2"
        assert "isthmus_catalogue_items 5.0" in metrics()
    finally:
        child.stop()


@pytest.mark.parametrize(("partitions", "message"), [("6", "has 4 partitions, not 6"), ("4", "missing")])
def test_a_worker_refuses_topics_that_do_not_fit(bootstrap: str, tmp_path: Path, partitions: str, message: str) -> None:
    """Exit code 2 and a remedy, before it touches anything."""
    missing = {} if partitions == "6" else {"ISTHMUS_TOPICS__CLICKS": "other-clicks"}
    child = worker(bootstrap, tmp_path, more={"ISTHMUS_TOPICS__PARTITIONS": partitions, **missing})
    assert child.process.wait(30) == 2
    assert message in child.log.read_text()


def test_the_first_keyword_list_comes_from_the_catalogue_and_the_clicks_on_the_broker(bootstrap: str, tmp_path: Path) -> None:
    """Invalid clicks are skipped."""
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    producer.send(TOPICS.items, key=b"1", value=msgspec.json.encode(Item("1", "Boat insurance", "Sail and motor."))).get(10)
    producer.send(TOPICS.clicks, key=b"h", value=b"{").get(10)
    producer.send(TOPICS.clicks, key=b"u", value=click("u")).get(10)
    producer.close()
    made = ChildProcess(
        ["text-model", "stand-in", "--bootstrap", bootstrap, "--out", str(tmp_path / "made")], {}, tmp_path / "made.log"
    )
    assert made.process.wait(60) == 0, made.log.read_text()
    listed = (tmp_path / "made" / "keywords.txt").read_text().split("\n")
    assert {"boat insurance", "sail", "home"} <= set(listed)
