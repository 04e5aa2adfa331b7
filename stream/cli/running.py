"""How the commands run a worker and an encoder on Kafka: settings in, a process that works until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from typing import TYPE_CHECKING, Any, Final

from stream.core.dead_letters import DeadLetterLimit
from stream.core.records import Batch, Source
from stream.core.step import StepSettings
from stream.errors import IsthmusError
from stream.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stream.broker.delivery import Emission
    from stream.metrics import Metrics

logger = logging.getLogger("isthmus")
ENCODER_BATCH: Final = 64  # transcripts: half a second of work


def step_settings(settings: Settings) -> StepSettings:
    """The step's settings, with a producer's mapping compiled."""
    step = settings.step
    mapping = {
        Source.CLICK: settings.mapping.clicks,
        Source.PURCHASE: settings.mapping.purchases,
        Source.ELIGIBILITY: settings.mapping.eligibility,
        Source.ERASURE: settings.mapping.erasures,
    }
    return StepSettings(
        partitions=settings.topics.partitions,
        list_length=step.list_length,
        session_gap_ms=step.session_gap_s * 1_000,
        max_ahead_ms=step.max_ahead_s * 1_000,
        allowed_lateness_ms=step.allowed_lateness_s * 1_000,
        marker_retention_ms=step.marker_retention_s * 1_000,
        erasure_key=step.erasure_key.get_secret_value().encode(),
        explain=step.explain,
        adapters={source: adapter_of(f"mapping.{source}", fields) for source, fields in mapping.items() if fields},
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
    from stream.broker.app import Serving, add_profiles, make_app, run_until_stopped, stop_on_signals
    from stream.broker.followers import ServingFollower, follow_kafka
    from stream.broker.topics import create_or_check, source_topics, topic_epochs
    from stream.metrics import Metrics

    bootstrap, topics, own = settings.kafka.bootstrap, settings.topics, settings.worker
    create_or_check(bootstrap, topics, create=False)
    stop, metrics, serving = stop_on_signals(), Metrics(), Serving()
    follower = ServingFollower(serving, metrics)
    follows: list[asyncio.Task[None]] = []
    for topic, apply in ((topics.items, follower.on_items), (topics.models, follower.on_models)):
        ready = asyncio.Event()  # one after the other: a model is checked against the catalogue
        follows.append(asyncio.create_task(follow_kafka(bootstrap, topic, apply, ready)))
        await asyncio.wait({follows[-1], asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if follows[-1].done():
            await follows[-1]
        follows[-1].add_done_callback(lambda _: stop.set())
    sources = source_topics(topics)
    app = make_app(
        "isthmus-profiles",
        f"kafka://{bootstrap}",
        data=own.state_dir / own.name,
        partitions=topics.partitions,
        batch_records=own.batch_records,
        instance=own.name if own.static_membership else None,
        session_timeout_s=settings.delivery.session_timeout_s,
    )
    add_profiles(
        app,
        sources,
        topic_epochs(bootstrap, sources),
        serving,
        step_settings(settings),
        topics,
        metrics,
        in_flight=own.in_flight,
        limit=limit_of(settings),
        guarantee=settings.delivery.guarantee,
    )
    server, _ = metrics.serve(own.metrics_port)
    logger.info("worker %s: metrics at http://127.0.0.1:%d/metrics", own.name, server.server_port)
    try:
        await run_until_stopped(app, stop)
    finally:
        for task in follows:
            task.cancel()
        ended = await asyncio.gather(*follows, return_exceptions=True)
        server.shutdown()
    for error in ended:  # a worker that no longer follows would serve an old model for ever
        if isinstance(error, Exception):
            raise error


def run_encoder(settings: Settings) -> None:
    """Runs an encoder on Kafka until SIGTERM or SIGINT."""
    import uvloop

    one_thread_each()

    uvloop.run(_encoder(settings))


async def _encoder(settings: Settings) -> None:
    from stream.broker.app import add_processor, make_app, run_until_stopped, stop_on_signals
    from stream.broker.topics import create_or_check, topic_epochs
    from stream.metrics import Metrics

    bootstrap, topics, own = settings.kafka.bootstrap, settings.topics, settings.encoder
    create_or_check(bootstrap, topics, create=False)
    stop, metrics = stop_on_signals(), Metrics()
    app = make_app(
        "isthmus-encoder",
        f"kafka://{bootstrap}",
        data=settings.worker.state_dir / own.name,
        partitions=topics.partitions,
        batch_records=ENCODER_BATCH,
        instance=own.name,
        session_timeout_s=settings.delivery.session_timeout_s,
    )
    process = encoder_process(settings, metrics)
    add_processor(
        app,
        topics.transcripts,
        topic_epochs(bootstrap, [topics.transcripts]),
        process,
        metrics,
        guarantee=settings.delivery.guarantee,
    )
    server, _ = metrics.serve(own.metrics_port)
    logger.info("encoder %s: metrics at http://127.0.0.1:%d/metrics", own.name, server.server_port)
    try:
        await run_until_stopped(app, stop)
    finally:
        server.shutdown()


def encoder_process(settings: Settings, metrics: Metrics) -> Callable[[Batch], list[Emission]]:
    """The stage as `stream.broker.processor` runs it: encoded calls and dead letters, counted."""
    from stream.broker.delivery import Emission
    from stream.cli.text_model import folder_of
    from stream.text.model import TextModel
    from stream.text.stage import encode_batch

    own, topics = settings.encoder, settings.topics
    model = TextModel(
        folder_of(settings), batch_sentences=own.batch_sentences, threads=own.threads, cached_sentences=own.cached_sentences
    )
    if not model.keywords.listed:
        logger.warning("calls get no keywords, for the text model's list is empty: make one with `isthmus text-model stand-in`")
    fields = settings.mapping.transcripts
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
