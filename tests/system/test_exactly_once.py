"""Exactly-once delivery on real Kafka: worker and encoder are killed with SIGKILL and paused past their session timeout; a consumer
of committed records sees each output once, and nothing is lost.
"""

import asyncio
import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import ProducerFenced

from stream.core.events import EncodedCall
from stream.core.outputs import Output
from stream.errors import IsthmusError
from stream.kafka.app import make_app, make_delivery
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.local_broker import LocalKafka
from stream.kafka.cluster.producer import produce
from stream.kafka.cluster.topics import create_or_check, source_topics
from stream.kafka.delivery.contracts import Emission, ProcessedBatch
from stream.kafka.delivery.exactly_once import MAX_FENCES, ExactlyOnce
from stream.metrics import Metrics
from stream.services.child_processes import ChildProcess, wait_for
from stream.settings import TopicSettings
from tests.system.exact import assert_exact, contents_per_id, read_all, revisions
from tests.system.needs import broker_or_skip
from training.datasets.synthetic.live import LiveEvent, Rates, start_for, stream_events
from training.datasets.synthetic.world import make_world

TOPICS = TopicSettings(partitions=4)
SESSION_S = 6
"""The broker's minimum."""


@pytest.fixture
def bootstrap(tmp_path: Path) -> Iterator[str]:
    """A broker for one test, because open transactions would outlive its topics; with all topics."""
    broker_or_skip()
    with LocalKafka(tmp_path / "kafka") as broker:
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        yield broker.bootstrap


def start(command: str, bootstrap: str, folder: Path, name: str, *, static: bool = True) -> ChildProcess:
    variables = {
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        "ISTHMUS_WORKER__STATIC_MEMBERSHIP": str(static).lower(),
        "ISTHMUS_TOPICS__PARTITIONS": "4",
        "ISTHMUS_KAFKA__DEV": "true",
        "ISTHMUS_DELIVERY__GUARANTEE": "exactly_once",
        "ISTHMUS_DELIVERY__SESSION_TIMEOUT_S": str(SESSION_S),
    }
    arguments = [command, "--bootstrap", bootstrap, "--name", name, "--metrics-port", "0"]
    return ChildProcess(arguments, variables, folder / f"{name}.log")


