"""Another text model under a running system: what the former one encoded is ignored and counted, and stays as it is."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from stream.core.events import EncodedCall
from stream.core.partitioner import partition_of
from stream.kafka.cluster.topics import changelog_name, specs
from stream.kafka.embedded.log import Log, open_log
from tests import world
from tests.system.test_embedded import SOURCES, TOPICS, name, newest, send, until, worker

__all__ = ["name"]  # the fixture

HOUR = 3_600_000
START = time.time_ns() // 1_000_000 - 10 * HOUR


def call(number: int, text_model: str) -> EncodedCall:
    began = START + number * HOUR
    made = world.call(f"call-{number}", began, began + world.MINUTE, number, offset=number, text_model=text_model)
    return msgspec.structs.replace(made, origin_partition=partition_of(b"u", TOPICS.partitions))


async def fold(log: Log, calls: Sequence[EncodedCall]) -> Any:
    """The user's list after some calls."""
    await send(log, [(TOPICS.encoded_calls, one) for one in calls])
    await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
    return msgspec.json.decode(newest(log, TOPICS.recommendations)[b"u"])


def state_of(log: Log) -> list[object]:
    return world.history_of(world.Store(records=newest(log, changelog_name("isthmus-profiles"))))


async def test_calls_that_the_champions_text_model_did_not_encode_are_ignored_and_counted(name: str, tmp_path: Path) -> None:
    """The encoders change first, and then the champion: either reads the call of its own text model, the user keeps both. What an
    encoder makes of a transcript that it reads again is the call that the state holds: nothing changes.
    """
    former, following = (world.OrderRanker(version, seed=int(version), text_model=f"text-{version}") for version in ("1", "2"))
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    async with worker(name, log, tmp_path, ranker=former) as (_, metrics):
        before = await fold(log, [call(1, "text-1")])
        during = await fold(log, [call(2, "text-2")])
        held = state_of(log)
        again = await fold(log, [call(1, "text-2")])
        assert metrics.total("foreign_text_model") == 1
        assert during["modalities"] == before["modalities"] == {"session": 0, "conversation": 1}
        assert during["items"] == again["items"] == before["items"]
        assert state_of(log) == held
    async with worker(name, log, tmp_path, ranker=following) as (_, metrics):
        after = await fold(log, [call(3, "text-2")])
        assert metrics.total("foreign_text_model") == 0
    assert (after["model"]["version"], after["modalities"]) == ("2", {"session": 0, "conversation": 2})
    assert len(state_of(log)) == len(held) + 1
