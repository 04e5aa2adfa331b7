"""`isthmus audience` on real Kafka, from states that stand in the changelog."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from kafka import KafkaProducer

from models.artifact import write_ranker
from models.popular import Popular, prior_of
from stream.core.announcements import ModelAnnouncement
from stream.core.events import Item
from stream.core.state import Head, encode_state
from stream.kafka.cluster.compacted_topic import announce
from stream.kafka.cluster.producer import InputRecord, produce
from stream.kafka.cluster.topics import changelog_name, create_or_check
from stream.kafka.faust.changelog import term_headers
from stream.settings import TopicSettings

TOPICS = TopicSettings(partitions=2)
ITEMS = ("car", "home")


def test_the_audience_is_read_from_the_topics(empty_kafka: str, tmp_path: Path) -> None:
    """Champion, catalogue and states come from Kafka; who owns the item is left out. A champion in a folder that is not trusted, or
    without a signature where there is a key, ends the command.
    """
    create_or_check(empty_kafka, TOPICS, dev=True)
    items = [InputRecord("items", item, msgspec.json.encode(Item(item, item))) for item in ITEMS]
    asyncio.run(produce(empty_kafka, items, TOPICS.model_dump(), lambda _: None))
    sha256 = write_ranker(str(tmp_path / "model"), Popular("1", "", ITEMS, prior_of([["car"]], ITEMS)), version="1")
    folder = str(tmp_path / "model")
    champion = ModelAnnouncement(role="champion", name="popular", version="1", uri=folder, sha256=sha256, published_at=1)
    announce(empty_kafka, TOPICS.models, champion)
    producer: Any = KafkaProducer(bootstrap_servers=empty_kafka, acks="all")
    for number, (user, owned) in enumerate((("a", ()), ("owner", ("car",)), ("b", ()))):
        state = encode_state(Head(owned=owned))
        stamp, changelog = list(term_headers(1)), changelog_name("isthmus-profiles")
        for prefix, value in ((b"h", state), (b"s", b"what was shown")):
            producer.send(changelog, key=prefix + user.encode(), value=value, partition=number % 2, headers=stamp)
    producer.flush()
    producer.close()
    command = [sys.executable, "-m", "stream.cli.main", "audience", "car", "--bootstrap", empty_kafka]

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "ISTHMUS_TOPICS__PARTITIONS": "2", **more}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    elsewhere, unsigned = run(), run(ISTHMUS_REGISTRY__FOLDER=str(tmp_path), ISTHMUS_REGISTRY__ANNOUNCEMENT_KEYS=f'["{"k" * 32}"]')
    done = run(ISTHMUS_REGISTRY__FOLDER=str(tmp_path))
    assert "does not lie below a trusted folder" in elsewhere.stderr
    assert "it is not signed, and registry.announcement_keys is set" in unsigned.stderr
    assert [one.returncode for one in (elsewhere, unsigned)] == [2, 2]
    assert done.returncode == 0, done.stderr
    assert [line.split(",")[0] for line in done.stdout.splitlines()] == ["user_id", "a", "b"]
