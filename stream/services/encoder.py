"""The encoder as a process: transcripts in, encoded calls out, and the catalogue's vectors, until a signal stops it.

It runs without torch.
"""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from stream.application import encoder_group
from stream.core.events import Source
from stream.core.watermarks import watermark_of_call
from stream.errors import IsthmusError
from stream.services.catalogue_encoding import CatalogueEncoding, kafka_sender
from stream.services.formats import count_schema_requests, schema_gate
from stream.services.instance_name import take_name
from stream.services.process import (
    background,
    check_topics,
    dead_letter_limit,
    followed,
    item_format,
    named,
    observed,
    starting_step,
    stop_on_signals,
    transcript_format,
)
from stream.services.text_models import folder_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from stream.core.records import Batch
    from stream.health import Health
    from stream.kafka.agents.watchdog import Watchdog
    from stream.kafka.delivery.contracts import Emission
    from stream.metrics import Metrics
    from stream.services.startup import Startup
    from stream.settings import Settings
    from stream.text.model import TextModel

logger = logging.getLogger("isthmus")
ENCODER_BATCH: Final = 64  # transcripts: half a second of work


def run_encoder(settings: Settings, startup: Startup) -> None:
    """Runs an encoder on Kafka until SIGTERM or SIGINT; `startup` reports the steps until it serves."""
    import uvloop

    from stream.services.threads import limit_threads

    limit_threads()
    uvloop.run(_encoder(settings, startup))


async def _encoder(settings: Settings, startup: Startup) -> None:
    from stream.kafka.agents.stateless_agent import StatelessContext
    from stream.kafka.agents.watchdog import Supervision
    from stream.kafka.app import add_stateless_agent, make_app, run_with_renewal
    from stream.kafka.cluster.corrupt_batches import StoppedPartitions
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.stopped_reading import report_stopped
    from stream.kafka.cluster.topics import topic_epochs
    from stream.metrics import Metrics
    from stream.services.topic_watch import watch_topics

    bootstrap, topics, own, name = settings.kafka.bootstrap, settings.topics, settings.encoder, encoder_group(settings.application)
    startup.step(f"checking topics at {bootstrap}")
    instance = take_name(settings.worker_state_dir / "encoders", own.name, settings.host)
    watched = check_topics(Process.ENCODER, settings, instance.name)
    stop, metrics, stopped = stop_on_signals(), Metrics(), StoppedPartitions()
    startup.step(f"loading text model {folder_of(settings)}")
    model = load_text_model(settings)
    process = batch_encoder(settings, metrics, model)
    catalogue = CatalogueEncoding(model, item_format(settings), metrics)
    follows = {topics.encoded_items: catalogue.on_encoded_items, topics.items: catalogue.on_items}
    gate = schema_gate(settings, ["transcripts"])
    count_schema_requests(settings, metrics)

    async def encode_catalogue() -> None:
        async with kafka_sender(bootstrap, topics.encoded_items) as send:
            await catalogue.run(send)

    @asynccontextmanager
    async def follow(health: Health) -> AsyncIterator[None]:
        report_stopped(health, metrics, stopped)
        async with followed(bootstrap, follows, health, stop, startup, stopped):
            yield

    async with (
        observed(settings, name, own.metrics_port, metrics) as (health, view),
        named(bootstrap, name, instance, (topics.transcripts, 0), health, stop) as settled,
        background("topic settings", partial(watch_topics, settings, watched, metrics), health),
        follow(health),
        background("catalogue encoding", encode_catalogue, health),
    ):

        def build(epochs: Mapping[str, int], recreated: frozenset[str]) -> tuple[Any, Watchdog]:
            app = make_app(
                name,
                f"kafka://{bootstrap}",
                data=instance.folder,
                partitions=topics.partitions,
                batch_records=ENCODER_BATCH,
                instance=instance.name,
                session_timeout_s=settings.delivery.session_timeout_s,
            )
            supervision = Supervision(
                view=view, health=health, recreated=recreated, stalled_s=settings.health.stalled_s, gate=gate, followed=stopped
            )
            guarantee = settings.delivery.guarantee
            context = StatelessContext(
                topic=topics.transcripts,
                source=Source.CALL,
                epochs=epochs,
                process=process,
                metrics=metrics,
                output=topics.encoded_calls,
                watermark_of=partial(watermark_of_call, topic=topics.transcripts, epoch=epochs[topics.transcripts]),
            )
            return app, add_stateless_agent(app, context, guarantee=guarantee, supervision=supervision)

        await settled()
        startup.watch(lambda: starting_step(health, name, "taking over partitions"))
        await run_with_renewal(build, view, topic_epochs(bootstrap, [topics.transcripts]), stop)


def load_text_model(settings: Settings) -> TextModel:
    """Loads the text model that the settings name, or the packaged one."""
    from stream.text.model import TextModel

    own = settings.encoder
    return TextModel(
        folder_of(settings), batch_sentences=own.batch_sentences, threads=own.threads, cached_sentences=own.cached_sentences
    )


def batch_encoder(settings: Settings, metrics: Metrics, model: TextModel) -> Callable[[Batch], list[Emission]]:
    """Returns the function that encodes and counts one batch, for `stream.kafka.agents.stateless_agent`."""
    from stream.core.records import time_span
    from stream.kafka.delivery.contracts import Emission
    from stream.text.encode_stage import encode_batch

    topics = settings.topics
    if not model.keywords.listed:
        logger.warning("calls get no keywords because the text model's list is empty: make one with `isthmus text-model stand-in`")
    form = transcript_format(settings)
    limit = dead_letter_limit(settings)

    def process(batch: Batch) -> list[Emission]:
        started = time.perf_counter()
        encoded = encode_batch(batch, model, form)
        broken = limit.add(batch.topic, len(batch.records), encoded.dead_letters, *time_span(batch.records))
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
