"""Records that do not parse and batches whose checksum fails, on a broker's disk, and a worker that goes on past them."""

import re
from functools import partial
from pathlib import Path

import msgspec
import pytest
from kafka import KafkaProducer

from stream.core.events import Click
from stream.core.unreadable import readable
from stream.errors import IsthmusError
from stream.kafka.cluster.compacted_topic import CompactedTopic
from stream.kafka.cluster.corrupt_batches import CorruptBatchError
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.local_broker import LocalKafka, free_port
from stream.kafka.cluster.topic_reader import open_topic_reader
from stream.kafka.cluster.topics import create_or_check, source_topics
from stream.services.child_processes import ChildProcess, wait_for
from stream.settings import TopicSettings
from tests.batches import RECORDS_BEGIN, NotUtf8, edit_segment, seal, with_byte, with_length
from tests.system.exact import newest, read_all
from tests.system.needs import broker_or_skip
from tests.system.readiness import readiness

TOPICS = TopicSettings(partitions=2)
START_MS = 1_750_000_000_000
CODECS = ("gzip", "snappy", "lz4", "zstd")


def click(user: str) -> bytes:
    return msgspec.json.encode(Click(user, START_MS, ("home",), event_id=user))


def send_all(bootstrap: str) -> None:
    """Partition 0: one batch of each codec, a header name that is not UTF-8, a record that is damaged later, and a good one.
    Partition 1: good, damaged, good.
    """
    for codec in CODECS:
        with_codec = KafkaProducer(bootstrap_servers=bootstrap, acks="all", compression_type=codec, linger_ms=50)
        for user in ("user-1", "user-2", "user-5"):  # all of partition 0
            with_codec.send(TOPICS.clicks, key=user.encode(), value=click(user) + b" " * 500, partition=0)
        with_codec.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    producer.send(TOPICS.clicks, key=b"a", value=click("a"), partition=0, headers=[(NotUtf8("x"), b"v")]).get(10)
    for partition, value in ((0, b"broken-length"), (0, click("a")), (1, click("d")), (1, b"corrupted"), (1, click("d"))):
        producer.send(TOPICS.clicks, key=b"d" if partition else b"a", value=value, partition=partition).get(10)
    producer.close()


def partition_folder(broker: LocalKafka, partition: int) -> Path:
    return broker.folder / "data" / f"{TOPICS.clicks}-{partition}"


def dead_letters(bootstrap: str) -> dict[str, tuple[str, str]]:
    """Reason and error by the coordinates without the topic's epoch."""
    letters = [msgspec.json.decode(value) for value in newest(read_all(bootstrap, TOPICS.dead_letters)).values()]
    return {f"{one['origin']['partition']}/{one['origin']['offset']}": (one["reason"], one["error"]) for one in letters}


@pytest.mark.timeout(120)
def test_a_damaged_record_stops_nothing_and_a_damaged_batch_its_partition_until_it_is_given_up(tmp_path: Path) -> None:
    """What does not parse becomes a dead letter with its coordinates. At a checksum that fails, the partition alone stops, /readyz
    and commands name topic, partition, offset and command; `isthmus topics skip` refuses a whole batch and gives up this one.
    """
    broker_or_skip()
    port = free_port()
    with LocalKafka(tmp_path / "kafka") as broker:
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        send_all(broker.bootstrap)
        broker.stop()
        edit_segment(
            partition_folder(broker, 0),
            b"broken-length",
            lambda batch: seal(with_byte(batch, RECORDS_BEGIN, batch[RECORDS_BEGIN] ^ 2)),
        )
        edit_segment(partition_folder(broker, 1), b"corrupted", lambda batch: batch.replace(b"corrupted", b"c0rrupted"))
        broker.start()
        variables = {"ISTHMUS_WORKER__STATE_DIR": str(tmp_path / "state"), "ISTHMUS_TOPICS__PARTITIONS": "2"}
        arguments = ["worker", "--bootstrap", broker.bootstrap, "--metrics-port", str(port)]
        worker = ChildProcess(arguments, variables, tmp_path / "worker.log")
        try:
            expected = {"0/12": "unreadable", "0/13": "unreadable"}
            wait_for(lambda: expected.items() <= reasons(broker.bootstrap).items(), [worker], 60, "two dead letters")
            wait_for(lambda: "damaged" in readiness(port), [worker], 20, "the word of a stopped partition")
            assert "web-clicks-1: the checksum of the batch at offset 1 fails" in readiness(port)
            with (
                pytest.raises(CorruptBatchError, match="isthmus topics skip web-clicks 1 1"),
                open_topic_reader(broker.bootstrap) as reader,
            ):
                list(reader.records(TOPICS.clicks))
            with pytest.raises(CorruptBatchError, match="isthmus topics skip web-clicks 1 1"):
                CompactedTopic(broker.bootstrap, TOPICS.clicks).read_on()
            assert "whole" in skip(broker.bootstrap, 0)
            assert "will be skipped" in skip(broker.bootstrap, 1)
            wait_for(lambda: folded(broker.bootstrap, 18), [worker], 30, "the folding of all events")
            assert "skipped on purpose" in dead_letters(broker.bootstrap)["1/1"][1]
            wait_for(lambda: readiness(port) == "ok\n", [worker], 20, "readiness")
        finally:
            worker.stop()
        assert set(dead_letters(broker.bootstrap)) == {"0/12", "0/13", "1/1"}
        with open_topic_reader(broker.bootstrap) as reader:
            assert len(list(reader.records(TOPICS.clicks))) == 18


