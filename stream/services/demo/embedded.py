"""The demo without Kafka: log, users, encoder and worker in this process, the trainer in a child process."""

from __future__ import annotations

import asyncio
import logging
import os
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from models.artifact import load_ranker
from models.trusted_folders import FolderTrust
from stream.application import encoder_group, worker_group
from stream.core.announcements import decode_announcement
from stream.core.catalogue_records import item_dead_letters
from stream.core.events import Source
from stream.core.outputs import decode_example
from stream.core.watermarks import watermark_of_call
from stream.kafka.agents import profile_agent
from stream.kafka.agents.catalogue_dead_letters import count_items, rejected_items
from stream.kafka.agents.followers import ServedModelFollower
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.agents.stateless_agent import StatelessContext
from stream.kafka.app import add_profile_agent, add_stateless_agent, make_app, run_until_stopped
from stream.kafka.cluster.topics import source_topics, specs
from stream.kafka.embedded.log import forget, open_log
from stream.kafka.embedded.log_follower import follow_log
from stream.metrics import Metrics
from stream.services.child_processes import ChildProcess
from stream.services.demo.api import on_log, serve_demo_api
from stream.services.demo.catching_up import catch_up, repeated
from stream.services.demo.context import MIN_JUDGED
from stream.services.demo.live_users import send_live
from stream.services.encoder import ENCODER_BATCH, batch_encoder, load_text_model
from stream.services.model_trust import announcement_trust
from stream.services.process import dead_letter_limit, item_format, step_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stream.core.records import Record
    from stream.kafka.embedded.log import Log
    from stream.services.demo.context import DemoContext
    from stream.services.demo.stats import DemoStats
    from training.datasets.synthetic.live import LiveEvent

NAME: Final = "demo"
PLANTED: Final = (
    "%d records of %s could not be used: %s. The demo plants some on purpose, to show dead letters: there is nothing to fix"
)
FIRST_EXAMPLES: Final = 600
AGAIN_S: Final = 45.0
SEND_STOP_S: Final = 5.0
TRAINER_LOOKS: Final = "2s"
LOOK_S: Final = 0.25