def live_events(count: int) -> list[LiveEvent]:
    rates = Rates(broken_every=400)
    start_ms = start_for(time.time_ns() // 1_000_000, 600, rates.speed)
    world = make_world(np.random.default_rng(1))
    return list(itertools.islice(stream_events(world, np.random.default_rng(2), start_ms, rates=rates), count))


def send_slowly(bootstrap: str, events: list[LiveEvent], rate: int = 600) -> threading.Thread:
    """Sends the events from a thread at `rate` a second, so that faults meet batches in flight."""

    def send() -> None:
        for place in range(0, len(events), 100):
            began = time.monotonic()
            asyncio.run(produce(bootstrap, events[place : place + 100], TOPICS.model_dump(), lambda _: None))
            time.sleep(max(0.0, 100 / rate - (time.monotonic() - began)))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def folded(bootstrap: str) -> int:
    return group_lag(bootstrap, "isthmus-profiles", source_topics(TOPICS)).committed


def settled(bootstrap: str, *, encoder: bool) -> bool:
    """Returns whether committed offsets equal end offsets, transaction markers included."""
    encoded = not encoder or group_lag(bootstrap, "isthmus-encoder", [TOPICS.transcripts]).lag == 0
    return encoded and group_lag(bootstrap, "isthmus-profiles", source_topics(TOPICS)).lag == 0


def assert_each_output_once(bootstrap: str) -> None:
    """Identifies lists by id, examples by key and revision, dead letters by origin, encoded calls by origin offset."""
    lists = [record.value for found in read_all(bootstrap, TOPICS.recommendations).values() for record in found]
    assert len(contents_per_id(lists)) == sum(value is not None for value in lists)
    for numbers in revisions(read_all(bootstrap, TOPICS.training_examples)).values():
        assert len(set(numbers)) == len(numbers)
    letters = Counter(record.key for found in read_all(bootstrap, TOPICS.dead_letters).values() for record in found)
    assert set(letters.values()) <= {1}
    for found in read_all(bootstrap, TOPICS.encoded_calls).values():
        origins = [msgspec.msgpack.decode(record.value or b"", type=EncodedCall).origin_offset for record in found]
        assert len(set(origins)) == len(origins)


@pytest.mark.timeout(240)
def test_kills_leave_no_duplicate_and_no_gap_for_a_reader_of_committed_records(bootstrap: str, tmp_path: Path) -> None:
    """The worker is killed twice and the encoder once; both are restarted under their names."""
    events = live_events(4_500)
    worker, encoder = (start(name, bootstrap, tmp_path, name) for name in ("worker", "encoder"))
    try:
        wait_for(lambda: served(tmp_path, "worker", 4) > 0, [worker, encoder], 60, "serving")
        sending = send_slowly(bootstrap, events)
        for number, threshold in enumerate((800, 1_600, 2_400)):
            wait_for(lambda: folded(bootstrap) >= threshold, [worker, encoder], 60, "folding")  # noqa: B023
            if number == 1:
                encoder.kill()
                encoder = start("encoder", bootstrap, tmp_path, "encoder")
            else:
                worker.kill()
                before = served(tmp_path, "worker", 4)
                worker = start("worker", bootstrap, tmp_path, "worker")  # before it serves, it does not handle SIGTERM
                wait_for(lambda: served(tmp_path, "worker", 4) > before, [worker, encoder], 60, "serving")  # noqa: B023
        sending.join(60)
        wait_for(lambda: settled(bootstrap, encoder=True), [worker, encoder], 90, "the folding of all events")
    finally:
        worker.stop()
        encoder.stop()
    assert assert_exact(bootstrap, TOPICS, None) > 100
    assert_each_output_once(bootstrap)
    assert (worker.process.returncode, encoder.process.returncode) == (0, 0)


@pytest.mark.timeout(240)
def test_a_worker_paused_past_its_session_timeout_writes_nothing_when_it_resumes(bootstrap: str, tmp_path: Path) -> None:
    """Another worker took over its partitions; it rejoins, and each output exists once."""
    events = [event for event in live_events(6_500) if event.role != "transcripts"]
    first, second = (start("worker", bootstrap, tmp_path, name, static=False) for name in ("first", "second"))
    try:
        wait_for(lambda: all(served(tmp_path, name, 2) for name in ("first", "second")), [first, second], 60, "sharing")
        sending = send_slowly(bootstrap, events)
        wait_for(lambda: folded(bootstrap) >= 600, [first, second], 60, "folding")
        alone = served(tmp_path, "second", 4)  # it may have joined first, and so served all partitions already
        first.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: served(tmp_path, "second", 4) > alone, [second], 60, "the takeover")
        taken_over = folded(bootstrap)
        wait_for(lambda: folded(bootstrap) >= taken_over + 100, [second], 60, "folding by the other")
        shared = served(tmp_path, "second", 2)
        first.process.send_signal(signal.SIGCONT)
        wait_for(lambda: served(tmp_path, "second", 2) > shared, [first, second], 60, "sharing again")
        sending.join(60)
        wait_for(lambda: settled(bootstrap, encoder=False), [first, second], 90, "the folding of all events")
    finally:
        first.process.send_signal(signal.SIGCONT)
        first.stop()
        second.stop()
    assert assert_exact(bootstrap, TOPICS, None) > 100
    assert_each_output_once(bootstrap)


def served(folder: Path, name: str, numbers: int) -> int:
    """Returns how often a worker has started to serve this many partition numbers."""
    log = folder / f"{name}.log"
    return log.read_text().count(f"serving {numbers} partition numbers") if log.exists() else 0