@pytest.mark.timeout(240)
def test_a_damaged_header_stops_its_partition_until_what_it_hides_is_given_up(tmp_path: Path) -> None:
    """A length below zero, at which the broker refuses, and one beyond the file, at which it says nothing. Told with partition and
    offset; `isthmus topics skip` finds where the broker can read again; all before and after it is folded.
    """
    broker_or_skip()
    port, damaged, records = free_port(), 30, 60
    with LocalKafka(tmp_path / "kafka") as broker:
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        producer = KafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
        for number in range(records):  # the broker's index has a place every 4 kB: some batches lie between two of them
            value = click(f"event-{number}") + b" " * 1_500
            for partition, user in enumerate((b"a", b"d")):
                producer.send(TOPICS.clicks, key=user, value=value, partition=partition).get(10)
        producer.close()
        broker.stop()
        for partition, length in enumerate((-5, 1 << 30)):
            edit_segment(partition_folder(broker, partition), b"event-%d" % damaged, partial(with_length, length=length))
        broker.start()
        variables = {"ISTHMUS_WORKER__STATE_DIR": str(tmp_path / "state"), "ISTHMUS_TOPICS__PARTITIONS": "2"}
        arguments = ["worker", "--bootstrap", broker.bootstrap, "--metrics-port", str(port)]
        worker = ChildProcess(arguments, variables, tmp_path / "worker.log")
        try:
            places = [f"web-clicks-{partition}: " for partition in range(2)]
            wait_for(lambda: all(place in readiness(port) for place in places), [worker], 60, "the word of two partitions")
            assert all(f"isthmus topics skip web-clicks {partition} " in readiness(port) for partition in range(2))
            for partition, first in enumerate(re.findall(r"topics skip web-clicks \d (\d+)", readiness(port))):
                assert int(first) <= damaged
                answer = skip(broker.bootstrap, int(first), partition)
                assert "will be skipped" in answer, answer
            wait_for(lambda: folded(broker.bootstrap, 2 * records), [worker], 60, "the folding of all events")
            wait_for(lambda: readiness(port) == "ok\n", [worker], 30, "readiness")
        finally:
            worker.stop()
        assert {place.split("/")[0] for place in dead_letters(broker.bootstrap)} == {"0", "1"}
        with open_topic_reader(broker.bootstrap) as reader:
            offsets = {(record.partition, record.offset) for record in readable(reader.records(TOPICS.clicks))}
        assert {(partition, number) for partition in range(2) for number in (0, damaged - 5, damaged + 5, 59)} <= offsets


def reasons(bootstrap: str) -> dict[str, str]:
    return {place: reason for place, (reason, _) in dead_letters(bootstrap).items()}


def folded(bootstrap: str, records: int) -> bool:
    progress = group_lag(bootstrap, "isthmus-profiles", source_topics(TOPICS))
    return progress.end >= records and progress.lag == 0


def skip(bootstrap: str, offset: int, partition: int = 1) -> str:
    """What the command says."""
    from typer.testing import CliRunner

    from stream.cli.topics import app

    result = CliRunner().invoke(app, ["skip", TOPICS.clicks, str(partition), str(offset), "--yes", "--bootstrap", bootstrap])
    return str(result.exception) if isinstance(result.exception, IsthmusError) else result.output
