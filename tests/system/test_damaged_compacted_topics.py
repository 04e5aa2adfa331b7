"""Compacted topics whose batch with a deletion is damaged on the broker's disk: nobody passes over it of his own accord."""

import asyncio
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer
from typer.testing import CliRunner

from stream.cli.topics import app
from stream.connection_settings import KafkaSettings
from stream.errors import IsthmusError
from stream.kafka.cluster.applications_topic import read_notes
from stream.kafka.cluster.corrupt_batches import CorruptBatchError, StoppedPartitions
from stream.kafka.cluster.kafka_log_reader import KafkaLogReader
from stream.kafka.cluster.local_broker import LocalKafka, free_port
from stream.kafka.cluster.topic_follower import follow_topic
from stream.kafka.cluster.topics import create_or_check
from stream.services.child_processes import ChildProcess, wait_for
from stream.settings import Settings, TopicSettings
from tests.batches import edit_segment
from tests.system.needs import broker_or_skip
from tests.system.readiness import readiness

TOPICS = TopicSettings(partitions=1)
DAMAGED = (TOPICS.recommendations, TOPICS.items, TOPICS.applications)


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalKafka]:
    """Each damaged topic holds a value of `gone`, its tombstone in a damaged batch, and a value of `kept`."""
    broker_or_skip()
    with LocalKafka(tmp_path_factory.mktemp("damaged") / "kafka") as broker:
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        producer: Any = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
        for topic in DAMAGED:
            for key, value in ((b"gone", b"{}"), (b"gone", None), (b"kept", b"{}")):
                headers = [("mark", b"tombstone")] if value is None else []
                producer.send(topic, key=key, value=value, partition=0, headers=headers).get(30)
        producer.close()
        broker.stop()
        for topic in DAMAGED:
            folder = broker.folder / "data" / f"{topic}-0"
            edit_segment(folder, b"tombstone", lambda batch: batch.replace(b"tombstone", b"t0mbstone"))
        broker.start()
        yield broker


def skip(bootstrap: str, topic: str, *options: str) -> str:
    """What the command says of the damaged batch."""
    result = CliRunner().invoke(app, ["skip", topic, "0", "1", "--yes", "--bootstrap", bootstrap, *options])
    return str(result.exception) if isinstance(result.exception, IsthmusError) else result.output


def give_up_notes(bootstrap: str) -> None:
    """Whoever skips a batch of another topic must know whose it is. Each of these tests may have a broker of its own."""
    assert "will be skipped" in skip(bootstrap, TOPICS.applications, "--lose-states")


def test_notes_that_are_damaged_end_commands_and_are_given_up_with_the_word_for_it(broker: LocalKafka) -> None:
    """The command that gives them up does not read them."""
    settings = Settings(kafka=KafkaSettings(bootstrap=broker.bootstrap), topics=TOPICS)
    with pytest.raises(CorruptBatchError, match=f"isthmus topics skip {TOPICS.applications} 0 1"):
        read_notes(settings)
    assert "--lose-states" in skip(broker.bootstrap, TOPICS.applications)
    assert "will be skipped" in skip(broker.bootstrap, TOPICS.applications, "--lose-states")
    assert [key for key, _ in read_notes(settings)] == [b"gone", b"kept"]


async def test_a_followed_topic_is_read_past_a_damaged_batch_only_once_it_is_given_up(broker: LocalKafka) -> None:
    """Until then nothing of what lies behind is applied, and the damage is told."""
    ready, stopped, applied = asyncio.Event(), StoppedPartitions(), list[bytes]()

    async def apply(records: Any, **_: bool) -> None:
        applied.extend(record.key for record in records if record.key is not None)

    following = asyncio.create_task(follow_topic(broker.bootstrap, TOPICS.items, apply, ready, stopped))
    try:
        async with asyncio.timeout(60):
            while stopped.check() is None:
                await asyncio.sleep(0.1)
        assert f"isthmus topics skip {TOPICS.items} 0 1" in str(stopped.check())
        assert not ready.is_set()
        assert b"kept" not in applied
        await asyncio.to_thread(give_up_notes, broker.bootstrap)
        assert "will be skipped" in await asyncio.to_thread(skip, broker.bootstrap, TOPICS.items, "--lose-states")
        await asyncio.wait_for(ready.wait(), 60)
        assert applied == [b"gone", b"kept"]
        assert stopped.check() is None
    finally:
        following.cancel()


@pytest.mark.timeout(180)
def test_an_api_is_not_ready_before_a_damaged_batch_of_lists_is_given_up(broker: LocalKafka, tmp_path: Path) -> None:
    """A command that reads the same topic ends. /readyz and the metric of the API tell the damage; then it reads on."""
    give_up_notes(broker.bootstrap)
    assert "will be skipped" in skip(broker.bootstrap, TOPICS.items, "--lose-states")
    with pytest.raises(CorruptBatchError, match=f"isthmus topics skip {TOPICS.recommendations} 0 1"):
        asyncio.run(read_whole(broker.bootstrap))
    port, metrics = free_port(), free_port()
    variables = {"ISTHMUS_API__STATE_DIR": str(tmp_path / "api"), "ISTHMUS_TOPICS__PARTITIONS": "1"}
    words = ["api", "--bootstrap", broker.bootstrap, "--insecure", "--port", str(port), "--metrics-port", str(metrics)]
    api = ChildProcess(words, variables, tmp_path / "api.log")
    try:
        wait_for(lambda: "damaged" in readiness(port), [api], 90, "the word of a stopped partition")
        assert f"{TOPICS.recommendations}-0: the checksum of the batch at offset 1 fails" in readiness(port)
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=10) as answer:
            assert "isthmus_stopped_partitions 1.0" in answer.read().decode()
        assert "erased" in skip(broker.bootstrap, TOPICS.recommendations)
        assert "erase again" in skip(broker.bootstrap, TOPICS.recommendations, "--lose-states")
        wait_for(lambda: readiness(port).startswith("ok"), [api], 60, "readiness")
    finally:
        api.stop()


async def read_whole(bootstrap: str) -> None:
    reader = KafkaLogReader(bootstrap)
    try:
        bounds = await reader.open([TOPICS.recommendations])
        for topic, number in bounds:
            reader.seek(topic, number, 0)
        while not all(reader.read_to_end_at(*one) is not None for one in bounds):
            await reader.fetch()
    finally:
        await reader.close()
