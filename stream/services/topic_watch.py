"""Looks now and then whether the settings of a process's topics still fit, as it did at its start.

A changelog whose cleanup policy was changed loses states by its retention, and a compacted topic whose tombstones leave too early
keeps erased users. Nothing else would show that before the next start.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import closing
from typing import TYPE_CHECKING, Final

from kafka.errors import KafkaError

from stream.errors import IsthmusError
from stream.kafka.cluster.topics import TOMBSTONE_RETENTION_MS, admin_client, counts_of, specs, topic_problems

if TYPE_CHECKING:
    from collections.abc import Collection

    from stream.metrics import Metrics
    from stream.settings import Settings

logger = logging.getLogger("isthmus")
EVERY_S: Final = 300.0
"""A look takes some 15 ms of a core, for a connection and a question for each topic."""


async def watch_topics(settings: Settings, names: Collection[str], metrics: Metrics) -> None:
    """Logs each topic that no longer fits, once, and counts them in `misfit_topics`, for ever. A broker that does not answer is
    asked again at the next look: others log that.
    """
    known: set[str] = set()
    while True:
        await asyncio.sleep(EVERY_S)
        try:
            found = await asyncio.to_thread(misfits, settings, names)
        except IsthmusError:
            continue
        for problem in sorted(found - known):
            logger.error("%s. It was changed while this process ran, which a start would refuse", problem)
        for problem in sorted(known - found):
            logger.info("no longer so: %s", problem)
        known = found
        metrics.gauge("misfit_topics").set(len({problem.partition(":")[0] for problem in found}))


def misfits(settings: Settings, names: Collection[str]) -> set[str]:
    """What of the topics that exist does not match its specification, with what to do. Missing ones are noticed otherwise.

    Raises:
        IsthmusError: the broker does not answer.
    """
    wanted = [spec for spec in specs(settings.topics, settings.application) if spec.name in names]
    try:
        with closing(admin_client(settings.kafka.bootstrap)) as admin:
            counts = counts_of(admin.describe_topics([spec.name for spec in wanted]))
            return {
                f"{spec.name}: {problem}"
                for spec in wanted
                if spec.name in counts
                for problem in topic_problems(admin, spec, counts[spec.name], TOMBSTONE_RETENTION_MS)
            }
    except KafkaError as error:
        raise IsthmusError(f"topics at {settings.kafka.bootstrap}: {error}") from error
