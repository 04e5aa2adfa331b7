"""Every system is published, loaded, served and swapped: all of them in the pure step, two of them in the worker."""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from models.artifact import load_ranker, write_ranker
from models.systems import SYSTEMS
from stream.core import limits
from stream.core.announcements import ModelAnnouncement, encode_announcement
from stream.core.events import Click, Source, UserEvent
from stream.core.interactions import Interaction
from stream.core.ranking import Holdings, PostFilter, Ranker, score_rows
from stream.core.state import Facts, decode_facts, decode_head, facts_key, head_key
from stream.core.step import StepConfig
from stream.kafka.agents.followers import ServedModelFollower
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.app import add_profile_agent, make_app, run_until_stopped
from stream.kafka.cluster.topics import source_topics, specs
from stream.kafka.embedded.log import Log, forget, open_log
from stream.kafka.embedded.log_follower import follow_log
from stream.metrics import Metrics
from stream.settings import TopicSettings
from tests import world
from tests.rankers import TAGS, random_ranker

PRIOR = np.linspace(0.5, 0.1, len(world.ITEMS), dtype=np.float32)
TOPICS = TopicSettings(partitions=2)


def publish(folder: Path, name: str, version: str) -> str:
    return write_ranker(folder, random_ranker(name, world.ITEMS, PRIOR, text_width=world.WIDTH), version=version)


def window(store: world.Store) -> Sequence[Interaction]:
    head, facts = store.get_many([head_key(b"u"), facts_key(b"u")])
    assert head is not None
    kept = (Facts() if facts is None else decode_facts(facts)).interactions
    return [*kept, *decode_head(head).tail][-limits.WINDOW :]


def full_list(store: world.Store, ranker: Ranker) -> tuple[str, ...]:
    scores = score_rows(ranker, ranker.encode_many([window(store)]), [Holdings((), ())])
    top = PostFilter(ranker.items, world.catalogue(), world.NOW).top(scores, [()], 5)[0]
    return tuple(ranker.items[index] for index in top)


def event(rng: np.random.Generator, now: int, number: int) -> tuple[Source, UserEvent]:
    if rng.random() < 0.3:
        return Source.CALL, world.call(f"c{number}", now - world.MINUTE, now, int(rng.integers(99)), offset=number)
    return Source.CLICK, Click("u", now, tuple(rng.choice(TAGS, size=2, replace=False).tolist()))


def test_the_step_serves_every_system_and_swaps_them(tmp_path: Path) -> None:
    """After each event the list is what the current system gives for the whole window, whatever the former one cached."""
    rankers = [load_ranker(str(tmp_path / name), publish(tmp_path / name, name, "1")) for name in SYSTEMS]
    rng, store = np.random.default_rng(0), world.Store()
    now, ranker = world.NOW - 10 * limits.DAY_MS, rankers[0]
    for number in range(12 * len(rankers)):
        now += int(rng.choice([1, 45])) * world.MINUTE
        if number % 6 == 0:  # each is served twice: before and after the window is full
            ranker = rankers[number // 6 % len(rankers)]
        source, one = event(rng, now, number)
        world.run(store, world.batch_of(source, [(number, one)]), ranker)
        assert store.last_list() == full_list(store, ranker), (ranker.name, number)
    assert len(window(store)) == limits.WINDOW


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        await asyncio.sleep(0.02)


def models_of_lists(log: Log) -> list[str]:
    """Returns the names of the models that made the lists of user u, in order."""
    records = [record for partition in log.topics[TOPICS.recommendations].partitions for record in partition.records]
    return [json.loads(record.value)["model"]["name"] for record in records if record.value]


@pytest.mark.parametrize("name", ["latent_feature", "knowledge_distillation"])
async def test_a_running_worker_takes_over_an_announced_system(name: str, tmp_path: Path) -> None:
    """From popularity to a network without a restart; the folder is verified."""
    log_name = uuid4().hex[:8]
    log = open_log(log_name)
    log.create_topics(specs(TOPICS))
    serving, metrics, stop = ServedModel(None, world.catalogue()), Metrics(), asyncio.Event()
    app = make_app("isthmus-profiles", f"embedded://{log_name}", data=tmp_path / "state", partitions=2, batch_records=50)
    sources = source_topics(TOPICS)
    step = StepConfig(partitions=2)
    context = ProfileContext(sources=sources, epochs=log.epochs(sources), served=serving, step=step, topics=TOPICS, metrics=metrics)
    add_profile_agent(app, context)
    follower = ServedModelFollower(serving, metrics)
    following = asyncio.create_task(follow_log(log, TOPICS.models, follower.on_models, asyncio.Event()))
    running = asyncio.create_task(run_until_stopped(app, stop))
    now = time.time_ns() // 1_000_000 - limits.DAY_MS
    try:
        for number, announced in enumerate(("popular", name)):
            folder = tmp_path / announced
            sha256 = publish(folder, announced, str(number + 1))
            announcement = ModelAnnouncement(
                role="champion", name=announced, version=str(number + 1), uri=str(folder), sha256=sha256, published_at=0
            )
            await log.append(TOPICS.models, "champion", encode_announcement(announcement))
            await until(lambda expected=announced: serving.ranker is not None and serving.ranker.name == expected)  # type: ignore[misc]
            click = Click("u", now + number * limits.HOUR_MS, ("car", "claim"), event_id=f"e{number}")
            await log.append(TOPICS.clicks, "u", world.encode(click))
            await until(lambda count=number + 1: len(models_of_lists(log)) == count)  # type: ignore[misc]
        assert models_of_lists(log) == ["popular", name]
    finally:
        stop.set()
        await running
        following.cancel()
        forget(log_name)
