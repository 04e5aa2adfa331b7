"""One contender in a process of its own on one core: reads the clicks, folds, scores, writes state and recommendations durably.

`python -m tests.benchmarks.contenders NAME` with a JSON job on standard input; prints a row as JSON. The clock runs from the
first event after `skip` to the last one that is acknowledged.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import faust
import mode
import msgspec

from models.folder import load_ranker
from stream.broker.app import add_profiles, calm_collector, make_app, run_until_stopped
from stream.broker.profiles import Serving
from stream.broker.topics import source_topics, topic_epochs
from stream.core.events import Item
from stream.core.partitioner import partition_of
from stream.core.ranking import Catalogue, Ranker
from stream.core.records import Batch, PlainRecord, Source
from stream.core.step import StepSettings, step
from stream.metrics import Metrics
from stream.settings import Topics
from tests.benchmarks.load import ITEMS, Sent, at_the_bounds, new_users, to_the_bounds
from tests.world import Store

BATCH = 1_000
CATALOGUE = Catalogue(Item(item, item) for item in ITEMS)


class Job(msgspec.Struct):
    """What to do: `skip` events to warm up (or to fill states), then `count`; `model` is a folder, "" for no scoring."""

    bootstrap: str
    folder: str
    partitions: int
    skip: int
    count: int
    model: str = ""
    bounds: int = 0


class Clock:
    """Measures between two counts of events."""

    def __init__(self, skip: int, count: int) -> None:
        self.skip, self.count = skip, count
        self._begin: tuple[float, float, float] | None = None
        self.row: dict[str, float] | None = None

    def look(self, done: float) -> bool:
        """Takes the count of now; true once all is done."""
        now = (time.perf_counter(), time.process_time(), done)
        if self._begin is None:
            if done > self.skip:
                self._begin = now
        elif done >= self.skip + self.count:
            seconds, cpu, events = (now[place] - self._begin[place] for place in range(3))
            self.row = {
                "events_per_s": events / seconds,
                "cpu_us_per_event": cpu / events * 1e6,
                "peak_rss_bytes": peak_rss_bytes(),
            }
            return True
        return False


def peak_rss_bytes() -> int:
    """Of this process alone: `getrusage` would give the parent's where that is larger, for Linux hands it on through exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1_024
    raise OSError("/proc/self/status does not tell VmHWM")


def served(job: Job) -> Ranker | None:
    return load_ranker(job.model) if job.model else None


async def ours(job: Job) -> dict[str, float]:
    """The worker's own app."""
    topics = Topics(partitions=job.partitions)
    sources, metrics = source_topics(topics), Metrics()
    app = make_app("isthmus-profiles", f"kafka://{job.bootstrap}", data=Path(job.folder), partitions=job.partitions)
    add_profiles(
        app,
        sources,
        topic_epochs(job.bootstrap, sources),
        Serving(served(job), CATALOGUE),
        StepSettings(partitions=job.partitions),
        topics,
        metrics,
    )
    return await _watch(app, job, lambda: metrics.total("events"))


async def plain(job: Job) -> dict[str, float]:
    """The same work in a plain Faust agent, one event at a time: not durable before its offset, and without the corrections."""
    topics = Topics(partitions=job.partitions)
    epochs = topic_epochs(job.bootstrap, [topics.clicks])
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
    raw = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    clicks = app.topic(topics.clicks, **raw)
    lists = app.topic(topics.recommendations, **raw)
    table = app.Table("states", key_type=bytes, value_type=bytes, partitions=job.partitions)
    ranker, settings = served(job), StepSettings(partitions=job.partitions)
    done = 0

    class States:
        def get_many(self, keys: Any) -> list[bytes | None]:
            return [table.get(key) for key in keys]

    async def agent(stream: Any) -> None:
        nonlocal done
        async for event in stream.events():
            message = event.message
            record = PlainRecord(message.offset, int(message.timestamp * 1_000), message.key, message.value)
            batch = Batch(Source.CLICK, message.topic, epochs[message.topic], message.partition, [record])
            outcome = step(batch, States(), ranker, CATALOGUE, settings)
            for key, value in outcome.writes.items():
                table[key] = value
            for output in outcome.recommendations:
                await lists.send(key=output.key, value=output.value, partition=message.partition)
            done += 1

    app.agent(clicks, name="plain", concurrency=1)(agent)
    return await _watch(app, job, lambda: done)


async def _watch(app: Any, job: Job, done: Callable[[], float]) -> dict[str, float]:
    stop, clock = asyncio.Event(), Clock(job.skip, job.count)
    running = asyncio.create_task(run_until_stopped(app, stop))
    while not running.done() and not clock.look(done()):
        await asyncio.wait([running], timeout=0.01)
    stop.set()
    await running
    assert clock.row is not None
    return clock.row


def limit(job: Job) -> dict[str, float]:
    """Step and ranker on records in memory, states in a dictionary: what no worker can exceed. Cut into batches as the worker's."""
    ranker, settings = served(job), StepSettings(partitions=job.partitions)
    store, clock, done = Store(), Clock(job.skip, job.count), 0
    events: Iterable[Sent] = (
        [*to_the_bounds(job.bounds), *at_the_bounds(job.bounds, job.count)] if job.bounds else new_users(job.skip + job.count)
    )
    batches = batches_of(events, job.partitions)
    calm_collector()
    for batch in batches:
        outcome = step(batch, store, ranker, CATALOGUE, settings)
        for key, value in outcome.writes.items():
            if value is not None:
                store.records[key] = value
        done += len(batch.records)
        clock.look(done)
    assert clock.row is not None
    return clock.row


def batches_of(events: Iterable[Sent], partitions: int) -> list[Batch]:
    """Full batches of each partition, in the order in which they fill: users meet their own partition's users only."""
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


def main() -> None:
    import uvloop

    os.sched_setaffinity(0, {0})
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=Job)
    if job.model:
        import torch

        torch.set_num_threads(1)
    name = sys.argv[1]
    row = limit(job) if name == "limit" else uvloop.run({"ours": ours, "plain": plain}[name](job))
    print(json.dumps(row))


if __name__ == "__main__":
    main()
