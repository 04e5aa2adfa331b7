"""How the commands run a worker and an encoder on Kafka: settings in, a process that works until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from stream.core.dead_letters import DeadLetterLimit
from stream.core.events import STEP_INPUTS
from stream.core.records import Batch
from stream.core.step import StepConfig
from stream.errors import IsthmusError
from stream.health import Beat, Health
from stream.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence

    from stream.kafka.agents.watchdog import Watchdog
    from stream.kafka.cluster.view import ClusterView
    from stream.kafka.faust.batch_consumer import Emission
    from stream.metrics import Metrics

logger = logging.getLogger("isthmus")
ENCODER_BATCH: Final = 64  # transcripts: half a second of work


def step_settings(settings: Settings) -> StepConfig:
    """The step's settings, with a producer's mapping compiled."""
    step = settings.step
    mappings = {row: settings.mapping.of(row.role) for row in STEP_INPUTS if not row.is_derived}
    return StepConfig(
        partitions=settings.topics.partitions,
        list_length=step.list_length,
        session_gap_ms=step.session_gap_s * 1_000,
        max_ahead_ms=step.max_ahead_s * 1_000,
        allowed_lateness_ms=step.allowed_lateness_s * 1_000,
        marker_retention_ms=step.marker_retention_s * 1_000,
        erasure_key=step.erasure_key.get_secret_value().encode(),
        explain=step.explain,
        adapters={row.source: adapter_of(f"mapping.{row.role}", fields) for row, fields in mappings.items() if fields},
    )


def adapter_of(section: str, fields: Mapping[str, str]) -> Callable[[Any], Any]:
    """A producer's JSON object -> ours, by one JMESPath expression per field; a field that is not found is left out."""
    import jmespath

    compiled = {}
    for name, expression in fields.items():
        try:
            compiled[name] = jmespath.compile(expression)
        except jmespath.exceptions.JMESPathError as error:
            raise IsthmusError(f"setting {section}.{name}: {expression!r} is not a JMESPath expression ({error})") from None

    def adapt(value: Any) -> dict[str, Any]:
        try:
            found = {name: expression.search(value) for name, expression in compiled.items()}
        except jmespath.exceptions.JMESPathError as error:
            raise ValueError(type(error).__name__) from None
        return {name: field for name, field in found.items() if field is not None}

    return adapt


def limit_of(settings: Settings) -> DeadLetterLimit:
    return DeadLetterLimit(settings.dead_letters.stop_share, settings.dead_letters.window_records)


def one_thread_each() -> None:
    """Numeric libraries on one thread, before they are imported: a deployment scales by processes, and small batches lose by
    threads.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def run_worker(settings: Settings) -> None:
    """Runs a worker on Kafka until SIGTERM or SIGINT."""
    import uvloop

    one_thread_each()

    if settings.step.erasure_key.get_secret_value() == "isthmus":
        logger.warning("erasure markers can be guessed: set ISTHMUS_STEP__ERASURE_KEY to a secret of your own")
    uvloop.run(_worker(settings))


async def _worker(settings: Settings) -> None:
    from stream.kafka.agents.followers import ServedModelFollower
    from stream.kafka.agents.profile_agent import ServedModel
    from stream.kafka.app import Supervision, add_profile_agent, make_app, run_with_renewal, stop_on_signals
    from stream.kafka.cluster.topics import changelog_name, create_or_check, source_topics, topic_epochs
    from stream.kafka.faust.store import check_changelog
    from stream.metrics import Metrics

    bootstrap, topics, own = settings.kafka.bootstrap, settings.topics, settings.worker
    create_or_check(bootstrap, topics, create=False)
    sources, name, folder = source_topics(topics), "isthmus-profiles", own.state_dir / own.name
    changelog = topic_epochs(bootstrap, [changelog_name(name)])
    check_changelog(folder, changelog)
    stop, metrics, serving = stop_on_signals(), Metrics(), ServedModel()
    follower = ServedModelFollower(serving, metrics)

    async with _looked_after(settings, name, own.metrics_port, metrics) as (health, view):
        follows = {topics.items: follower.on_items, topics.models: follower.on_models}
        health.ready["model"] = follower.missing
        async with _followed(bootstrap, follows, health, stop), _beside(follower.keep_trying()):

            def build(epochs: Mapping[str, int], recreated: frozenset[str]) -> tuple[Any, Watchdog]:
                app = make_app(
                    name,
                    f"kafka://{bootstrap}",
                    data=folder,
                    partitions=topics.partitions,
                    batch_records=own.batch_records,
                    instance=own.name if own.static_membership else None,
                    session_timeout_s=settings.delivery.session_timeout_s,
                )
                looks = Supervision(
                    view=view, health=health, recreated=recreated, changelog=changelog, stalled_s=settings.health.stalled_s
                )
                watch = add_profile_agent(
                    app,
                    sources,
                    epochs,
                    serving,
                    steps,
                    topics,
                    metrics,
                    in_flight=own.in_flight,
                    limit=limit_of(settings),
                    guarantee=settings.delivery.guarantee,
                    looks=looks,
                )
                return app, watch

            steps = step_settings(settings)
            await run_with_renewal(build, view, topic_epochs(bootstrap, sources), stop)


@asynccontextmanager
async def _beside(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


@asynccontextmanager
async def _looked_after(settings: Settings, group: str, port: int, metrics: Metrics) -> AsyncIterator[tuple[Health, ClusterView]]:
    """Metrics and health are served, and the broker's view of the group is open, inside the context."""
    from stream.kafka.cluster.view import KafkaClusterView

    beat, health = Beat(settings.health.silent_s, time.monotonic), Health()
    health.live["event loop"] = beat.check
    health.ready["partitions"] = lambda: "none are assigned yet"
    server, _ = metrics.serve(port, health)
    logger.info("%s: metrics and health at http://127.0.0.1:%d/metrics, /livez, /readyz", group, server.server_port)
    view = KafkaClusterView(settings.kafka.bootstrap, group)
    beating = asyncio.create_task(beat.keep_beating())
    try:
        yield health, view
    finally:
        beating.cancel()
        await view.close()
        server.shutdown()
        server.server_close()


