"""The demo on a real broker: encoder, two workers and trainer as processes of their own, watched through their metrics."""

from __future__ import annotations

import asyncio
import os
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from stream.kafka.cluster.local_broker import LocalKafka, free_port
from stream.kafka.cluster.topics import create_or_check
from stream.services.child_processes import ChildProcess
from stream.services.demo.context import MIN_JUDGED
from stream.services.demo.live_users import make_live_world, send_live
from stream.services.text_models import folder_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from prometheus_client.metrics_core import Metric

    from stream.services.demo.context import DemoContext
    from stream.services.demo.stats import DemoStats
    from training.datasets.synthetic.live import LiveEvent
    from training.datasets.synthetic.world import World

WORKERS: Final = 2
EVERY: Final = "10s"
LOOK_S: Final = 1.0


async def run_on_kafka(stage: DemoContext, bootstrap: str | None) -> None:
    """Runs the parts until the stage's `stop`; starts a local broker of its own where none is named."""
    with ExitStack() as stack:
        pids = {"demo": os.getpid()}
        world = asyncio.create_task(make_live_world())  # while the broker starts
        if bootstrap is None:
            kafka = LocalKafka(stage.folder / "kafka")
            stack.callback(kafka.stop)
            await asyncio.to_thread(kafka.start)
            bootstrap, pids["kafka"] = kafka.bootstrap, kafka.pid
        await asyncio.to_thread(create_or_check, bootstrap, stage.settings.topics, dev=True)
        parts = DemoProcesses(stage, bootstrap, pids, stack)
        ports = [free_port() for _ in range(WORKERS)]
        stage.tally.metrics_at = ", ".join(f"http://127.0.0.1:{port}/metrics" for port in ports)
        for number, port in enumerate(ports, start=1):
            parts.start(f"worker-{number}", ["worker", "--name", f"worker-{number}", "--metrics-port", str(port)])
        parts.start("encoder", ["encoder", "--metrics-port", "0"])
        await _run(stage, bootstrap, ports, parts, world)


class DemoProcesses:
    """The processes of the deployment, ended with `stack`."""

    def __init__(self, stage: DemoContext, bootstrap: str, pids: dict[str, int], stack: ExitStack) -> None:
        self.pids = pids
        self._bootstrap = bootstrap
        self._folder = stage.folder
        self._text_model = folder_of(stage.settings)
        self._stack = stack
        self._children: list[ChildProcess] = []

    def start(self, name: str, command: list[str]) -> None:
        folder = self._folder
        environment = {
            "ISTHMUS_KAFKA__DEV": "true",
            "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
            "ISTHMUS_REGISTRY__URI": f"sqlite:///{folder / 'registry' / 'mlflow.db'}",
            "ISTHMUS_REGISTRY__FOLDER": str(folder / "registry" / "models"),
            "ISTHMUS_ENCODER__TEXT_MODEL": str(self._text_model),
            "OMP_NUM_THREADS": "1",
        }
        child = ChildProcess([*command, "--bootstrap", self._bootstrap], environment, folder / f"{name}.log")
        self._stack.callback(child.stop)
        self._children.append(child)
        self.pids[name] = child.pid

    def check(self) -> None:
        for child in self._children:
            child.check()


async def _run(stage: DemoContext, bootstrap: str, ports: Sequence[int], parts: DemoProcesses, world: Awaitable[World]) -> None:
    names, tally = stage.settings.topics.model_dump(), stage.tally
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5)
    await producer.start()

    async def send(events: Sequence[LiveEvent]) -> None:
        for event in events:
            key = None if event.key is None else event.key.encode()
            await producer.send(names[event.role], key=key, value=event.value)

    async def watch() -> None:
        trains = False
        while True:
            parts.check()
            tally.read(await asyncio.to_thread(_scrape, ports))
            tally.weigh(parts.pids)
            stage.show()
            if not trains and tally.recommendations:  # its start takes a core for seconds: the workers come first
                parts.start("trainer", ["train", "--every", EVERY, "--min-judged", str(MIN_JUDGED)])
                trains = True
            await asyncio.sleep(LOOK_S)

    tasks = [
        asyncio.create_task(task)
        for task in (
            send_live(send, world, tally, stage.seconds, stage.seed),
            watch(),
            _consume(bootstrap, names["recommendations"], lambda records: tally.saw_recommendations(one.value for one in records)),
            _consume(bootstrap, names["dead_letters"], lambda records: _add_dead_letters(tally, len(records))),
        )
    ]
    try:
        await asyncio.wait([asyncio.create_task(stage.stop.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
        tally.read(await asyncio.to_thread(_scrape, ports))
        tally.weigh(parts.pids)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await producer.stop()
    for result in results:
        if isinstance(result, Exception):
            raise result


def _add_dead_letters(tally: DemoStats, count: int) -> None:
    tally.dead_letters += count


async def _consume(bootstrap: str, topic: str, take: Callable[[list[Any]], None]) -> None:
    """Reads a topic from its end on, for ever."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="latest")
    await consumer.start()
    try:
        await consumer.seek_to_end()
        while True:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                take(records)
    finally:
        await consumer.stop()


def _scrape(ports: Sequence[int]) -> list[Iterable[Metric]]:
    """The metrics of the workers that answer already."""
    from prometheus_client.parser import text_string_to_metric_families

    found: list[Iterable[Metric]] = []
    for port in ports:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as answer:
                found.append(list(text_string_to_metric_families(answer.read().decode())))
        except OSError:
            continue
    return found