async def run_embedded(context: DemoContext, *, persist: bool) -> None:
    """Runs everything until the context's `stop`; `persist` keeps log and tables in its folder."""
    profile_agent.logger.addFilter(without_advice)
    log = open_log(NAME, context.folder if persist else None)
    log.create_topics(specs(context.settings.topics, context.settings.application))
    metrics = Metrics()
    server, _ = metrics.serve(context.settings.worker.metrics_port, host="127.0.0.1")
    context.stats.metrics_at = f"{server.url}/metrics"
    apps_stop = asyncio.Event()
    served = ServedModel()
    apps = [_worker(context, log, metrics, served, apps_stop), _encoder(context, log, metrics, apps_stop)]
    others = [
        *_follows(context, log, metrics, served),
        _watch(context, metrics),
        serve_demo_api(context, on_log(log, context.settings, metrics), metrics),
        _train_periodically(log, context.settings.topics.model_dump(), context.folder, context.stats),
    ]
    running = [asyncio.create_task(task) for task in [*apps, *others, _send(context, log)]]
    try:
        await asyncio.wait([asyncio.create_task(context.stop.wait()), *running], return_when=asyncio.FIRST_COMPLETED)
        if context.stop.is_set():
            await _catch_up(context, log, running[-1])
        apps_stop.set()
        for task in running[len(apps) :]:
            task.cancel()
        with repeated("stopping encoder, worker and trainer", context.say):
            results = await asyncio.gather(*running, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result
        context.stats.read([metrics.registry.collect()])
    finally:
        server.shutdown()
        await log.close()
        forget(NAME)


def without_advice(record: logging.LogRecord) -> bool:
    """Says of dead letters that the demo plants them: the worker's advice is for others, and needs a broker."""
    if record.msg == profile_agent.UNUSABLE and isinstance(record.args, tuple):
        record.msg, record.args = PLANTED, record.args[:3]
    return True


async def _send(context: DemoContext, log: Log) -> None:
    names = context.settings.topics.model_dump()

    async def send(events: Sequence[LiveEvent]) -> None:
        for event in events:
            log.append(names[event.role], event.key, event.value)

    world = await asyncio.wrap_future(context.world)
    await send_live(send, world, context.stats, context.stop, context.seconds, context.seed)


async def _catch_up(context: DemoContext, log: Log, sending: asyncio.Task[None]) -> None:
    """Waits until encoder and worker have acknowledged everything, and the followers of their outputs have counted it."""
    topics, application = context.settings.topics, context.settings.application
    await asyncio.wait({sending}, timeout=SEND_STOP_S)

    async def behind() -> int:
        encoding = log.lag(encoder_group(application), [topics.transcripts])
        return encoding + log.lag(worker_group(application), source_topics(topics))

    await catch_up(behind, context.say)
    await asyncio.sleep(LOOK_S)  # the log wakes its followers at once: time for a last read


async def _watch(context: DemoContext, metrics: Metrics) -> None:
    while True:
        context.stats.read([metrics.registry.collect()])
        context.stats.weigh({"demo": os.getpid()})
        context.show()
        await asyncio.sleep(LOOK_S)


def _save_examples(log: Log, topic: str, path: Path) -> int:
    """Writes the newest examples to a file; returns how many there are."""
    from stream.core.examples import in_time_order
    from training.datasets.example_file import write_examples

    newest = {record.key: record.value for partition in log.topics[topic].partitions for record in list(partition.records)}
    examples = in_time_order(decode_example(value) for value in newest.values() if value)
    unfinished = path.with_suffix(".unfinished")
    write_examples(unfinished, examples)
    unfinished.replace(path)
    return len(examples)


async def _worker(context: DemoContext, log: Log, metrics: Metrics, served: ServedModel, stop: asyncio.Event) -> None:
    settings, topics = context.settings, context.settings.topics
    sources = source_topics(topics)
    group = worker_group(settings.application)
    app = make_app(group, f"embedded://{NAME}", data=context.folder / "worker", partitions=topics.partitions)
    profile = ProfileContext(
        sources=sources,
        epochs=log.epochs(sources),
        served=served,
        step=step_config(settings),
        topics=topics,
        metrics=metrics,
        limit=dead_letter_limit(settings),
    )
    add_profile_agent(app, profile)
    await run_until_stopped(app, stop)


async def _encoder(context: DemoContext, log: Log, metrics: Metrics, stop: asyncio.Event) -> None:
    """Loads the text model in a thread: the first recommendations follow from clicks and do not wait for it."""
    settings, topics = context.settings, context.settings.topics
    model = await asyncio.to_thread(load_text_model, settings)
    process = batch_encoder(settings, metrics, model)
    data = context.folder / "encoder"
    group = encoder_group(settings.application)
    app = make_app(group, f"embedded://{NAME}", data=data, partitions=topics.partitions, batch_records=ENCODER_BATCH)
    epochs = log.epochs([topics.transcripts])
    watermark_of = partial(watermark_of_call, topic=topics.transcripts, epoch=epochs[topics.transcripts])
    encoder = StatelessContext(
        topic=topics.transcripts,
        source=Source.CALL,
        epochs=epochs,
        process=process,
        metrics=metrics,
        output=topics.encoded_calls,
        watermark_of=watermark_of,
    )
    add_stateless_agent(app, encoder)
    await run_until_stopped(app, stop)


def _follows(context: DemoContext, log: Log, metrics: Metrics, served: ServedModel) -> list[Any]:
    """The followers of the log: catalogue and models for the worker, lists and dead letters for the statistics."""
    topics, stats = context.settings.topics, context.stats
    form = item_format(context.settings)
    load = partial(load_ranker, trust=FolderTrust((str(context.folder),)))
    trust = announcement_trust(context.settings)
    follower = ServedModelFollower(served, metrics, load, items=form, trust=trust)

    async def on_items(records: Sequence[Record]) -> None:
        await follower.on_items(records)
        rejected = rejected_items(records, form)
        count_items(len(records), rejected, metrics)
        epoch = log.epochs([topics.items])[topics.items]
        for letter in item_dead_letters(topics.items, epoch, 0, rejected, context.settings.application.encode()):
            log.append_to(topics.dead_letters, 0, letter, None)

    async def on_recommendations(records: Sequence[Record]) -> None:
        stats.saw_recommendations(record.value for record in records)

    async def on_dead_letters(records: Sequence[Record]) -> None:
        stats.dead_letters += len(records)

    return [
        follow_log(log, topics.items, on_items, asyncio.Event()),
        follow_log(log, topics.models, follower.on_models, asyncio.Event()),
        follow_log(log, topics.recommendations, on_recommendations, asyncio.Event(), from_end=True),
        follow_log(log, topics.dead_letters, on_dead_letters, asyncio.Event(), from_end=True),
    ]


async def _train_periodically(log: Log, names: dict[str, str], folder: Path, stats: DemoStats) -> None:
    """Runs a trainer in a child process and announces what it promotes.

    It is started after the first recommendation, because its imports take a core for seconds. It gets examples as soon as there are
    enough, and every 45 s from then on.
    """
    while not (stats.recommendations and (items := _item_ids(log, names["items"]))):
        await log.wait(LOOK_S)
    examples, announced, output = folder / "examples.bin", folder / "announced.jsonl", folder / "train.log"
    announced.write_bytes(b"")
    arguments = ["train", "--every", TRAINER_LOOKS, "--examples", str(examples), "--announce-file", str(announced)]
    arguments += ["--min-judged", str(MIN_JUDGED), "--items", ",".join(items)]
    trainer = ChildProcess(arguments, _environment(folder), output)
    try:
        announced_lines, shown_verdict, due = 0, "", 0.0
        while True:
            trainer.check()
            stats.weigh({"train": trainer.pid})
            records = sum(len(partition.records) for partition in log.topics[names["training_examples"]].partitions)
            if records >= FIRST_EXAMPLES and stats.elapsed_s >= due:
                count = await asyncio.to_thread(_save_examples, log, names["training_examples"], examples)
                stats.news.append(f"{count} examples for the trainer, a separate process")
                due = stats.elapsed_s + AGAIN_S
            announced_lines = _announce_new(log, names["models"], announced, announced_lines)
            verdicts = [line for line in output.read_text(errors="replace").splitlines() if "version" in line and "INFO" in line]
            if verdicts and verdicts[-1] != shown_verdict:
                shown_verdict = verdicts[-1]
                stats.news.append(shown_verdict.partition(": ")[2])
            await asyncio.sleep(LOOK_S)
    finally:
        await asyncio.to_thread(trainer.stop)


def _announce_new(log: Log, topic: str, announced: Path, known: int) -> int:
    """Appends the announcements that the child has written since; returns how many it has written in all."""
    lines = announced.read_bytes().splitlines()
    for line in lines[known:]:
        log.append(topic, decode_announcement(line).role, line)
    return len(lines)


def _item_ids(log: Log, topic: str) -> list[str]:
    return sorted({record.key.decode() for partition in log.topics[topic].partitions for record in partition.records if record.key})


def _environment(folder: Path) -> dict[str, str]:
    return {
        "ISTHMUS_REGISTRY__URI": f"sqlite:///{folder / 'registry' / 'mlflow.db'}",
        "ISTHMUS_REGISTRY__FOLDER": str(folder / "registry" / "models"),
        "ISTHMUS_REGISTRY__TRUSTED_FOLDERS": "[]",
        "OMP_NUM_THREADS": "1",
    }
