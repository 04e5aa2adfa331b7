"""Records that do not parse and batches damaged on the broker's disk: dead letters at their offsets, and everything else exact."""

from collections.abc import Callable
from typing import Any, Final

from kafka import KafkaProducer

from stream.kafka.cluster.skips import allow_skip
from stream.kafka.cluster.topic_reader import open_topic_reader
from tests.batches import RECORDS_BEGIN, NotUtf8, edit_segment, seal, with_byte
from tests.chaos.inputs import partition_by_murmur
from tests.chaos.stage import TOPICS, Case, Stage

_KEY: Final = "broken-record"


def unreadable_records(stage: Stage) -> None:
    """Sends header names that are not UTF-8, and damages a record and a batch on the disk; the batch is given up on purpose."""
    partition = partition_by_murmur(_KEY)
    producer: Any = KafkaProducer(bootstrap_servers=stage.bootstrap, acks="all")
    for _ in range(20):
        producer.send(TOPICS.clicks, key=_KEY.encode(), value=b"{}", partition=partition, headers=[(NotUtf8("x"), b"v")]).get(30)
        stage.wait(float(stage.rng.uniform(0.0, 0.3)))
    stage["worker-1"].kill()
    damaged = producer.send(TOPICS.clicks, key=_KEY.encode(), value=b"checksum-that-fails", partition=partition).get(30)
    producer.send(TOPICS.clicks, key=_KEY.encode(), value=b"length-that-is-wrong", partition=partition).get(30)
    producer.close()
    edit_while_stopped(stage, partition, b"checksum-that-fails", lambda batch: batch.replace(b"checksum", b"Checksum"))
    edit_while_stopped(
        stage, partition, b"length-that-is-wrong", lambda batch: seal(with_byte(batch, RECORDS_BEGIN, batch[RECORDS_BEGIN] ^ 2))
    )
    stage["worker-1"].start()
    stage.until(lambda: f"at offset {damaged.offset}" in stage["worker-1"].readiness(), 120, "the word of a stopped partition")
    stage.wait_for_progress(1_000)
    with open_topic_reader(stage.bootstrap, skips=False) as reader:
        batch = reader.damage_at(TOPICS.clicks, partition, damaged.offset)
    assert batch is not None, "the damaged batch reads as whole"
    allow_skip(stage.bootstrap, batch)
    stage.until(lambda: "damaged" not in stage["worker-1"].readiness(), 60, "the skipping of the batch")
    stage.wait_for_progress(1_000)
    assert not stage["worker-1"].ended_by_itself, "damage ended the worker"


def edit_while_stopped(stage: Stage, partition: int, marker: bytes, change: Callable[[bytes], bytes]) -> None:
    """Changes a batch on the disk of the only broker, which is stopped meanwhile."""
    (broker,) = stage.cluster.nodes
    broker.stop()
    edit_segment(broker.folder / "data" / f"{TOPICS.clicks}-{partition}", marker, change)
    broker.start()


CASES: Final = (Case(name="unreadable records", faults=unreadable_records),)
