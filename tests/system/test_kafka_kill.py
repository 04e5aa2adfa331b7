"""Worker and encoder killed with -9 in mid stream on real Kafka: every user's history, examples and last list are exact
afterwards.
"""

import asyncio
import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from models.folder import load_ranker, write_ranker
from stream.broker.lag import Progress, group_progress
from stream.broker.local import LocalKafka
from stream.broker.produce import produce
from stream.broker.topics import create_or_check, source_topics
from stream.cli.processes import Child, wait_for
from stream.cli.text_model import default_folder
from stream.core.announcements import ModelAnnouncement
from stream.core.ranking import Ranker
from stream.settings import Settings, Topics
from tests.rankers import random_ranker
from tests.system.exact import assert_exact, contents_per_id, read_all
from tests.system.needs import broker_or_skip
from training.example_topic import announce
from training.synthetic.catalogue import items
from training.synthetic.live import LiveEvent, Rates, start_for, stream_events
from training.synthetic.world import make_world

TOPICS = Topics(partitions=4)
EVENTS = 9_000


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[LocalKafka]:
    """A broker of its own: the default topic and group names."""
    broker_or_skip()
    with LocalKafka(tmp_path / "kafka") as broker:
        create_or_check(broker.bootstrap, TOPICS, dev=True)
        yield broker


def live_events(count: int) -> list[LiveEvent]:
    """Synthetic events of every kind, planted broken ones among them."""
    rates = Rates(broken_every=500)
    start_ms = start_for(time.time_ns() // 1_000_000, 600, rates.speed)
    world = make_world(np.random.default_rng(1))
    return list(itertools.islice(stream_events(world, np.random.default_rng(2), start_ms, rates=rates), count))


def publish_model(bootstrap: str, folder: Path) -> Ranker:
    """A Latent Feature network with random weights, announced as champion."""
    import json

    names = tuple(item.item_id for item in items())
    tags = sorted({tag for event in live_events(3_000) if event.role == "clicks" and not event.planted for tag in _tags(event)})
    text_model = json.loads((default_folder(Settings().cache_dir) / "manifest.json").read_text())["text_model"]
    prior = np.linspace(0.5, 0.1, len(names), dtype=np.float32)
    ranker = random_ranker("latent_feature", names, prior, tags=tags, text_model=text_model, seed=3)
    sha256 = write_ranker(folder, ranker, version="1")
    announcement = ModelAnnouncement(
        role="champion", name="latent_feature", version="1", uri=str(folder), sha256=sha256, published_at=0
    )
    announce(bootstrap, TOPICS.models, announcement)
    return load_ranker(str(folder), sha256)


def _tags(event: LiveEvent) -> list[str]:
    import msgspec

    tags: list[str] = msgspec.json.decode(event.value or b"{}")["tags"]
    return tags


def start(name: str, bootstrap: str, folder: Path) -> Child:
    environment = {
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        "ISTHMUS_TOPICS__PARTITIONS": "4",
        "ISTHMUS_KAFKA__DEV": "true",
    }
    return Child([name, "--bootstrap", bootstrap, "--metrics-port", "0"], environment, folder / f"{name}.log")


def progress(bootstrap: str) -> Progress:
    return group_progress(bootstrap, "isthmus-profiles", source_topics(TOPICS))


def settled(bootstrap: str) -> bool:
    return group_progress(bootstrap, "isthmus-encoder", [TOPICS.transcripts]).lag == 0 and progress(bootstrap).lag == 0


def send_slowly(bootstrap: str, events: list[LiveEvent]) -> None:
    """All events at some 900 a second, so that kills meet batches in flight."""
    names = TOPICS.model_dump()
    for start_at in range(0, len(events), 150):
        began = time.monotonic()
        asyncio.run(produce(bootstrap, events[start_at : start_at + 150], names, lambda _: None))
        time.sleep(max(0.0, 150 / 900 - (time.monotonic() - began)))


@pytest.mark.timeout(240)
def test_kills_of_worker_and_encoder_lose_nothing_and_apply_nothing_twice(own_kafka: LocalKafka, tmp_path: Path) -> None:
    """The worker is killed in mid stream three times and restarted, once with its store wiped; the encoder too, while clicks
    flow.
    """
    bootstrap = own_kafka.bootstrap
    events = live_events(EVENTS)
    ranker = publish_model(bootstrap, tmp_path / "model")
    worker, encoder = start("worker", bootstrap, tmp_path), start("encoder", bootstrap, tmp_path)
    sender = threading.Thread(target=send_slowly, args=(bootstrap, events), daemon=True)
    sender.start()
    try:
        for number, threshold in enumerate((1_000, 2_500, 4_000, 5_500)):
            wait_for(lambda: progress(bootstrap).committed >= threshold, [worker, encoder], 60, "the events' folding")  # noqa: B023
            if number == 1:
                encoder.kill()
                encoder = start("encoder", bootstrap, tmp_path)
                continue
            worker.kill()
            if number == 2:
                shutil.rmtree(tmp_path / "state" / "worker-1")
            worker = start("worker", bootstrap, tmp_path)
        sender.join(60)
        wait_for(lambda: settled(bootstrap), [worker, encoder], 120, "the folding of all events")
    finally:
        worker.stop()
        encoder.stop()
    users = assert_exact(bootstrap, TOPICS, ranker)
    assert users > 100
    sent = [record.value for found in read_all(bootstrap, TOPICS.recommendations).values() for record in found]
    assert all(len(contents) == 1 for contents in contents_per_id(sent).values())
    letters = {record.key for found in read_all(bootstrap, TOPICS.dead_letters).values() for record in found}
    assert len(letters) == sum(bool(event.planted) for event in events)
