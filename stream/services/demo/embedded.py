"""The demo without Kafka: log, users, encoder and one worker in this process, training in a child process."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, Final

from stream.core.announcements import decode_announcement
from stream.core.events import Source
from stream.core.outputs import decode_example
from stream.kafka.agents.followers import ServedModelFollower
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.app import add_profile_agent, add_stateless_agent, make_app, run_until_stopped
from stream.kafka.cluster.topics import ENCODER_GROUP, WORKER_GROUP, source_topics, specs
from stream.kafka.embedded.log import forget, open_log
from stream.kafka.embedded.log_follower import follow_log
from stream.metrics import Metrics
from stream.services.child_processes import ChildProcess
from stream.services.demo.context import MIN_JUDGED
from stream.services.demo.live_users import make_live_world, send_live
from stream.services.encoder import ENCODER_BATCH, batch_encoder
from stream.services.process import dead_letter_limit, step_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from stream.core.records import Record
    from stream.kafka.embedded.log import Log
    from stream.services.demo.context import DemoContext
    from stream.services.demo.stats import DemoStats
    from training.datasets.synthetic.live import LiveEvent

NAME: Final = "demo"
FIRST_EXAMPLES: Final = 600
AGAIN_S: Final = 45.0
TRAINER_LOOKS: Final = "2s"
LOOK_S: Final = 0.25


async def run_embedded(stage: DemoContext, *, persist: bool) -> None:
    """Runs everything until the stage's `stop`; `persist` keeps log and tables in its folder."""
    log = open_log(NAME, stage.folder if persist else None)
    log.create_topics(specs(stage.settings.topics))
    metrics = Metrics()
    server, _ = metrics.serve(stage.settings.worker.metrics_port)
    stage.tally.metrics_at = f"http://127.0.0.1:{server.server_port}/metrics"
    names = stage.settings.topics.model_dump()

    async def send(events: Sequence[LiveEvent]) -> None:
        for event in events:
            log.append(names[event.role], event.key, event.value)

    serving = ServedModel()
    apps = _apps(stage, log, metrics, serving)
    others = [
        *_follows(stage, log, metrics, serving),
        send_live(send, make_live_world(), stage.tally, stage.seconds, stage.seed),
        _watch(stage, metrics),
        _train_again_and_again(log, names, stage.folder, stage.tally),
    ]
    running = [asyncio.create_task(task) for task in [*apps, *others]]
    try:
        await asyncio.wait([asyncio.create_task(stage.stop.wait()), *running], return_when=asyncio.FIRST_COMPLETED)
        stage.stop.set()
        for task in running[len(apps) :]:
            task.cancel()
        for result in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        stage.tally.read([metrics.registry.collect()])
    finally:
        server.shutdown()
        await log.close()
        forget(NAME)


async def _watch(stage: DemoContext, metrics: Metrics) -> None:
    while True:
        stage.tally.read([metrics.registry.collect()])
        stage.tally.weigh({"demo": os.getpid()})
        stage.show()
        await asyncio.sleep(LOOK_S)


def _save_examples(log: Log, topic: str, path: Path) -> int:
    """Writes the newest examples to a file; gives how many."""
    from stream.core.examples import in_time_order
    from training.datasets.example_file import write_examples

    newest = {record.key: record.value for partition in log.topics[topic].partitions for record in list(partition.records)}
    examples = in_time_order(decode_example(value) for value in newest.values() if value)
    unfinished = path.with_suffix(".unfinished")
    write_examples(unfinished, examples)
    unfinished.replace(path)
    return len(examples)


