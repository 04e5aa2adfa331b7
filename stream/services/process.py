"""What long-running processes share: the step's configuration from settings, health and metrics over HTTP, whole topics followed.

What a worker or an encoder consists of is in the module of that name.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from stream.core import limits
from stream.core.catalogue_records import ItemFormat
from stream.core.dead_letters import DeadLetterLimit
from stream.core.event_times import TimeRule, TimeUnit, rule_of
from stream.core.events import INPUTS, STEP_INPUTS, MappingError
from stream.core.feedback import FeedbackConfig
from stream.core.step import StepConfig
from stream.errors import IsthmusError
from stream.health import NOT_ASSIGNED, Beat, Health
from stream.services.formats import topic_decoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Iterable, Mapping, Sequence

    from stream.core.events import InputTopic
    from stream.kafka.cluster.corrupt_batches import StoppedPartitions
    from stream.kafka.cluster.names import NameClaim
    from stream.kafka.cluster.rights import Process
    from stream.kafka.cluster.topic_follower import Apply
    from stream.kafka.cluster.view import ClusterView
    from stream.metrics import Metrics
    from stream.services.instance_name import Instance
    from stream.services.startup import Startup
    from stream.settings import Settings
    from stream.text.encode_stage import TranscriptFormat

logger = logging.getLogger("isthmus")
_CLAIM_S: Final = 30.0
_FAILS_PAUSES: Final = 3
"""A background task counts as failing for this many pauses after its last error."""
_WHOLE_LISTS: Final = frozenset({"items", "excluded"})
"""Fields whose lists must not become shorter: an item that is left out would be offered."""


def step_config(settings: Settings) -> StepConfig:
    """Returns the step's configuration, with the field mappings compiled.

    Raises:
        IsthmusError: a mapping is not a JMESPath expression, or a format needs what is missing.
    """
    step = settings.step
    mappings = {row: settings.mapping.of(row.role) for row in STEP_INPUTS if not row.is_derived}
    decoders = {row.source: topic_decoder(settings, row.role) for row in mappings}
    return StepConfig(
        partitions=settings.topics.partitions,
        application=settings.application.encode(),
        list_length=step.list_length,
        reserve_length=2 * step.list_length if step.reserve_length is None else step.reserve_length,
        session_gap_ms=step.session_gap_s * 1_000,
        max_ahead_ms=step.max_ahead_s * 1_000,
        allowed_lateness_ms=step.allowed_lateness_s * 1_000,
        marker_retention_ms=None if step.marker_retention_s is None else 1_000 * step.marker_retention_s,
        erasure_key=step.erasure_key.get_secret_value().encode(),
        explain=step.explain,
        new_share=step.new_items_share,
        mappers={row.source: field_mapper(f"mapping.{row.role}", fields) for row, fields in mappings.items() if fields},
        decoders={source: decoder for source, decoder in decoders.items() if decoder is not None},
        times={row.source: step_rule(settings, row) for row in INPUTS if not row.is_derived},
        feedback=feedback_config(settings),
    )


def feedback_config(settings: Settings) -> FeedbackConfig:
    """Returns what is declared of feedback."""
    own = settings.feedback
    return FeedbackConfig(
        placements=own.placements, channels=own.channels, attribution_ms=round(own.attribution_days * limits.DAY_MS)
    )


def step_rule(settings: Settings, row: InputTopic) -> TimeRule:
    """Returns the rule of an input's times in the step. What a stage of ours has read is in milliseconds."""
    unit = settings.times.unit_of(row.role) if row.is_step_input else TimeUnit.MILLISECONDS
    return rule_of(row, unit, settings.times.earliest_of(row.role))


def item_format(settings: Settings) -> ItemFormat:
    """Returns how the catalogue is read, by every process.

    Raises:
        IsthmusError: the mapping is not a JMESPath expression, or the format needs what is missing.
    """
    fields = settings.mapping.of("items")
    mapper = field_mapper("mapping.items", fields) if fields else None
    return ItemFormat(mapper, settings.times.unit_of("items"), topic_decoder(settings, "items"))


def transcript_format(settings: Settings) -> TranscriptFormat:
    """Returns how the encoder reads transcripts.

    Raises:
        IsthmusError: the mapping is not a JMESPath expression, or the format needs what is missing.
    """
    from stream.text.encode_stage import TranscriptFormat

    (row,) = (row for row in INPUTS if row.role == "transcripts")
    fields, times = settings.mapping.of(row.role), settings.times
    return TranscriptFormat(
        field_mapper("mapping.transcripts", fields) if fields else None,
        rule_of(row, times.unit_of(row.role), times.earliest_of(row.role)),
        settings.step.max_ahead_s * 1_000,
        settings.application.encode(),
        topic_decoder(settings, row.role),
    )


