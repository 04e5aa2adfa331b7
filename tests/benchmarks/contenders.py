"""The contenders that run in the project's environment, each in its own process on one core: ours, the limit, a plain Faust agent.

`python -m tests.benchmarks.contenders NAME` reads a `Job` from standard input.
"""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import faust
import mode
import msgspec

from models.artifact import load_ranker
from stream.core.events import Item, Source
from stream.core.partitioner import partition_of
from stream.core.ranking import Catalogue, Ranker
from stream.core.records import Batch, PlainRecord
from stream.core.step import StepConfig, step
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.app import add_profile_agent, make_app, relax_garbage_collector, run_until_stopped
from stream.kafka.cluster.topics import source_topics, topic_epochs
from stream.metrics import Metrics
from stream.process_settings import Guarantee
from stream.settings import TopicSettings
from tests.benchmarks.bare import Bare, decode_click, decode_state, encode_state, encoded
from tests.benchmarks.job import Clock, Job, read_job
from tests.benchmarks.lists import list_in
from tests.benchmarks.load import ITEMS, Sent, events_of
from tests.world import Store

BATCH = 1_000
Run = Callable[[Any, asyncio.Event], Coroutine[Any, Any, None]]
CATALOGUE = Catalogue(Item(item, item) for item in ITEMS)


def served(job: Job) -> Ranker | None:
    return load_ranker(job.model) if job.model else None


async def ours(job: Job, guarantee: Guarantee = "at_least_once") -> Clock:
    """Runs the worker's app."""
    topics = TopicSettings(partitions=job.partitions)
    sources, metrics = source_topics(topics), Metrics()
    app = make_app("isthmus-profiles", f"kafka://{job.bootstrap}", data=Path(job.folder), partitions=job.partitions)
    context = ProfileContext(
        sources=sources,
        epochs=topic_epochs(job.bootstrap, sources),
        served=ServedModel(served(job), CATALOGUE),
        step=StepConfig(partitions=job.partitions),
        topics=topics,
        metrics=metrics,
    )
    add_profile_agent(app, context, guarantee=guarantee)
    return await _watch(app, job, lambda: metrics.total("events"))


async def exactly_once(job: Job) -> Clock:
    """Runs the worker's app with each batch in a transaction."""
    return await ours(job, "exactly_once")


async def plain(job: Job) -> Clock:
    """Runs an agent as in Faust's documentation: one event at a time, a table, `topic.send`, none of our corrections."""
    app = faust.App(
        "plain",
        broker=f"aiokafka://{job.bootstrap}",
        store="rocksdb://",
        datadir=Path(job.folder),
        autodiscover=False,
        web_enabled=False,
        agent_supervisor=mode.CrashingSupervisor,
        consumer_auto_offset_reset="earliest",
        producer_linger=0.002,
        stream_buffer_maxsize=4_096,
        table_standby_replicas=0,
        topic_partitions=job.partitions,
        topic_disable_leader=True,
    )
    topics, bare, done = TopicSettings(), Bare(job.model), 0
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    clicks = app.topic(topics.clicks, **raw)
    lists = app.topic(topics.recommendations, **raw)
    table = app.Table("states", key_type=bytes, value_type=bytes, partitions=job.partitions)

    async def agent(stream: Any) -> None:
        nonlocal done
        async for event in stream.events():
            message = event.message
            click, state = decode_click(message.value), decode_state(table.get(message.key))
            bare.fold(state, click)
            ranked = bare.lists([state])[0]
            table[message.key] = encode_state(state)
            if ranked is not None:
                await lists.send(key=message.key, value=encoded(click, ranked, int(message.timestamp * 1_000)))
            done += 1

    app.agent(clicks, name="plain", concurrency=1)(agent)
    return await _watch(app, job, lambda: done, _run_plain)


async def _run_plain(app: Any, stop: asyncio.Event) -> None:
    """Runs the app as Faust does, with the worker's garbage collector settings."""
    app.finalize()
    await app.start()
    relax_garbage_collector()
    await stop.wait()
    await app.stop()


async def _watch(app: Any, job: Job, done: Callable[[], float], run: Run = run_until_stopped) -> Clock:
    stop, clock = asyncio.Event(), Clock(job)
    running = asyncio.create_task(run(app, stop))
    while not running.done() and not clock.look(done()):
        await asyncio.wait([running], timeout=0.01)
    stop.set()
    await running
    return clock


def limit(job: Job) -> Clock:
    """Runs step and ranker on records in memory, in the worker's batches, states in a dictionary: an upper bound for any worker."""
    ranker, settings = served(job), StepConfig(partitions=job.partitions)
    store, clock, done = Store(), Clock(job), 0
    batches = batches_of(events_of(job), job.partitions)
    lists: dict[str, list[str]] = {}
    relax_garbage_collector()
    for batch in batches:
        outcome = step(batch, store, ranker, CATALOGUE, settings)
        for key, value in outcome.writes.items():
            if value is not None:
                store.records[key] = value
        done += len(batch.records)
        clock.look(done)
        if job.lists:
            lists.update(list_in(output.value) for output in outcome.recommendations if output.value is not None)
    if job.lists:
        Path(job.lists).write_bytes(msgspec.json.encode(lists))
    return clock


def batches_of(events: Iterable[Sent], partitions: int) -> list[Batch]:
    """Yields full batches of each partition, in the order in which they fill."""
    waiting: dict[int, list[PlainRecord]] = {number: [] for number in range(partitions)}
    counts = dict.fromkeys(waiting, 0)
    batches = []
    for event in events:
        key = event.key.encode()
        number = partition_of(key, partitions)
        waiting[number].append(PlainRecord(counts[number], 2_000_000_000_000, key, event.value))
        counts[number] += 1
        if len(waiting[number]) == BATCH:
            batches.append(Batch(Source.CLICK, "web-clicks", 1, number, waiting[number]))
            waiting[number] = []
    rest = [Batch(Source.CLICK, "web-clicks", 1, number, records) for number, records in waiting.items() if records]
    return [*batches, *rest]


APPS = {"ours": ours, "exactly_once": exactly_once, "plain": plain}


def main() -> None:
    import uvloop

    job = read_job()
    os.sched_setaffinity(0, {0})
    if job.model:
        import torch

        torch.set_num_threads(1)
    name = sys.argv[1]
    clock = limit(job) if name == "limit" else uvloop.run(APPS[name](job))
    clock.report()


if __name__ == "__main__":
    main()
