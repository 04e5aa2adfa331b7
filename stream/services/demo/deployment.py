"""The demo on a real broker: encoder, two workers and trainer as separate processes, observed through their metrics."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

from stream.application import encoder_group, worker_group
from stream.core.unreadable import readable
from stream.kafka.cluster import batch_reading
from stream.kafka.cluster.clients import async_consumer, async_producer
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.local_broker import LocalKafka, free_port
from stream.kafka.cluster.security import require_plain_for_local_broker
from stream.kafka.cluster.topics import create_or_check, source_topics
from stream.metrics import Metrics
from stream.services.child_processes import ChildProcess
from stream.services.demo.api import on_broker, serve_demo_api
from stream.services.demo.catching_up import catch_up, repeated
from stream.services.demo.context import MIN_JUDGED
from stream.services.demo.live_users import send_live
from stream.services.metrics_reader import scrape
from stream.services.text_models import folder_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stream.services.demo.context import DemoContext
    from stream.services.demo.stats import DemoStats
    from stream.settings import Settings
    from training.datasets.synthetic.live import LiveEvent

WORKERS: Final = 2
EVERY: Final = "10s"
LOOK_S: Final = 1.0
SEND_STOP_S: Final = 5.0


async def run_on_kafka(context: DemoContext, bootstrap: str | None) -> None:
    """Runs the parts until the context's `stop`; starts a local broker unless one is given."""
    with ExitStack() as stack:
        pids = {"demo": os.getpid()}
        if bootstrap is None:
            require_plain_for_local_broker()
            context.say("starting a local broker")
            kafka = LocalKafka(context.folder / "kafka")
            stack.callback(kafka.stop)
            await asyncio.to_thread(kafka.start)
            bootstrap, pids["kafka"] = kafka.bootstrap, kafka.pid
        context.say(f"creating topics at {bootstrap}")
        await asyncio.to_thread(create_or_check, bootstrap, context.settings.topics, context.settings.application, dev=True)
        context.say(f"starting {WORKERS} workers and an encoder")
        processes = DemoProcesses(context, bootstrap, pids, stack)
        ports = [free_port() for _ in range(WORKERS)]
        urls = [f"http://127.0.0.1:{port}/metrics" for port in ports]
        context.stats.metrics_at = ", ".join(urls)
        for number, port in enumerate(ports, start=1):
            processes.start(f"worker-{number}", ["worker", "--name", f"worker-{number}", "--metrics-port", str(port)])
        processes.start("encoder", ["encoder", "--metrics-port", "0"])
        await _run(context, bootstrap, urls, processes)
        with repeated("stopping the processes and the broker", context.say):
            stack.close()


class DemoProcesses:
    """The processes of the deployment; `stack` ends them."""

    def __init__(self, context: DemoContext, bootstrap: str, pids: dict[str, int], stack: ExitStack) -> None:
        self.pids = pids
        self._bootstrap = bootstrap
        self._folder = context.folder
        self._text_model = folder_of(context.settings)
        self._placements = json.dumps(context.settings.feedback.placements)
        self._stack = stack
        self._children: list[ChildProcess] = []

    def start(self, name: str, command: list[str]) -> None:
        folder = self._folder
        environment = {
            "ISTHMUS_KAFKA__DEV": "true",
            "ISTHMUS_HEALTH__METRICS_HOST": "127.0.0.1",
            "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
            "ISTHMUS_REGISTRY__URI": f"sqlite:///{folder / 'registry' / 'mlflow.db'}",
            "ISTHMUS_REGISTRY__FOLDER": str(folder / "registry" / "models"),
            "ISTHMUS_REGISTRY__TRUSTED_FOLDERS": "[]",
            "ISTHMUS_ENCODER__TEXT_MODEL": str(self._text_model),
            "ISTHMUS_FEEDBACK__PLACEMENTS": self._placements,
            "ISTHMUS_STEP__EXPLAIN": "true",
            "OMP_NUM_THREADS": "1",
        }
        child = ChildProcess([*command, "--bootstrap", self._bootstrap], environment, folder / f"{name}.log")
        self._stack.callback(child.stop)
        self._children.append(child)
        self.pids[name] = child.pid

    def check(self) -> None:
        for child in self._children:
            child.check()


