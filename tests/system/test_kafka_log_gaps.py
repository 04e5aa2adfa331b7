"""A real broker that loses the end of a partition, while the worker runs and while it is down, and a group's offset that is moved
forward. The other gaps are tested on the embedded log.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from stream.core.events import Click, EncodedCall
from stream.core.records import Batch
from stream.core.step import StepConfig, step
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.agents.watchdog import Supervision
from stream.kafka.app import add_profile_agent, add_stateless_agent, make_app, run_with_renewal
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.local_broker import LocalKafka
from stream.kafka.cluster.topics import admin_client, changelog_name, create_or_check, source_topics, topic_epochs
from stream.kafka.cluster.view import KafkaClusterView
from stream.metrics import Metrics
from stream.process_settings import Guarantee
from stream.settings import TopicSettings
from tests import world
from tests.broken_logs import cut_partition
from tests.system.exact import newest, read_all
from tests.system.needs import broker_or_skip
from tests.system.shared_broker import remove_members
from tests.system.test_log_gaps import encoder_context

TOPICS = TopicSettings(partitions=1)
SOURCES = source_topics(TOPICS)
GROUP = "isthmus-profiles"
START_MS = 1_750_000_000_000


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[LocalKafka]:
    """A broker for one test, because its logs are broken; with all topics."""
    broker_or_skip()
    with LocalKafka(tmp_path / "kafka") as broker:
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        yield broker


def send(broker: LocalKafka, first: int, count: int) -> None:
    """Clicks without ids, so that only their offsets identify them."""
    producer: Any = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", batch_size=256)
    for number in range(first, first + count):
        user = f"user-{number % 10}"
        click = world.encode(Click(user, START_MS + number * 1_000, (f"tag{number % 7}",)))
        producer.send(TOPICS.clicks, key=user.encode(), value=click, partition=0)
    producer.flush()
    producer.close()


@asynccontextmanager
async def worker(broker: LocalKafka, folder: Path, guarantee: Guarantee = "at_least_once") -> Any:
    """Runs a worker that renews its app; leaving the context stops it as SIGTERM does."""
    metrics, stop, view = Metrics(), asyncio.Event(), KafkaClusterView(broker.bootstrap, GROUP)

    def build(epochs: Mapping[str, int], recreated: frozenset[str]) -> Any:
        app = make_app(GROUP, f"kafka://{broker.bootstrap}", data=folder, partitions=1, instance="one")
        context = ProfileContext(
            sources=SOURCES,
            epochs=epochs,
            served=ServedModel(None, world.catalogue()),
            step=StepConfig(partitions=1),
            topics=TOPICS,
            metrics=metrics,
        )
        return app, add_profile_agent(app, context, guarantee=guarantee, supervision=Supervision(view=view, recreated=recreated))

    running = asyncio.create_task(run_with_renewal(build, view, topic_epochs(broker.bootstrap, SOURCES), stop))
    try:
        yield metrics
    finally:
        stop.set()
        await running
        await view.close()


def handled(metrics: Metrics) -> float:
    return metrics.total("events", "click", "applied")


async def until(condition: Any, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, "the condition did not become true in time"
        await asyncio.sleep(0.1)


def is_settled(broker: LocalKafka) -> bool:
    lag = group_lag(broker.bootstrap, GROUP, [TOPICS.clicks])
    return lag.committed > 0 and lag.lag == 0


def clicks(broker: LocalKafka) -> list[Any]:
    return read_all(broker.bootstrap, TOPICS.clicks)[0]


def assert_exact(broker: LocalKafka, batches: list[list[Any]]) -> None:
    """The histories are those of the clicks in `batches`, each of which has the next epoch."""
    wanted, epoch = world.Store(), topic_epochs(broker.bootstrap, [TOPICS.clicks])[TOPICS.clicks]
    source = SOURCES[TOPICS.clicks]
    for cuts, records in enumerate(batches):
        batch = Batch(source, TOPICS.clicks, epoch + cuts, 0, records)
        wanted.apply(step(batch, wanted, None, world.catalogue(), StepConfig(partitions=1)))
    found = world.Store(records=newest(read_all(broker.bootstrap, changelog_name(GROUP))))
    users = [f"user-{number}" for number in range(10)]
    assert [user for user in users if world.history_of(found, user) != world.history_of(wanted, user)] == []


@pytest.mark.timeout(120)
async def test_a_worker_is_exact_after_its_broker_lost_the_end_of_a_log(broker: LocalKafka, tmp_path: Path) -> None:
    """First under the running worker, refilled beyond the old end before the worker reads again; then while it is down, below the
    old end. At last the start of the log moves past what was read.
    """
    state = tmp_path / "state"
    async with worker(broker, state) as metrics:
        await asyncio.to_thread(send, broker, 0, 100)
        await until(lambda: handled(metrics) == 100 and is_settled(broker))
        before = clicks(broker)
        await asyncio.to_thread(broker.stop)
        first = cut_partition(broker, TOPICS.clicks, 0, 60)
        await asyncio.to_thread(broker.start)
        await asyncio.to_thread(send, broker, 100, 200)
        await until(lambda: handled(metrics) >= 300 and is_settled(broker))
        assert metrics.total("log_gaps", TOPICS.clicks, "cut") == metrics.total("log_gaps") == 1
    second = clicks(broker)[first:]
    assert_exact(broker, [before, second])
    await asyncio.to_thread(broker.stop)
    again = cut_partition(broker, TOPICS.clicks, 0, 80)
    await asyncio.to_thread(broker.start)
    await asyncio.to_thread(send, broker, 300, 20)
    async with worker(broker, state) as metrics:
        await until(lambda: handled(metrics) == 20 and is_settled(broker))
        assert metrics.total("log_gaps", TOPICS.clicks, "cut") == metrics.total("log_gaps") == 1
    assert_exact(broker, [before, second, clicks(broker)[again:]])
    end = group_lag(broker.bootstrap, GROUP, [TOPICS.clicks]).end
    await asyncio.to_thread(send, broker, 320, 20)
    admin = admin_client(broker.bootstrap)
    admin.delete_records({TopicPartition(TOPICS.clicks, 0): end + 5})
    admin.close()
    async with worker(broker, state) as metrics:
        await until(lambda: handled(metrics) == 15 and is_settled(broker))
        assert metrics.total("log_gaps", TOPICS.clicks, "deleted") == 1


def move_group(broker: LocalKafka, offset: int) -> None:
    """Resets the group's offset, as kafka-consumer-groups.sh does, once its static member has left."""
    admin, partition = admin_client(broker.bootstrap), TopicPartition(TOPICS.clicks, 0)
    remove_members(admin, GROUP)
    errors = admin.alter_group_offsets(GROUP, {partition: OffsetAndMetadata(offset, "", None)})
    admin.close()
    assert not errors[partition].errno