@asynccontextmanager
async def _followed(
    bootstrap: str, follows: Mapping[str, Callable[[Sequence[Any]], Any]], health: Health, stop: asyncio.Event
) -> AsyncIterator[None]:
    """Topics are followed whole inside the context, which begins once all that there was is applied, one topic after the other: a
    model is checked against the catalogue.

    A follower that ends sets `stop` and its error is raised at the end: the worker would serve an old model for ever.
    """
    from stream.kafka.agents.followers import follow_kafka

    tasks: list[asyncio.Task[None]] = []
    try:
        for topic, apply in follows.items():
            ready = asyncio.Event()
            health.ready[topic] = lambda ready=ready: None if ready.is_set() else "is not read whole yet"  # type: ignore[misc]
            tasks.append(asyncio.create_task(follow_kafka(bootstrap, topic, apply, ready)))
            await asyncio.wait({tasks[-1], asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
            if tasks[-1].done():
                await tasks[-1]
            tasks[-1].add_done_callback(lambda _: stop.set())
        yield
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error


def run_encoder(settings: Settings) -> None:
    """Runs an encoder on Kafka until SIGTERM or SIGINT."""
    import uvloop

    one_thread_each()

    uvloop.run(_encoder(settings))


async def _encoder(settings: Settings) -> None:
    from stream.kafka.app import Supervision, add_stateless_agent, make_app, run_with_renewal, stop_on_signals
    from stream.kafka.cluster.topics import create_or_check, topic_epochs
    from stream.metrics import Metrics

    bootstrap, topics, own, name = settings.kafka.bootstrap, settings.topics, settings.encoder, "isthmus-encoder"
    create_or_check(bootstrap, topics, create=False)
    stop, metrics = stop_on_signals(), Metrics()
    process = encoder_process(settings, metrics)

    async with _looked_after(settings, name, own.metrics_port, metrics) as (health, view):

        def build(epochs: Mapping[str, int], recreated: frozenset[str]) -> tuple[Any, Watchdog]:
            app = make_app(
                name,
                f"kafka://{bootstrap}",
                data=settings.worker.state_dir / own.name,
                partitions=topics.partitions,
                batch_records=ENCODER_BATCH,
                instance=own.name,
                session_timeout_s=settings.delivery.session_timeout_s,
            )
            looks = Supervision(view=view, health=health, recreated=recreated, stalled_s=settings.health.stalled_s)
            guarantee = settings.delivery.guarantee
            return app, add_stateless_agent(app, topics.transcripts, epochs, process, metrics, guarantee=guarantee, looks=looks)

        await run_with_renewal(build, view, topic_epochs(bootstrap, [topics.transcripts]), stop)


def encoder_process(settings: Settings, metrics: Metrics) -> Callable[[Batch], list[Emission]]:
    """The stage as `stream.kafka.agents.stateless_agent` runs it: encoded calls and dead letters, counted."""
    from stream.cli.text_model import folder_of
    from stream.kafka.faust.batch_consumer import Emission
    from stream.text.encode_stage import encode_batch
    from stream.text.model import TextModel

    own, topics = settings.encoder, settings.topics
    model = TextModel(
        folder_of(settings), batch_sentences=own.batch_sentences, threads=own.threads, cached_sentences=own.cached_sentences
    )
    if not model.keywords.listed:
        logger.warning("calls get no keywords, for the text model's list is empty: make one with `isthmus text-model stand-in`")
    fields = settings.mapping.of("transcripts")
    adapter = adapter_of("mapping.transcripts", fields) if fields else None
    limit = limit_of(settings)

    def process(batch: Batch) -> list[Emission]:
        started = time.perf_counter()
        encoded = encode_batch(batch, model, adapter)
        broken = limit.add(batch.topic, len(batch.records), encoded.dead_letters)
        if broken is not None:
            raise IsthmusError(broken)
        metrics.histogram("encoder_seconds").observe(time.perf_counter() - started)
        metrics.counter("encoder_sentences").inc(encoded.sentences)
        metrics.count(encoded.counts)
        return [
            Emission(topics.encoded_calls, encoded.calls, encoded.timestamps),
            Emission(topics.dead_letters, encoded.dead_letters),
        ]

    return process