def field_mapper(section: str, fields: Mapping[str, str]) -> Callable[[Any], Any]:
    """Returns a function from a producer's JSON object to ours, with one JMESPath expression per field. It leaves out fields that
    it does not find, and raises MappingError where an expression fails. In `items` and `excluded`, what a projection does not find
    stays in the list as None.

    Raises:
        IsthmusError: a value of `fields` is not a JMESPath expression.
    """
    import jmespath

    from stream.services.whole_lists import search_keeping_nulls

    compiled = {}
    for name, expression in fields.items():
        try:
            parsed = jmespath.compile(expression)
        except jmespath.exceptions.JMESPathError as error:
            raise IsthmusError(f"setting {section}.{name}: {expression!r} is not a JMESPath expression ({error})") from None
        compiled[name] = partial(search_keeping_nulls, parsed) if name in _WHOLE_LISTS else parsed.search

    def map_fields(value: Any) -> dict[str, Any]:
        mapped = {}
        for name, search in compiled.items():
            try:
                field = search(value)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001  (JMESPath's functions and comparisons raise whatever Python raises)
                raise MappingError(f"{section}.{name}: its expression fails on this event ({type(error).__name__})") from None
            if field is not None:
                mapped[name] = field
        return mapped

    return map_fields


def dead_letter_limit(settings: Settings) -> DeadLetterLimit:
    own = settings.dead_letters
    return DeadLetterLimit(own.stop_share, own.window_records, own.rare_records, own.rare_s * 1_000)


def check_topics(process: Process, settings: Settings, name: str = "NAME") -> Collection[str]:
    """Checks that a process may do what it does, and its topics. Returns their names.

    Raises:
        IsthmusError: the broker cannot be reached, an ACL or a topic is missing, or a topic does not match its specification.
    """
    from stream.kafka.cluster.owners import require_access
    from stream.kafka.cluster.rights import Process, rights_of, topics_of
    from stream.kafka.cluster.topics import TOMBSTONE_RETENTION_MS, create_or_check

    require_access(process, settings, name)
    names = topics_of(rights_of(process, settings, name))
    reconcile_after_s = {
        Process.API: settings.api.reconcile_after_s,
        Process.POSTGRES: settings.postgres.reconcile_after_s,
        Process.WEBHOOK: settings.webhook.reconcile_after_s,
    }.get(process)
    relied_ms = TOMBSTONE_RETENTION_MS if reconcile_after_s is None else reconcile_after_s * 1_000 + 1
    create_or_check(
        settings.kafka.bootstrap, settings.topics, settings.application, create=False, only=names, tombstones_ms=relied_ms
    )
    return names


def stop_on_signals() -> asyncio.Event:
    """Returns an event that SIGTERM and SIGINT set."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    """Cancels the tasks and waits for them; returns those that had ended by themselves."""
    ended = [task for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return ended


def _raise_errors(tasks: Iterable[asyncio.Task[Any]], ended: Iterable[asyncio.Task[Any]]) -> None:
    """Raises the first error of the tasks. One that ended as cancelled, by itself, is an error too."""
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            raise error
    for task in ended:
        if task.cancelled():
            raise RuntimeError(f"{task.get_coro()} was cancelled by what it awaited")


@asynccontextmanager
async def running(work: Iterable[Coroutine[Any, Any, None]], stop: asyncio.Event) -> AsyncIterator[None]:
    """Runs the work inside the context. If any of it ends, `stop` is set, and its error is raised on leaving.

    Work that ends as cancelled, though nobody here cancelled it, is an error too: a library did, and the process must not end as
    if it had been asked to.
    """
    tasks = [asyncio.create_task(one) for one in work]
    for task in tasks:
        task.add_done_callback(lambda _: stop.set())
    try:
        yield
    finally:
        ended = await _end(tasks)
    _raise_errors(tasks, ended)


@asynccontextmanager
async def background(
    name: str, work: Callable[[], Coroutine[Any, Any, None]], health: Health, again_s: float = 5.0
) -> AsyncIterator[None]:
    """Runs `work` as a task inside the context. An error that ends it is logged, and it begins again after a pause.

    It does not end the process: what it is for (reports, retries, progress) must not stop events. While it fails, the process is
    not ready, with the reason.
    """
    failed: tuple[str, float] | None = None

    async def keep_working() -> None:
        nonlocal failed
        while True:
            try:
                return await work()
            except Exception as error:  # whatever a bug raises
                logger.exception("%s ended with an error; it begins again in %g s", name, again_s)
                failed = type(error).__name__, time.monotonic()
            await asyncio.sleep(again_s)

    def check() -> str | None:
        if failed is None or time.monotonic() - failed[1] > _FAILS_PAUSES * again_s:
            return None
        return f"ended with {failed[0]}: see the log"

    health.ready[name] = check
    task = asyncio.create_task(keep_working())
    try:
        yield
    finally:
        task.cancel()


@asynccontextmanager
async def observed(settings: Settings, group: str, port: int, metrics: Metrics) -> AsyncIterator[tuple[Health, ClusterView]]:
    """Serves metrics and health, and keeps the broker's view of the consumer group open, inside the context."""
    from stream.kafka.cluster.view import KafkaClusterView

    beat, health = Beat(settings.health.silent_s, time.monotonic), Health()
    health.live["event loop"] = beat.check
    health.ready["partitions"] = lambda: NOT_ASSIGNED
    server, _ = metrics.serve(port, health, settings.health.metrics_host)
    logger.info("%s: metrics and health at %s/metrics, /livez, /readyz", group, server.url)
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
async def named(
    bootstrap: str, group: str, instance: Instance, partition: tuple[str, int], health: Health, stop: asyncio.Event
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Claims the instance's name in a consumer group, and keeps the claim inside the context: one process alone has it.

    Yields a function that waits until the claim is settled, or `stop` is set.

    Raises:
        NameTakenError: another living process has it, or wins it inside the context; then `stop` is set first.
    """
    from uuid import uuid4

    from stream.kafka.cluster.names import Claim, KafkaClaimStore, NameClaim

    store = KafkaClaimStore(bootstrap, group, instance.name, partition)
    claim = NameClaim(instance.name, Claim(instance.host, os.getpid(), uuid4().hex, instance.home), store)
    health.ready["name"] = claim.check

    async def settled() -> None:
        waits = [asyncio.create_task(event.wait()) for event in (claim.is_settled, stop)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    try:
        await _acquire(claim)
        keeping = asyncio.create_task(claim.keep())
        keeping.add_done_callback(lambda _: stop.set())
        try:
            yield settled
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping  # its error says more than what followed from it
            await claim.release()
    finally:
        await store.close()


async def _acquire(claim: NameClaim) -> None:
    """Tries for a while: a new broker needs some seconds until it keeps offsets."""
    deadline = time.monotonic() + _CLAIM_S
    while True:
        try:
            return await claim.acquire()
        except OSError as error:
            if time.monotonic() > deadline:
                raise IsthmusError(f"the broker does not say whether this process's name is free: {error}") from error
            await asyncio.sleep(0.2)


@asynccontextmanager
async def followed(
    bootstrap: str,
    follows: Mapping[str, Apply],
    health: Health,
    stop: asyncio.Event,
    startup: Startup,
    stopped: StoppedPartitions,
) -> AsyncIterator[None]:
    """Follows whole topics inside the context. It is entered once their present contents are applied, one topic after the other,
    because a model is checked against the catalogue, or once `stop` is set. A partition that stops at a damaged batch is noted in
    `stopped`.

    A follower that ends sets `stop`, and its error is raised on leaving: the worker would go on serving an outdated model.
    """
    from stream.kafka.cluster.topic_follower import follow_topic

    tasks: list[asyncio.Task[None]] = []
    try:
        for topic, apply in follows.items():
            startup.step(f"reading topic {topic} to its end")
            ready = asyncio.Event()
            health.ready[topic] = lambda ready=ready: None if ready.is_set() else "is not read whole yet"  # type: ignore[misc]
            tasks.append(asyncio.create_task(follow_topic(bootstrap, topic, apply, ready, stopped)))
            await _until(tasks[-1], ready, stop)
            if tasks[-1].done():
                await tasks[-1]
            if stop.is_set():
                break  # also where a damaged batch keeps a topic from being read
            tasks[-1].add_done_callback(lambda _: stop.set())
            health.ready[topic] = lambda ready=ready: None if ready.is_set() else "is being read again"  # type: ignore[misc]
        yield
    finally:
        ended = await _end(tasks)
    _raise_errors(tasks, ended)


async def _until(task: asyncio.Task[None], *events: asyncio.Event) -> None:
    """Waits until a task has ended or an event is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait([task, *waits], return_when=asyncio.FIRST_COMPLETED)
    for wait in waits:
        wait.cancel()


def starting_step(health: Health, group: str, assigned: str) -> str | None:
    """What a process whose app is running still has to do before it serves; None once it serves.

    `assigned` is what it does between the first assignment of partitions and serving them.
    """
    problem = health.ready["partitions"]()
    if problem is None:
        return None
    return f"joining consumer group {group}" if problem == NOT_ASSIGNED else assigned