@pytest.mark.timeout(120)
async def test_a_group_that_was_moved_forward_skips_nothing_in_either_guarantee(broker: LocalKafka, tmp_path: Path) -> None:
    """Each user has a later event, which would hide the skipped ones for ever: a user's applied offset is one number. The second
    time the last applied record is deleted.
    """
    await asyncio.to_thread(send, broker, 0, 100)
    async with worker(broker, tmp_path) as metrics:
        await until(lambda: handled(metrics) == 100 and is_settled(broker))
    rounds: list[tuple[int, Guarantee]] = [(100, "at_least_once"), (160, "exactly_once")]
    for end, guarantee in rounds:
        before = clicks(broker)
        await asyncio.to_thread(send, broker, end, 50)
        await asyncio.to_thread(move_group, broker, end + 50)
        if guarantee == "exactly_once":
            admin = admin_client(broker.bootstrap)
            admin.delete_records({TopicPartition(TOPICS.clicks, 0): end})
            admin.close()
        async with worker(broker, tmp_path, guarantee) as metrics:
            await asyncio.to_thread(send, broker, end + 50, 10)
            await until(lambda metrics=metrics: handled(metrics) == 60 and is_settled(broker))
            assert metrics.total("log_gaps", TOPICS.clicks, "moved") == metrics.total("log_gaps") == 1
    assert_exact(broker, [[*before, *clicks(broker)]])


@asynccontextmanager
async def encoder(broker: LocalKafka, folder: Path, guarantee: Guarantee) -> Any:
    """Runs an encoder until the context is left."""
    metrics, stop, view = Metrics(), asyncio.Event(), KafkaClusterView(broker.bootstrap, "isthmus-encoder")

    def build(epochs: Mapping[str, int], recreated: frozenset[str]) -> Any:
        app = make_app("isthmus-encoder", f"kafka://{broker.bootstrap}", data=folder, partitions=1, instance="one")
        supervision = Supervision(view=view, recreated=recreated)
        return app, add_stateless_agent(app, encoder_context(epochs, metrics), guarantee=guarantee, supervision=supervision)

    epochs = topic_epochs(broker.bootstrap, [TOPICS.transcripts])
    running = asyncio.create_task(run_with_renewal(build, view, epochs, stop))
    try:
        yield metrics
    finally:
        stop.set()
        await running
        await view.close()


def send_transcripts(broker: LocalKafka, values: Sequence[bytes]) -> None:
    producer: Any = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
    for value in values:  # one batch each, so that the log can be cut between any two
        producer.send(TOPICS.transcripts, key=b"u", value=value, partition=0).get(10)
    producer.close()


@pytest.mark.timeout(180)
async def test_an_encoder_finds_a_cut_among_dead_letters_in_either_guarantee(broker: LocalKafka, tmp_path: Path) -> None:
    """What it commits with an offset names the last transcript, whatever became of it. The log is refilled beyond its old end."""

    def is_read() -> bool:
        lag = group_lag(broker.bootstrap, "isthmus-encoder", [TOPICS.transcripts])
        return lag.committed > 0 and lag.lag == 0

    guarantees: list[Guarantee] = ["at_least_once", "exactly_once"]
    for cuts, guarantee in enumerate(guarantees):
        await asyncio.to_thread(send_transcripts, broker, [b"1", b"broken", b"broken", b"broken"])
        for _ in range(2):
            async with encoder(broker, tmp_path, guarantee) as metrics:
                await until(is_read)
                assert metrics.total("log_gaps") == 0
        end = group_lag(broker.bootstrap, "isthmus-encoder", [TOPICS.transcripts]).end
        await asyncio.to_thread(broker.stop)
        assert await asyncio.to_thread(cut_partition, broker, TOPICS.transcripts, 0, end - 2) == end - 2
        await asyncio.to_thread(broker.start)
        await asyncio.to_thread(send_transcripts, broker, [b"2"] * 5)
        async with encoder(broker, tmp_path, guarantee) as metrics:
            await until(is_read)
            await until(lambda metrics=metrics: metrics.total("log_gaps", TOPICS.transcripts, "cut") == 1)
        calls = [
            msgspec.msgpack.decode(record.value or b"", type=EncodedCall)
            for record in read_all(broker.bootstrap, TOPICS.encoded_calls)[0]
        ]
        assert [call.origin_offset for call in calls[-5:]] == list(range(end - 2, end + 3))
        assert {call.origin_epoch for call in calls[-5:]} == {calls[0].origin_epoch + cuts + 1}