async def _run(context: DemoContext, bootstrap: str, urls: Sequence[str], processes: DemoProcesses) -> None:
    topics, stats = context.settings.topics, context.stats
    lists = TopicTail(bootstrap, topics.recommendations, lambda records: stats.saw_recommendations(row.value for row in records))
    dead_letters = TopicTail(bootstrap, topics.dead_letters, lambda records: _add_dead_letters(stats, len(records)))
    sending = asyncio.create_task(_send(context, bootstrap))
    api = serve_demo_api(context, on_broker(bootstrap, context, urls), Metrics())
    others = (_watch(context, urls, processes), lists.run(), dead_letters.run(), api)
    tasks = [sending, *(asyncio.create_task(task) for task in others)]
    try:
        await asyncio.wait([asyncio.create_task(context.stop.wait()), *tasks], return_when=asyncio.FIRST_COMPLETED)
        if context.stop.is_set():
            await asyncio.wait({sending}, timeout=SEND_STOP_S)

            async def behind() -> int:
                unread = await lists.behind() + await dead_letters.behind()
                return unread + await asyncio.to_thread(_records_on_their_way, bootstrap, context.settings)

            await catch_up(behind, context.say)
        stats.read(await asyncio.to_thread(scrape, urls))
        stats.weigh(processes.pids)
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _send(context: DemoContext, bootstrap: str) -> None:
    names = context.settings.topics.model_dump()
    producer = async_producer(bootstrap, linger_ms=5)
    await producer.start()

    async def send(events: Sequence[LiveEvent]) -> None:
        for event in events:
            key = None if event.key is None else event.key.encode()
            await producer.send(names[event.role], key=key, value=event.value)

    try:
        world = await asyncio.wrap_future(context.world)
        await send_live(send, world, context.stats, context.stop, context.seconds, context.seed)
    finally:
        await producer.stop()


async def _watch(context: DemoContext, urls: Sequence[str], processes: DemoProcesses) -> None:
    trains = False
    while True:
        processes.check()
        context.stats.read(await asyncio.to_thread(scrape, urls))
        context.stats.weigh(processes.pids)
        context.show()
        if not trains and context.stats.recommendations:  # its start takes a core for seconds: the workers come first
            processes.start("trainer", ["train", "--every", EVERY, "--min-judged", str(MIN_JUDGED)])
            trains = True
        await asyncio.sleep(LOOK_S)


def _add_dead_letters(stats: DemoStats, count: int) -> None:
    stats.dead_letters += count


def _records_on_their_way(bootstrap: str, settings: Settings) -> int:
    """Records of the input topics that encoder or workers have not acknowledged."""
    topics, application = settings.topics, settings.application
    return (
        group_lag(bootstrap, encoder_group(application), [topics.transcripts]).lag
        or group_lag(bootstrap, worker_group(application), source_topics(topics)).lag
    )


class TopicTail:
    """Reads a topic from its present end on; `take` gets the records of each fetch."""

    def __init__(self, bootstrap: str, topic: str, take: Callable[[list[Any]], None]) -> None:
        batch_reading.install()
        self._consumer = async_consumer(topic, bootstrap=bootstrap, enable_auto_commit=False, auto_offset_reset="latest")
        self._take = take

    async def run(self) -> None:
        """Reads until it is cancelled."""
        await self._consumer.start()
        try:
            await self._consumer.seek_to_end()
            while True:
                for records in (await self._consumer.getmany(timeout_ms=500)).values():
                    self._take(readable(records))
        finally:
            await self._consumer.stop()

    async def behind(self) -> int:
        """How many records are not read yet."""
        ends = await self._consumer.end_offsets(self._consumer.assignment())
        positions = [await self._consumer.position(tp) for tp in ends]
        return int(sum(ends.values()) - sum(positions))
