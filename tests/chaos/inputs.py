"""Faults of inputs: duplicates, rewound offsets, wrong partitions, recreated topics. The result is exact or a clear refusal."""

import shutil
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import msgspec
from kafka import KafkaProducer, TopicPartition
from kafka.admin import OffsetSpec

from stream.core.events import Click, Source
from stream.core.partitioner import partition_of
from stream.core.records import later_epoch
from stream.kafka.cluster.topics import admin_client, changelog_name, create_or_check
from tests.broken_logs import cut_partition
from tests.chaos.members import DYNAMIC
from tests.chaos.observe import WORKERS, batches_of
from tests.chaos.stage import SOURCES, TOPICS, Case, Stage

_PARTITIONS: Final = TOPICS.partitions
_CUT: Final = {(TOPICS.clicks, 0): Source.CLICK, (TOPICS.transcripts, 1): Source.CALL}


def send_twice(stage: Stage) -> None:
    """Sends every third event twice and kills the worker meanwhile."""
    stage.wait_for_progress(5_000)
    stage["worker-1"].kill()
    stage["worker-1"].start()
    stage.wait_for_progress(2_000)


def rewind(stage: Stage) -> None:
    """Resets all committed offsets to the start while the worker is stopped; its states are kept."""
    stage.wait_for_progress(3_000)
    stage["worker-1"].stop()
    rewind_group(stage)
    stage["worker-1"].start()
    stage.wait_for_progress(3_000)


def rewind_group(stage: Stage) -> None:
    partitions = [TopicPartition(topic, number) for topic in SOURCES for number in range(_PARTITIONS)]
    was_reset = ask(stage, lambda admin: admin.reset_group_offsets(WORKERS, dict.fromkeys(partitions, OffsetSpec.EARLIEST)))
    assert was_reset, "the offsets could not be reset"


def recreate_input(stage: Stage) -> None:
    """Deletes and recreates the purchases topic under the running worker; its earlier records still count."""
    rate = stage.sender.rate
    stage.wait_for_progress(3_000)
    stage.drain()
    stage.former += batches_of(stage.bootstrap, {TOPICS.purchases: SOURCES[TOPICS.purchases]})
    stage.forget_acknowledged(TOPICS.purchases)
    ask(stage, lambda admin: admin.delete_topics([TOPICS.purchases]))
    stage.wait(2)
    create_or_check(stage.bootstrap, TOPICS, dev=True)
    stage.wait(5)
    stage.sender.rate = rate
    stage.wait_for_progress(2_000)
    stage.wait(10)


def recreate_changelog(stage: Stage) -> None:
    """The worker refuses a changelog behind its local store. After the remedy it names (delete the store, reset the offsets),
    the result is exact.
    """
    worker = stage["worker-1"]
    stage.wait_for_progress(3_000)
    worker.stop()
    ask(stage, lambda admin: admin.delete_topics([changelog_name(WORKERS)]))
    stage.wait(2)
    create_or_check(stage.bootstrap, TOPICS, dev=True)
    worker.start()
    stage.until(lambda: worker.ended_by_itself > 0, 60, "the refusal of a store without its changelog")
    assert worker.said("changelog"), "the refusal does not name the changelog"
    if worker.is_running:
        worker.kill()
    shutil.rmtree(worker.state)
    rewind_group(stage)
    worker.start()
    stage.wait_for_progress(3_000)


def cut_under_worker(stage: Stage) -> None:
    """Cuts a partition of the clicks and one of the transcripts while worker and encoder run; the logs continue below their old
    ends.
    """
    rate = _before_cut(stage)
    _cut(stage)
    stage.sender.rate = rate
    stage.wait_for_progress(2_000)
    _check_cuts(stage)


def cut_and_refill(stage: Stage) -> None:
    """Cuts the same partitions while worker and encoder are stopped; they start when the logs reach beyond their old ends."""
    rate = _before_cut(stage)
    ends = {partition: _end(stage, partition) for partition in _CUT}
    for name in ("worker-1", "encoder-1"):
        stage[name].stop()
    _cut(stage)
    stage.sender.rate = rate
    stage.until(lambda: all(_end(stage, partition) > end + 2 for partition, end in ends.items()), 120, "refilling the logs")
    for name in ("worker-1", "encoder-1"):
        stage[name].start()
    stage.wait_for_progress(2_000)
    _check_cuts(stage)


def _before_cut(stage: Stage) -> float:
    """Waits until everything is folded, keeps what the cut will lose, and returns the rate to go on with."""
    rate = stage.sender.rate
    stage.wait_for_progress(3_000)
    stage.drain()
    for (topic, number), source in _CUT.items():
        stage.former += batches_of(stage.bootstrap, {topic: source}, [number])
    return rate