def _apps(stage: DemoContext, log: Log, metrics: Metrics, serving: ServedModel) -> list[Any]:
    """Worker and encoder; they end by the stage's `stop`."""
    settings, topics = stage.settings, stage.settings.topics
    url, partitions = f"embedded://{NAME}", topics.partitions
    sources = source_topics(topics)
    worker = make_app(WORKER_GROUP, url, data=stage.folder / "worker", partitions=partitions)
    context = ProfileContext(
        sources=sources,
        epochs=log.epochs(sources),
        served=serving,
        step=step_config(settings),
        topics=topics,
        metrics=metrics,
        limit=dead_letter_limit(settings),
    )
    add_profile_agent(worker, context)
    encoder = make_app(ENCODER_GROUP, url, data=stage.folder / "encoder", partitions=partitions, batch_records=ENCODER_BATCH)
    epochs = log.epochs([topics.transcripts])
    add_stateless_agent(encoder, topics.transcripts, Source.CALL, epochs, batch_encoder(settings, metrics), metrics)
    return [run_until_stopped(worker, stage.stop), run_until_stopped(encoder, stage.stop)]


def _follows(stage: DemoContext, log: Log, metrics: Metrics, serving: ServedModel) -> list[Any]:
    """What follows the log: catalogue and models for the worker, lists and dead letters for the tally."""
    topics, tally = stage.settings.topics, stage.tally
    follower = ServedModelFollower(serving, metrics)

    async def on_recommendations(records: Sequence[Record]) -> None:
        tally.saw_recommendations(record.value for record in records)

    async def on_dead_letters(records: Sequence[Record]) -> None:
        tally.dead_letters += len(records)

    return [
        follow_log(log, topics.items, follower.on_items, asyncio.Event()),
        follow_log(log, topics.models, follower.on_models, asyncio.Event()),
        follow_log(log, topics.recommendations, on_recommendations, asyncio.Event(), from_end=True),
        follow_log(log, topics.dead_letters, on_dead_letters, asyncio.Event(), from_end=True),
    ]


async def _train_again_and_again(log: Log, names: dict[str, str], folder: Path, tally: DemoStats) -> None:
    """A trainer in a child process, from the start, for its imports take seconds: it finds new examples as soon as there are
    enough, and every 45 s from then on; what it promotes is announced.
    """
    while not (items := _item_ids(log, names["items"])):
        await log.wait(LOOK_S)
    examples, announced, output = folder / "examples.bin", folder / "announced.jsonl", folder / "train.log"
    announced.write_bytes(b"")
    arguments = ["train", "--every", TRAINER_LOOKS, "--examples", str(examples), "--announce-file", str(announced)]
    arguments += ["--min-judged", str(MIN_JUDGED), "--items", ",".join(items)]
    trainer = ChildProcess(arguments, _environment(folder), output)
    try:
        told, said, due = 0, "", 0.0
        while True:
            trainer.check()
            tally.weigh({"train": trainer.pid})
            records = sum(len(partition.records) for partition in log.topics[names["training_examples"]].partitions)
            if records >= FIRST_EXAMPLES and tally.elapsed_s >= due:
                count = await asyncio.to_thread(_save_examples, log, names["training_examples"], examples)
                tally.news.append(f"{count} examples for the trainer, a process of its own")
                due = tally.elapsed_s + AGAIN_S
            told = _announce_new(log, names["models"], announced, told)
            verdicts = [line for line in output.read_text(errors="replace").splitlines() if "version" in line and "INFO" in line]
            if verdicts and verdicts[-1] != said:
                said = verdicts[-1]
                tally.news.append(said.partition(": ")[2])
            await asyncio.sleep(LOOK_S)
    finally:
        await asyncio.to_thread(trainer.stop)


def _announce_new(log: Log, topic: str, announced: Path, told: int) -> int:
    """Appends the announcements that the child has written since; gives how many there are."""
    lines = announced.read_bytes().splitlines()
    for line in lines[told:]:
        log.append(topic, decode_announcement(line).role, line)
    return len(lines)


def _item_ids(log: Log, topic: str) -> list[str]:
    return sorted({record.key.decode() for partition in log.topics[topic].partitions for record in partition.records if record.key})


def _environment(folder: Path) -> dict[str, str]:
    return {
        "ISTHMUS_REGISTRY__URI": f"sqlite:///{folder / 'registry' / 'mlflow.db'}",
        "ISTHMUS_REGISTRY__FOLDER": str(folder / "registry" / "models"),
        "OMP_NUM_THREADS": "1",
    }
