"""From a new item in the catalogue to a list that holds it, on the embedded transport: encoder, followers and worker."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
import pytest

from stream.core.announcements import ModelAnnouncement, encode_announcement
from stream.core.catalogue_records import ItemFormat
from stream.core.events import Click, Item
from stream.core.outputs import Output, Recommendation
from stream.core.ranking import Rows
from stream.core.step import StepConfig
from stream.kafka.agents.followers import ServedModelFollower
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.app import add_profile_agent, make_app, run_until_stopped
from stream.kafka.cluster.topics import source_topics, specs
from stream.kafka.embedded.log import Log, forget, open_log
from stream.kafka.embedded.log_follower import follow_log
from stream.metrics import Metrics
from stream.services.catalogue_encoding import CatalogueEncoding
from stream.settings import TopicSettings
from tests import world
from tests.rankers import TEXT_MODEL, TEXT_WIDTH, random_ranker

TOPICS = TopicSettings(partitions=2)
PRIOR = np.linspace(0.5, 0.1, len(world.ITEMS), dtype=np.float32)


class Encoder:
    """Stands for a text model: each text has a direction of its own."""

    def __init__(self, text_model: str) -> None:
        self.hash = text_model
        self.read: list[str] = []

    def encode(self, texts: Sequence[str]) -> Rows:
        self.read += texts
        return np.stack([np.eye(TEXT_WIDTH, dtype=np.float32)[sum(text.encode()) % TEXT_WIDTH] for text in texts])


@pytest.fixture
def log() -> Iterator[Log]:
    name = uuid4().hex[:8]
    opened = open_log(name, None)
    opened.create_topics(specs(TOPICS))
    opened.name = name  # type: ignore[attr-defined]
    yield opened
    forget(name)


@asynccontextmanager
async def encoder(log: Log, text_model: str = TEXT_MODEL) -> Any:
    """The encoder's second task."""
    model, metrics = Encoder(text_model), Metrics()
    encoding = CatalogueEncoding(model, ItemFormat(), metrics)  # type: ignore[arg-type]

    async def send(outputs: Sequence[Output]) -> None:
        await asyncio.gather(*(log.append_to(TOPICS.encoded_items, 0, output, None) for output in outputs))

    encoded = asyncio.Event()
    tasks = [asyncio.create_task(follow_log(log, TOPICS.encoded_items, encoding.on_encoded_items, encoded))]
    await encoded.wait()
    tasks.append(asyncio.create_task(follow_log(log, TOPICS.items, encoding.on_items, asyncio.Event())))
    tasks.append(asyncio.create_task(encoding.run(send)))
    try:
        yield model
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def worker(log: Log, folder: Path) -> Any:
    """A worker with a model of the world's items and random weights, which ranks every item of its catalogue."""
    metrics, stop, served = Metrics(), asyncio.Event(), ServedModel()
    follower = ServedModelFollower(served, metrics, lambda *_: random_ranker("isthmus", world.ITEMS, PRIOR))
    app = make_app("isthmus-profiles", f"embedded://{log.name}", data=folder, partitions=2)  # type: ignore[attr-defined]
    sources = source_topics(TOPICS)
    step = StepConfig(partitions=2, list_length=10)
    context = ProfileContext(sources=sources, epochs=log.epochs(sources), served=served, step=step, topics=TOPICS, metrics=metrics)
    add_profile_agent(app, context)
    follows = {
        TOPICS.items: follower.on_items,
        TOPICS.encoded_items: follower.on_encoded_items,
        TOPICS.models: follower.on_models,
    }
    tasks = [asyncio.create_task(follow_log(log, topic, apply, asyncio.Event())) for topic, apply in follows.items()]
    running = asyncio.create_task(run_until_stopped(app, stop))
    try:
        yield served, metrics
    finally:
        stop.set()
        await running
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def publish(log: Log, item: str, name: str | None, **fields: Any) -> None:
    value = None if name is None else msgspec.json.encode(Item(item, name, **fields))
    await log.append(TOPICS.items, item, value)


async def announce(log: Log) -> None:
    announcement = ModelAnnouncement(role="champion", name="isthmus", version="1", uri="1", sha256="1", published_at=0)
    await log.append(TOPICS.models, "champion", encode_announcement(announcement))


def newest_list(log: Log, user: str) -> Recommendation | None:
    records = [record for partition in log.topics[TOPICS.recommendations].partitions for record in partition.records]
    values = [record.value for record in records if record.key == user.encode() and record.value]
    return msgspec.json.decode(values[-1], type=Recommendation) if values else None


async def list_with(log: Log, items: set[str]) -> Recommendation:
    """The list of a user who clicks until it holds just these items."""
    deadline, user = time.monotonic() + 60, f"user-{uuid4().hex}"
    while True:
        now = time.time_ns() // 1_000_000
        await log.append(TOPICS.clicks, user, world.encode(Click(user, now, ("dog", "price"))))
        await asyncio.sleep(0.1)
        found = newest_list(log, user)
        if found is not None and {one.item for one in found.items} == items and found.fallback is None:
            return found
        assert time.monotonic() < deadline, f"the list is {found}"


async def test_a_new_item_reaches_lists_is_marked_renamed_and_withdrawn(log: Log, tmp_path: Path) -> None:
    """By its text, without a training. The model ranks it among its own items; with its vector, not in the catalogue's order."""
    for item in world.ITEMS:
        await publish(log, item, f"Name of {item}")
    await announce(log)
    known = set(world.ITEMS)
    async with encoder(log) as model, worker(log, tmp_path) as (served, metrics):
        assert not any(one.new for one in (await list_with(log, known)).items)
        await publish(log, "later", "A newItem", text="for dogs")
        found = await list_with(log, {*known, "later"})
        while not any(one.new for one in found.items):  # until its vector comes, it stands below the others
            found = await list_with(log, {*known, "later"})
        marked = [one for one in found.items if one.new]
        assert [(one.item, one.fallback) for one in marked] == [("later", None)]
        assert marked[0].score > 0
        assert model.read.count("A new Item. for dogs") == 1
        before = served.ranker
        await publish(log, "later", "Another name")
        while served.ranker is before:
            await asyncio.sleep(0.02)
        assert model.read[-1] == "Another name"
        await publish(log, "later", None)
        await list_with(log, known)
        assert metrics.registry.get_sample_value("isthmus_foreign_items") == 0


async def test_vectors_of_another_text_model_are_counted_and_not_used(log: Log, tmp_path: Path) -> None:
    """The item is offered below the model's own, as before. An encoder with the right text model gives it its place."""
    for item in (*world.ITEMS, "later"):
        await publish(log, item, f"Name of {item}")
    await announce(log)
    everything = {*world.ITEMS, "later"}
    async with worker(log, tmp_path) as (_, metrics):
        async with encoder(log, "text-0"):
            while metrics.registry.get_sample_value("isthmus_foreign_items") != 1:
                await asyncio.sleep(0.02)
            found = await list_with(log, everything)
            assert [(one.item, one.fallback) for one in found.items if one.fallback] == [("later", "catalogue")]
        async with encoder(log) as model:
            while not any(one.new for one in found.items):
                found = await list_with(log, everything)
            assert len(model.read) == len(everything)
        async with encoder(log) as model:  # nothing has changed: nothing is encoded again
            await publish(log, world.ITEMS[0], "Now named so")
            while "Now named so" not in model.read:
                await asyncio.sleep(0.02)
            assert model.read == ["Now named so"]
