"""The contender without a framework: a loop over confluent-kafka with batches of 1,000, RocksDB and its own changelog topic.

At least once: every 5 s, librdkafka's commit interval, it flushes all output and commits the offsets. `step` folds with the step of
Isthmus, `bare` with the other contenders' fold. It has no recovery or rebalancing, which a real worker needs.
Runs in the benchmarks' environment (build/bench).
"""

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import Consumer, Producer
from rocksdict import Options, Rdict, WriteBatch

from models.artifact import load_ranker
from stream.core.events import Source
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig, step
from stream.kafka.app import relax_garbage_collector
from stream.settings import TopicSettings
from tests.benchmarks.bare import Bare, BareClick, BareState, decode_click, decode_state, encode_state, encoded
from tests.benchmarks.contenders import CATALOGUE
from tests.benchmarks.job import Clock, Job, read_job

COMMIT_S = 5.0
CHANGELOG = "isthmus-profiles-users-changelog"

Writes = Mapping[bytes, bytes | None]
Fold = Callable[[Any, int, Sequence[Any]], tuple[Writes, list[tuple[bytes, bytes, list[tuple[str, bytes]]]]]]
"""Takes (store, partition, messages); returns states to write and lists to send as (key, value, headers)."""


class _States:
    def __init__(self, store: Any) -> None:
        self._store = store

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return list(self._store.get(list(keys)))


def with_step(job: Job) -> Fold:
    ranker = load_ranker(job.model) if job.model else None
    settings = StepConfig(partitions=job.partitions)

    def fold(store: Any, partition: int, messages: Sequence[Any]) -> Any:
        records = [PlainRecord(one.offset(), one.timestamp()[1], one.key(), one.value()) for one in messages]
        outcome = step(Batch(Source.CLICK, "web-clicks", 1, partition, records), _States(store), ranker, CATALOGUE, settings)
        return outcome.writes, [(one.key, one.value, list(one.headers)) for one in outcome.recommendations]

    return fold


def with_bare(job: Job) -> Fold:
    bare = Bare(job.model)

    def fold(store: Any, _: int, messages: Sequence[Any]) -> Any:
        keys = list(dict.fromkeys(one.key() for one in messages))
        states: dict[bytes, BareState] = dict(zip(keys, map(decode_state, store.get(keys)), strict=True))
        last: dict[bytes, tuple[BareClick, int]] = {}
        for one in messages:
            click = decode_click(one.value())
            bare.fold(states[one.key()], click)
            last[one.key()] = (click, one.timestamp()[1])
        ranked = zip(keys, bare.lists(list(states.values())), strict=True)
        lists: list[Any] = [(key, encoded(last[key][0], found, last[key][1]), []) for key, found in ranked if found is not None]
        return {key: encode_state(state) for key, state in states.items()}, lists

    return fold


def run(job: Job, fold: Fold) -> Clock:
    topics, clock, done = TopicSettings(), Clock(job), 0
    common = {"bootstrap.servers": job.bootstrap, "log_level": 2}
    consumer = Consumer({**common, "group.id": "loop", "auto.offset.reset": "earliest", "enable.auto.commit": False})
    producer = Producer(
        {
            **common,
            "enable.idempotence": True,
            "linger.ms": 2,
            "partitioner": "murmur2_random",
            "queue.buffering.max.messages": 500_000,
        }
    )
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    store = Rdict(job.folder + "/store", options)
    consumer.subscribe([topics.clicks])
    relax_garbage_collector()
    committed = time.monotonic()
    while clock.row is None:
        by_partition: dict[int, list[Any]] = {}
        for message in _batch(consumer):
            by_partition.setdefault(message.partition(), []).append(message)
        for partition, messages in by_partition.items():
            writes, lists = fold(store, partition, messages)
            _send(producer, store, partition, writes, lists, topics.recommendations)
            done += len(messages)
        producer.poll(0)
        if time.monotonic() - committed > COMMIT_S:
            producer.flush()
            consumer.commit(asynchronous=False)
            committed = time.monotonic()
        if done >= clock.end and not clock.serve:
            producer.flush()
        clock.look(done)
    consumer.close()
    store.close()
    return clock


def _batch(consumer: Any) -> list[Any]:
    """Returns up to 1,000 waiting messages, else the next one: waiting for a full batch would cost latency."""
    messages: list[Any] = consumer.consume(1_000, timeout=0.002)
    return messages or consumer.consume(1, timeout=0.1)


def _send(producer: Any, store: Any, partition: int, writes: Writes, lists: Sequence[Any], topic: str) -> None:
    for key, value, headers in lists:
        producer.produce(topic, value, key, partition=partition, headers=headers)
    batch = WriteBatch(raw_mode=True)
    for key, value in writes.items():
        producer.produce(CHANGELOG, value, key, partition=partition)
        if value is None:
            batch.delete(key)
        else:
            batch.put(key, value)
    store.write(batch)


if __name__ == "__main__":
    the_job = read_job()
    os.sched_setaffinity(0, {0})
    if the_job.model:
        import torch

        torch.set_num_threads(1)
    run(the_job, {"step": with_step, "bare": with_bare}[sys.argv[1]](the_job)).report()
