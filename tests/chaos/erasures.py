"""Faults of erasures: all states are lost, what they sent stays in the topics, and erasures are read before what they cover."""

import shutil
from typing import Any, Final

import msgspec
from kafka import KafkaProducer

from stream.core.events import Erasure
from stream.core.outputs import TrainingExample, decode_example
from stream.kafka.cluster.topics import changelog_name, create_or_check
from tests.chaos.inputs import ask, partition_by_murmur, rewind_group
from tests.chaos.members import DYNAMIC
from tests.chaos.observe import WORKERS
from tests.chaos.stage import TOPICS, Case, Stage
from tests.system.exact import newest, read_all

_ERASED: Final = 60


def erase_after_lost_states(stage: Stage) -> None:
    """Loses changelog, stores and offsets of a stopped worker, and sends erasures of users who have training examples."""
    worker, rate = stage["worker-1"], stage.sender.rate
    stage.wait_for_progress(6_000)
    stage.drain()
    worker.stop()
    values = newest(read_all(stage.bootstrap, TOPICS.training_examples)).values()
    examples = {example.user_id: example for example in map(decode_example, values)}
    send_erasures(stage, list(examples.values())[:_ERASED])
    ask(stage, lambda admin: admin.delete_topics([changelog_name(WORKERS)]))
    stage.wait(2)
    create_or_check(stage.bootstrap, TOPICS, dev=True)
    shutil.rmtree(worker.state)
    rewind_group(stage)
    worker.start()
    stage.sender.rate = rate
    stage.wait_for_progress(3_000)


def send_erasures(stage: Stage, examples: list[TrainingExample]) -> None:
    """A third covers the purchase, a third what precedes it, and a third everything: they have no time of their own."""
    producer: Any = KafkaProducer(bootstrap_servers=stage.bootstrap, acks="all")
    for number, example in enumerate(examples):
        until_ms = (example.occurred_at, example.occurred_at - 1, None)[number % 3]
        erasure = Erasure(example.user_id, until_ms)
        user = example.user_id
        producer.send(TOPICS.erasures, key=user.encode(), value=msgspec.json.encode(erasure), partition=partition_by_murmur(user))
    producer.close()
    stage.notes.append(f"{len(examples)} users with examples erased")


CASES: Final = (Case(name="erasures after lost states", faults=erase_after_lost_states, variables=DYNAMIC),)
