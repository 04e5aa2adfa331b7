"""The worker as a process: profile agent, catalogue and model followers, health and metrics, until a signal stops it."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from stream.application import worker_group
from stream.core.events import STEP_INPUTS
from stream.services.formats import count_schema_requests, flat_lists, schema_gate
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
    step_config,
    stop_on_signals,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stream.kafka.agents.watchdog import Watchdog
    from stream.services.instance_name import Instance
    from stream.services.startup import Startup
    from stream.settings import Settings

logger = logging.getLogger("isthmus")


def run_worker(settings: Settings, startup: Startup) -> None:
    """Runs a worker on Kafka until SIGTERM or SIGINT; `startup` reports the steps until it serves."""
    import uvloop

    from stream.services.threads import limit_threads

    limit_threads()
    if settings.step.erasure_key.get_secret_value() == "isthmus":
        logger.warning("erasure markers can be guessed: set ISTHMUS_STEP__ERASURE_KEY to a secret of your own")
    uvloop.run(_worker(settings, startup))


async def _worker(settings: Settings, startup: Startup) -> None:
    from models.artifact import load_ranker
    from stream.kafka.agents.catalogue_dead_letters import report_unusable_items
    from stream.kafka.agents.followers import ServedModelFollower
    from stream.kafka.agents.profile_agent import ProfileContext
    from stream.kafka.agents.served_model import ServedModel
    from stream.kafka.agents.watchdog import Supervision
    from stream.kafka.app import add_profile_agent, run_with_renewal
    from stream.kafka.cluster.corrupt_batches import StoppedPartitions
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.stopped_reading import report_stopped
    from stream.kafka.cluster.topics import changelog_name, source_topics, topic_epochs
    from stream.kafka.faust.user_table import check_changelog
    from stream.metrics import Metrics
    from stream.services.model_trust import announcement_trust, folder_trust
    from stream.services.topic_watch import watch_topics

    bootstrap, topics, own = settings.kafka.bootstrap, settings.topics, settings.worker
    startup.step(f"checking topics at {bootstrap}")
    instance = take_name(settings.worker_state_dir, own.name, settings.host)
    watched = check_topics(Process.WORKER, settings, instance.name)
    sources, name, folder = source_topics(topics), worker_group(settings.application), instance.folder
    changelog = topic_epochs(bootstrap, [changelog_name(name)])
    check_changelog(folder, changelog)
    stop, metrics, served, stopped = stop_on_signals(), Metrics(), ServedModel(), StoppedPartitions()
    items = item_format(settings)
    load = partial(load_ranker, trust=folder_trust(settings))
    follower = ServedModelFollower(served, metrics, load, items=items, trust=announcement_trust(settings))
    gate = schema_gate(settings, [row.role for row in STEP_INPUTS if not row.is_derived])
    count_schema_requests(settings, metrics)
    flat = flat_lists(settings)
    report_items = partial(
        report_unusable_items, bootstrap, settings.application, topics.items, topics.dead_letters, items, metrics
    )

    async with observed(settings, name, own.metrics_port, metrics) as (health, view):
        follows = {
            topics.items: follower.on_items,
            topics.encoded_items: follower.on_encoded_items,
            topics.models: follower.on_models,
        }
        health.ready["model"] = follower.missing
        report_stopped(health, metrics, stopped)
        claimed = named(bootstrap, name, instance, (topics.clicks, 0), health, stop)
        async with (
            claimed if own.static_membership else nullcontext() as settled,
            followed(bootstrap, follows, health, stop, startup, stopped),
            background("model retries", follower.keep_retrying, health),
            background("catalogue reports", report_items, health),
            background("topic settings", partial(watch_topics, settings, watched, metrics), health),
        ):

            def build(epochs: Mapping[str, int], recreated: frozenset[str]) -> tuple[Any, Watchdog]:
                app = _make_app(settings, instance)
                supervision = Supervision(
                    view=view,
                    health=health,
                    recreated=recreated,
                    changelog=changelog,
                    stalled_s=settings.health.stalled_s,
                    gate=gate,
                    followed=stopped,
                )
                context = ProfileContext(
                    sources=sources,
                    epochs=epochs,
                    served=served,
                    step=step,
                    topics=topics,
                    metrics=metrics,
                    limit=dead_letter_limit(settings),
                    in_flight=own.in_flight,
                    flat=None if flat is None else flat.outputs,
                )
                guarantee = settings.delivery.guarantee
                return app, add_profile_agent(app, context, guarantee=guarantee, supervision=supervision)

            step = step_config(settings)
            if settled is not None:
                await settled()
            startup.watch(lambda: starting_step(health, name, "restoring users' states from the changelog"))
            await run_with_renewal(build, view, topic_epochs(bootstrap, sources), stop)


def _make_app(settings: Settings, instance: Instance) -> Any:
    from stream.kafka.app import make_app

    own = settings.worker
    return make_app(
        worker_group(settings.application),
        f"kafka://{settings.kafka.bootstrap}",
        data=instance.folder,
        partitions=settings.topics.partitions,
        batch_records=own.batch_records,
        instance=instance.name if own.static_membership else None,
        session_timeout_s=settings.delivery.session_timeout_s,
    )