class Owner:
    """One worker's delivery to real Kafka without its consumer; records acknowledgements and requests to rejoin."""

    def __init__(self, bootstrap: str, folder: Path) -> None:
        self.metrics = Metrics()
        self.app: Any = make_app("owner", f"kafka://{bootstrap}", data=folder, partitions=1)
        make_delivery(self.app, "exactly_once", self.metrics)
        self.holds, self.rejoined, self.acked, self.crashes = True, 0, list[str](), list[Exception]()
        self.abandoned: list[Any] = []
        consumer = SimpleNamespace(holds=lambda _: self.holds, rejoin=self._rejoin, abandon=self.abandoned.append)
        fake = SimpleNamespace(conf=self.app.conf, consumer=consumer, crash=self._crash)
        self.delivery = ExactlyOnce(fake, self._producer, self.metrics)

    def _producer(self, name: str) -> AIOKafkaProducer:
        made: AIOKafkaProducer = self.app.producer.transactional(name)
        return made

    async def _rejoin(self) -> None:
        self.rejoined += 1

    async def _crash(self, error: Exception) -> None:
        self.crashes.append(error)

    async def send(self, topic: str, value: str) -> None:
        """Delivers one batch with `value` as its only output and waits until it is acknowledged or will never be."""
        tp = SimpleNamespace(topic=TOPICS.clicks, partition=0)
        message = SimpleNamespace(topic=tp.topic, partition=0, offset=len(self.acked), generation_id=1, tp=tp)
        event = SimpleNamespace(message=message, ack=lambda: self.acked.append(value))
        await self.delivery.deliver(ProcessedBatch(event, [Emission(topic, [Output(b"k", value.encode())])]))
        line = self.delivery._queues[0]
        while line.task is not None and not line.task.done() and value not in self.acked:
            await asyncio.sleep(0.01)


async def committed(bootstrap: str, count: int) -> list[Any]:
    """The committed lists once there are so many: an acknowledged transaction is visible as soon as its markers are written."""
    deadline = time.monotonic() + 30
    while len(found := read_all(bootstrap, TOPICS.recommendations)[0]) < count and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return found


async def test_a_new_owner_of_a_partition_number_fences_off_the_previous_one(bootstrap: str, tmp_path: Path) -> None:
    """The previous owner's batch is neither visible nor acknowledged; it asks to rejoin. Its open transaction is aborted first."""
    topic = TOPICS.recommendations
    earlier, first, second = (Owner(bootstrap, tmp_path / name) for name in ("a", "b", "c"))
    await earlier.delivery.acquire([0])
    left_open = earlier.delivery._queues[0].producer
    await left_open.begin_transaction()
    await left_open.send_and_wait(topic, key=b"k", value=b"never committed", partition=0)
    await first.delivery.acquire([0])
    await first.send(topic, "first's")
    with pytest.raises(ProducerFenced):
        await left_open.commit_transaction()
    await second.delivery.acquire([0])
    await second.send(topic, "second's")
    await first.send(topic, "first's, late")
    assert (first.acked, second.acked) == (["first's"], ["second's"])
    assert [record.value for record in await committed(bootstrap, 2)] == [b"first's", b"second's"]
    assert first.rejoined == 1
    assert first.metrics.total("late_batches", "fenced") == len(first.abandoned) == 1
    await first.send(topic, "first's, still late")
    assert (first.acked, first.rejoined) == (["first's"], 1)
    for owner in (earlier, first, second):
        await owner.delivery.close()


async def test_two_owners_that_keep_fencing_each_other_stop_with_the_reason(bootstrap: str, tmp_path: Path) -> None:
    """The cause is a second deployment on the same topics."""
    mine, others = Owner(bootstrap, tmp_path / "a"), Owner(bootstrap, tmp_path / "b")
    for _ in range(MAX_FENCES):
        await mine.delivery.acquire([0])
        await others.delivery.acquire([0])
        await mine.send(TOPICS.recommendations, "mine")
    assert mine.rejoined == MAX_FENCES - 1
    assert "second deployment" in str(mine.crashes[0])
    await mine.delivery.close()
    await others.delivery.close()


async def test_waiting_batches_share_a_transaction_and_keep_their_order(bootstrap: str, tmp_path: Path) -> None:
    """Every batch of the partition number is acknowledged."""
    owner = Owner(bootstrap, tmp_path)
    await owner.delivery.acquire([0])
    await asyncio.gather(*(owner.send(TOPICS.recommendations, f"{number}") for number in range(20)))
    assert owner.acked == [f"{number}" for number in range(20)]
    found = await committed(bootstrap, 20)
    assert [record.value for record in found] == [f"{number}".encode() for number in range(20)]
    assert found[-1].offset < 19 + 4  # each transaction ends with a marker
    await owner.delivery.close()


def test_without_kafka_exactly_once_is_refused(tmp_path: Path) -> None:
    """The error says what to do."""
    from stream.kafka.embedded.log import forget, open_log

    open_log("refused")
    with pytest.raises(IsthmusError, match="needs Kafka"):
        make_delivery(make_app("one", "embedded://refused", data=tmp_path, partitions=1), "exactly_once", Metrics())
    forget("refused")
