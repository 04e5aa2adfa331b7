"""The demo without Kafka: log, users, encoder and one worker in this process, training in a child process."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final

from stream.broker.app import add_processor, add_profiles, make_app, run_until_stopped
from stream.broker.embedded.following import follow_log
from stream.broker.embedded.log import forget, open_log
from stream.broker.followers import ServingFollower
from stream.broker.profiles import Serving
from stream.broker.topics import source_topics, specs
from stream.cli.demonstration.load import send_live
from stream.cli.running import ENCODER_BATCH, encoder_process, step_settings
from stream.core.announcements import decode_announcement
from stream.core.outputs import decode_example
from stream.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stream.broker.embedded.log import Log
    from stream.cli.demonstration.tally import Tally
    from stream.core.records import Record
    from stream.settings import Settings
    from training.synthetic.live import LiveEvent

NAME: Final = "demo"
FIRST_EXAMPLES: Final = 900
AGAIN_S: Final = 45.0
MIN_JUDGED: Final = 80
LOOK_S: Final = 0.25


async def run_embedded(
    settings: Settings,
    folder: Path,
    persist: Path | None,
    tally: Tally,
    stop: asyncio.Event,
    show: Callable[[], None],
    seconds: float | None,
    seed: int | None,
) -> None:
    """Runs everything until `stop`; `persist` keeps log and tables there."""
    from training.example_files import write_examples
    from training.examples import in_time_order

    log = open_log(NAME, persist)
    log.create_topics(specs(settings.topics))
    metrics = Metrics()
    server, _ = metrics.serve(settings.worker.metrics_port)
    tally.metrics_at = f"http://127.0.0.1:{server.server_port}/metrics"
    names = settings.topics.model_dump()

    async def send(events: Sequence[LiveEvent]) -> None:
        for event in events:
            log.append(names[event.role], event.key, event.value)

    async def watch() -> None:
        pids = {"demo": _own_pid()}
        while True:
            tally.read([metrics.registry.collect()])
            tally.weigh(pids)
            show()
            await asyncio.sleep(LOOK_S)

    def save(path: Path) -> int:
        newest = {
            record.key: record.value
            for partition in log.topics[names["training_examples"]].partitions
            for record in list(partition.records)
        }
        examples = in_time_order(decode_example(value) for value in newest.values() if value)
        write_examples(path, examples)
        return len(examples)

    tasks = [
        *_parts(settings, folder, log, metrics, tally, stop),
        send_live(send, tally, seconds, seed),
        watch(),
        _train_again_and_again(log, names, folder, save, tally),
    ]
    running = [asyncio.create_task(task) for task in tasks]
    try:
        await asyncio.wait([asyncio.create_task(stop.wait()), *running], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        for task in running[2:]:
            task.cancel()
        for result in await asyncio.gather(*running, return_exceptions=True):
            if isinstance(result, Exception):
                raise result
        tally.read([metrics.registry.collect()])
    finally:
        server.shutdown()
        await log.close()
        forget(NAME)


def _parts(settings: Settings, folder: Path, log: Log, metrics: Metrics, tally: Tally, stop: asyncio.Event) -> list[Any]:
    """Worker and encoder (which end by `stop`), and what follows the log."""
    topics = settings.topics
    url, partitions = f"embedded://{NAME}", topics.partitions
    serving = Serving()
    sources = source_topics(topics)
    worker = make_app("isthmus-profiles", url, data=folder / "worker", partitions=partitions)
    add_profiles(worker, sources, log.epochs(sources), serving, step_settings(settings), topics, metrics)
    encoder = make_app("isthmus-encoder", url, data=folder / "encoder", partitions=partitions, batch_records=ENCODER_BATCH)
    add_processor(encoder, topics.transcripts, log.epochs([topics.transcripts]), encoder_process(settings, metrics), metrics)
    follower = ServingFollower(serving, metrics)

    async def on_recommendations(records: Sequence[Record]) -> None:
        tally.saw_recommendations(record.value for record in records)

    async def on_dead_letters(records: Sequence[Record]) -> None:
        tally.dead_letters += len(records)

    return [
        run_until_stopped(worker, stop),
        run_until_stopped(encoder, stop),
        follow_log(log, topics.items, follower.on_items, asyncio.Event()),
        follow_log(log, topics.models, follower.on_models, asyncio.Event()),
        follow_log(log, topics.recommendations, on_recommendations, asyncio.Event(), from_end=True),
        follow_log(log, topics.dead_letters, on_dead_letters, asyncio.Event(), from_end=True),
    ]


async def _train_again_and_again(log: Log, names: dict[str, str], folder: Path, save: Callable[[Path], int], tally: Tally) -> None:
    """One training run in a child process as soon as there is enough, and one every 45 s from then on; announces what it
    promoted.
    """
    examples, announced = folder / "examples.bin", folder / "announced.jsonl"
    topic = log.topics[names["training_examples"]]
    while sum(len(partition.records) for partition in topic.partitions) < FIRST_EXAMPLES:
        await log.wait(LOOK_S)
    announced.write_bytes(b"")
    told = 0
    while True:
        count = await asyncio.to_thread(save, examples)
        tally.news.append(f"training on {count} examples in a process of its own")
        arguments = ["train", "--examples", str(examples), "--announce-file", str(announced), "--min-judged", str(MIN_JUDGED)]
        command = [sys.executable, "-m", "stream.cli.main", *arguments, "--items", ",".join(_item_ids(log, names["items"]))]
        output = (folder / "train.log").open("ab")
        process = await asyncio.create_subprocess_exec(*command, stdout=output, stderr=output, env=_environment(folder))
        output.close()
        try:
            while process.returncode is None:
                told = _announce_new(log, names["models"], announced, told)
                tally.weigh({"train": process.pid})
                await asyncio.wait([asyncio.create_task(process.wait())], timeout=LOOK_S)
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        told = _announce_new(log, names["models"], announced, told)
        lines = (folder / "train.log").read_text(errors="replace").strip().splitlines()
        tally.news.append(f"training ended: {lines[-1] if lines else 'without a word'}")
        await asyncio.sleep(AGAIN_S)


def _announce_new(log: Log, topic: str, announced: Path, told: int) -> int:
    """Appends the announcements that the child has written since; gives how many there are."""
    lines = announced.read_bytes().splitlines()
    for line in lines[told:]:
        log.append(topic, decode_announcement(line).role, line)
    return len(lines)


def _item_ids(log: Log, topic: str) -> list[str]:
    return sorted({record.key.decode() for partition in log.topics[topic].partitions for record in partition.records if record.key})


def _environment(folder: Path) -> dict[str, str]:
    import os

    return {
        **os.environ,
        "ISTHMUS_REGISTRY__URI": f"sqlite:///{folder / 'registry' / 'mlflow.db'}",
        "ISTHMUS_REGISTRY__FOLDER": str(folder / "registry" / "models"),
        "OMP_NUM_THREADS": "1",
    }


def _own_pid() -> int:
    import os

    return os.getpid()