def _cut(stage: Stage) -> None:
    broker = stage.cluster.nodes[0]
    epochs = {batch.topic: batch.epoch for batch in stage.former}
    ends = {partition: _end(stage, partition) for partition in _CUT}
    broker.stop()
    for (topic, number), end in ends.items():
        first = cut_partition(broker, topic, number, 2 * end // 3)
        assert 0 < first < end, f"{topic}-{number} could not be cut"
        stage.boundaries[topic, number] = ((first, later_epoch(epochs[topic])),)
        stage.notes.append(f"{topic}-{number} cut from {end} to {first}")
    broker.start()
    stage.sender.renew_producer()


def _check_cuts(stage: Stage) -> None:
    for topic, number in _CUT:
        said = f"{topic}-{number}: it was cut"
        stage.until(lambda: any(stage[name].said(said) for name in ("worker-1", "encoder-1")), 60, f"the report: {said}")  # noqa: B023


def _end(stage: Stage, partition: tuple[str, int]) -> int:
    tp = TopicPartition(*partition)
    end: int = ask(stage, lambda admin: admin.list_partition_offsets({tp: OffsetSpec.LATEST}))[tp].offset
    return end


def add_partitions(stage: Stage) -> None:
    """Adds partitions to an input under the running worker, which stops with the reason, now and at each restart."""
    stage.wait_for_progress(2_000)
    stage.drain()
    ask(stage, lambda admin: admin.create_partitions({TOPICS.clicks: 6}))
    worker = stage["worker-1"]
    worker.stop()
    worker.start()
    stage.until(lambda: worker.ended_by_itself > 1, 90, "the refusal of another partition count")
    assert worker.said("has 6 partitions, not 4")


def partition_otherwise(stage: Stage) -> None:
    """Produces with CRC-32 partitioning, librdkafka's default: each event on a wrong partition becomes a dead letter."""
    producer: Any = KafkaProducer(bootstrap_servers=stage.bootstrap, acks="all")
    users = [name for name in (f"astray-{number}" for number in range(400)) if partition_by_crc(name) != partition_by_murmur(name)]
    for start in range(0, len(users), 20):  # few among many: a topic of mostly dead letters would stop the worker
        for user in users[start : start + 20]:
            click = msgspec.json.encode(Click(user, 1_750_000_000_000, ("home",), event_id=user))
            producer.send(TOPICS.clicks, key=user.encode(), value=click, partition=partition_by_crc(user))
        stage.wait(1)
    producer.close()
    stage.notes.append(f"{len(users)} events on a partition that is not their user's")
    stage.wait_for_progress(2_000)


def poison(stage: Stage) -> None:
    """Sends clicks that make the step raise (a planted bug), singly and in a row: dead letters, no crash loop."""
    producer: Any = KafkaProducer(bootstrap_servers=stage.bootstrap, acks="all", linger_ms=50)
    for number in range(40):
        user = f"poison-{number % 7}"
        click = msgspec.json.encode(Click(user, 1_750_000_000_000, ("home", "poison"), event_id=f"{user}-{number}"))
        for _ in range(1 + number % 3):
            producer.send(TOPICS.clicks, key=user.encode(), value=click, partition=partition_by_murmur(user))
        stage.wait(float(stage.rng.uniform(0.0, 0.6)))
    producer.close()
    stage.wait_for_progress(1_000)
    assert not stage["worker-1"].ended_by_itself, "poison ended the worker"


def partition_by_crc(user: str) -> int:
    return crc32(user.encode()) % _PARTITIONS


def partition_by_murmur(user: str) -> int:
    return partition_of(user.encode(), _PARTITIONS)


def ask(stage: Stage, question: Any) -> Any:
    admin = admin_client(stage.bootstrap)
    try:
        return question(admin)
    finally:
        admin.close()


CASES: Final = (
    Case(name="producer's duplicates", faults=send_twice, repeat=0.3),
    Case(name="offsets redelivered", faults=rewind, variables=DYNAMIC),
    Case(name="input topic recreated", faults=recreate_input, model=False),
    Case(name="logs cut under the worker", faults=cut_under_worker),
    Case(name="logs cut and refilled", faults=cut_and_refill),
    Case(name="changelog recreated", faults=recreate_changelog, variables=DYNAMIC),
    Case(name="partition count differs", faults=add_partitions, settles=False),
    Case(name="poison", faults=poison, variables={"PYTHONPATH": str(Path(__file__).parent / "planted")}),
    Case(name="another partitioner", faults=partition_otherwise),
)
