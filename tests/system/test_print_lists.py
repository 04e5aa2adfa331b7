"""The example of a consumer, as a process on real Kafka."""

import asyncio
import os
import subprocess
import sys

import msgspec
import pytest

from stream.core.outputs import Cause, Modalities, ModelName, RankedItem, Recommendation
from stream.kafka.cluster.producer import InputRecord, produce
from stream.kafka.cluster.topics import create_or_check
from stream.settings import TopicSettings

TOPICS = TopicSettings(partitions=1)


@pytest.mark.timeout(90)
def test_the_consumer_prints_the_lists_of_the_topic(empty_kafka: str) -> None:
    """Those that were there before it began, as lines."""
    create_or_check(empty_kafka, TOPICS, dev=True)
    cause, model = Cause("e", "click", 0), ModelName("fusion", "7")  # type: ignore[arg-type]
    made = Recommendation(
        recommendation_id="id",
        user_id="c-17",
        occurred_at=0,
        caused_by=cause,
        model=model,
        items=(RankedItem("18", 1, 0.5),),
        modalities=Modalities(1, 0),
    )
    asyncio.run(
        produce(empty_kafka, [InputRecord("recommendations", "c-17", msgspec.json.encode(made))], TOPICS.model_dump(), print)
    )
    command = [sys.executable, "-m", "examples.print_lists", empty_kafka]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as consumer:
        assert consumer.stdout is not None
        line = consumer.stdout.readline()
        consumer.kill()
    assert line == "c-17: 18 (0.500)  [fusion, after a click]\n"
