"""The worker's app on the embedded transport: exact delivery, recovery, restart, forced rebalances. Needs no Kafka or Java."""

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from stream.core.dead_letters import DeadLetterLimit
from stream.core.events import Click, Erasure, Purchase, UserEvent
from stream.core.interactions import Interaction, Session
from stream.core.ranking import Rows
from stream.core.records import Batch, Record
from stream.core.step import StepConfig, step
from stream.errors import IsthmusError
from stream.health import Health
from stream.kafka.agents import watchdog
from stream.kafka.agents.profile_agent import ProfileContext
from stream.kafka.agents.served_model import ServedModel
from stream.kafka.agents.watchdog import Supervision
from stream.kafka.app import add_profile_agent, make_app, run_until_stopped
from stream.kafka.cluster.topics import changelog_name, source_topics, specs
from stream.kafka.embedded.log import Log, forget, open_log
from stream.kafka.embedded.log_follower import follow_log
from stream.metrics import Metrics
from stream.settings import TopicSettings
from tests import world

TOPICS = TopicSettings(partitions=4)
SOURCES = source_topics(TOPICS)
RANKER = world.OrderRanker(text_model=None)


@pytest.fixture
def name() -> Iterator[str]:
    """The name of a log for one test, dropped afterwards."""
    chosen = uuid4().hex[:8]
    yield chosen
    forget(chosen)


def events(count: int) -> list[tuple[str, UserEvent]]:
    """Returns clicks of 50 users with occasional purchases, and one erasure."""
    now = time.time_ns() // 1_000_000 - 10_000_000
    made: list[tuple[str, UserEvent]] = []
    for number in range(count):
        user = f"user-{number * 7 % 50}"
        made.append((TOPICS.clicks, Click(user, now + number * 500, (f"tag{number % 9}", "home"), event_id=f"e{number}")))
        if number % 40 == 39:
            buyer = f"user-{number // 40 % 50}"  # each user makes fewer purchases than the state keeps
            made.append(
                (TOPICS.purchases, Purchase(buyer, now + number * 500 + 1, (world.ITEMS[number % 6],), event_id=f"p{number}"))
            )
    made.append((TOPICS.erasures, Erasure("user-7", now + count * 250)))
    return made


@asynccontextmanager
async def worker(
    name: str,
    log: Log,
    folder: Path,
    ranker: world.OrderRanker = RANKER,
    limit: DeadLetterLimit | None = None,
    supervision: Supervision | None = None,
) -> Any:
    """Runs a worker; leaving the context stops it as SIGTERM does."""
    metrics, stop = Metrics(), asyncio.Event()
    app = make_app("isthmus-profiles", f"embedded://{name}", data=folder, partitions=4, batch_records=200)
    context = ProfileContext(
        sources=SOURCES,
        epochs=log.epochs(SOURCES),
        served=ServedModel(ranker, world.catalogue()),
        step=StepConfig(partitions=4),
        topics=TOPICS,
        metrics=metrics,
        limit=limit or DeadLetterLimit(),
    )
    app.watchdog = add_profile_agent(app, context, supervision=supervision)
    running = asyncio.create_task(run_until_stopped(app, stop))
    try:
        yield app, metrics
    finally:
        stop.set()
        await running


async def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true in time"
        await asyncio.sleep(0.02)


async def send(log: Log, made: Sequence[tuple[str, UserEvent]]) -> None:
    await asyncio.gather(*(log.append(topic, event.user_id, world.encode(event)) for topic, event in made))


async def send_on_and_on(log: Log, made: Sequence[tuple[str, UserEvent]]) -> None:
    """Sends a few thousand events a second."""
    for start in range(0, len(made), 10):
        await send(log, made[start : start + 10])
        await asyncio.sleep(0.01)


def records_of(log: Log, topic: str) -> list[list[Any]]:
    return [list(partition.records) for partition in log.topics[topic].partitions]


def newest(log: Log, topic: str) -> dict[bytes, bytes]:
    values = {record.key: record.value for records in records_of(log, topic) for record in records}
    return {key: value for key, value in values.items() if value is not None}


def batches_in(log: Log) -> list[Batch]:
    """Everything that the inputs hold, one batch per partition."""
    epochs = log.epochs(SOURCES)
    return [
        Batch(source, topic, epochs[topic], number, records)
        for topic, source in SOURCES.items()
        for number, records in enumerate(records_of(log, topic))
        if records
    ]


def assert_exact(log: Log, batches: Sequence[Batch] | None = None) -> None:
    """Asserts that the outputs are what the step makes of all records, or of `batches`, and that everything is committed."""
    wanted = world.Store()
    for batch in batches_in(log) if batches is None else batches:
        wanted.apply(step(batch, wanted, RANKER, world.catalogue(), StepConfig(partitions=4)))
    found = world.Store(records=newest(log, changelog_name("isthmus-profiles")))
    found.recommendations.update(newest(log, TOPICS.recommendations))
    found.examples.update(newest(log, TOPICS.training_examples))
    users = {key[1:].decode() for key in wanted.records if key[:1] == b"h"}
    assert {key[1:].decode() for key in found.records if key[:1] == b"h"} == users
    assert [user for user in users if world.history_of(found, user) != world.history_of(wanted, user)] == []
    assert [user for user in users if found.last_list(user) != wanted.last_list(user)] == []
    assert found.newest_examples() == wanted.newest_examples()
    assert log.lag("isthmus-profiles", SOURCES) == 0


async def test_every_event_is_folded_and_answered_exactly_once(name: str, tmp_path: Path) -> None:
    """State, lists and examples are what the step makes of clicks, purchases and an erasure."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    made = events(1_500)
    async with worker(name, log, tmp_path):
        await send(log, made)
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
    assert_exact(log)


async def test_a_wiped_store_is_restored_from_the_changelog(name: str, tmp_path: Path) -> None:
    """Events from before and after the wipe form one history."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    made = events(1_000)
    async with worker(name, log, tmp_path / "one"):
        await send(log, made[:500])
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
    shutil.rmtree(tmp_path / "one")
    async with worker(name, log, tmp_path / "one"):
        await send(log, made[500:])
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
    assert_exact(log)


async def test_log_and_tables_survive_a_restart(name: str, tmp_path: Path) -> None:
    """A log with a folder is read back: topics with their epochs, records and committed offsets."""
    made = events(600)
    log = open_log(name, tmp_path)
    log.create_topics(specs(TOPICS))
    epochs = log.epochs(SOURCES)
    async with worker(name, log, tmp_path / "state"):
        await send(log, made[:300])
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
    await log.close()
    again = open_log(name, tmp_path)
    again.create_topics(specs(TOPICS))
    assert again.epochs(SOURCES) == epochs
    assert again.lag("isthmus-profiles", SOURCES) == 0
    async with worker(name, again, tmp_path / "state"):
        await send(again, made[300:])
        await until(lambda: again.lag("isthmus-profiles", SOURCES) == 0)
    assert_exact(again)
    await again.close()


async def test_rebalances_under_load_lose_nothing(name: str, tmp_path: Path) -> None:
    """Seeking is slowed down while events keep arriving, so that rebalances overlap with processing."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    made = events(2_000)
    async with worker(name, log, tmp_path) as (app, _):
        await until(lambda: bool(app.consumer.assignment()))
        seek = app.consumer.seek_to_committed

        async def slowly() -> Any:
            await asyncio.sleep(0.1)
            found = await seek()
            await asyncio.sleep(0.1)
            return found

        app.consumer.seek_to_committed = slowly
        sending = asyncio.create_task(send_on_and_on(log, made))
        while not sending.done():
            await app.consumer.rebalance()
            await asyncio.sleep(0.2)
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0, 30)
    assert_exact(log)


async def test_followers_see_all_existing_and_all_new_records(name: str) -> None:
    """`ready` is set once the existing records are applied."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    seen: list[bytes | None] = []

    async def take(records: Sequence[Record]) -> None:
        seen.extend(record.key for record in records)

    await log.append(TOPICS.items, "one", b"1")
    ready = asyncio.Event()
    following = asyncio.create_task(follow_log(log, TOPICS.items, take, ready))
    await ready.wait()
    assert seen == [b"one"]
    await log.append(TOPICS.items, "two", b"2")
    await until(lambda: seen == [b"one", b"two"])
    following.cancel()


class PoisonedRanker(world.OrderRanker):
    """A ranker with a bug: it fails on sessions with a planted tag."""

    def advance_many(self, representations: Rows, interactions: Sequence[Interaction]) -> Rows:
        if any(isinstance(interaction, Session) and "planted" in interaction.tags for interaction in interactions):
            raise ZeroDivisionError
        return super().advance_many(representations, interactions)


async def test_poison_events_become_dead_letters_and_the_partition_continues(name: str, tmp_path: Path) -> None:
    """The result is exact, as if the planted events had never been sent."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    made = events(600)
    planted = [(TOPICS.clicks, Click(f"user-{number}", 1_750_000_000_000, ("planted",))) for number in range(10, 30)]
    async with worker(name, log, tmp_path, ranker=PoisonedRanker(text_model=None)):
        await send(log, [event for pair in zip(made[:20], planted, strict=True) for event in pair] + made[20:])
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
    letters = [msgspec.json.decode(value) for value in newest(log, TOPICS.dead_letters).values()]
    assert {letter["reason"] for letter in letters} == {"poison"}
    assert len(letters) == len(planted)
    for partition in log.topics[TOPICS.clicks].partitions:
        partition.records = [record for record in partition.records if b"planted" not in (record.value or b"")]
    assert_exact(log)


async def test_a_broken_topic_stops_the_worker_instead_of_being_drained(name: str, tmp_path: Path) -> None:
    """The error names topic and reason; the last batch is neither sent nor committed."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    good = [(TOPICS.purchases, Purchase(f"user-{number}", 1_750_000_000_000, ("item-1",))) for number in range(300)]

    async def run() -> None:
        async with worker(name, log, tmp_path, limit=DeadLetterLimit(window=400)) as (app, _):
            await send(log, good)
            await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
            await asyncio.gather(*(log.append(TOPICS.clicks, f"user-{number}", b"{") for number in range(2_000)))
            await asyncio.wait_for(app._crashed.wait(), 15)

    with pytest.raises(IsthmusError, match=r"of web-clicks are dead letters \(not_json"):
        await run()
    lost = sum(map(len, records_of(log, TOPICS.dead_letters)))
    assert 0 < lost < 400 + 200
    assert log.lag("isthmus-profiles", SOURCES) >= 2_000 - lost


async def test_weighty_events_that_cannot_be_used_are_logged_and_counted_apart(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An erasure in seconds would have erased nothing and counted as applied. The log says what follows, and what to do."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    async with worker(name, log, tmp_path) as (_, metrics):
        await send(log, [*events(200), (TOPICS.erasures, Erasure("user-3", int(time.time())))])
        await log.append(TOPICS.purchases, "user-3", b'{"user_id":"user-3","occurred_at":1790000000000,"items":["a",null]}')
        await log.append("eligibility", "user-3", b'{"user_id":"user-3","occurred_at":1790000000000,"excluded":[""]}')
        await log.append(TOPICS.clicks, "user-3", b"{")
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
        for source in ("erasure", "purchase", "eligibility", "click"):
            assert metrics.total("events", source, "dead_letter") == 1
    letters = [msgspec.json.decode(value) for value in newest(log, TOPICS.dead_letters).values()]
    assert sum("it looks like seconds" in letter["error"] for letter in letters) == 1
    assert "1 records of erasures could not be used: their users are not erased" in caplog.text
    assert "isthmus dead-letters list --topic purchases" in caplog.text
    assert "1 records of eligibility could not be used: lists may contain what must not be offered" in caplog.text
    assert "records of web-clicks could not" not in caplog.text


async def test_an_erasure_that_is_sent_again_under_its_id_is_logged(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It erases nothing more, and its producer may have meant a new request. The log says what that needs."""
    log = open_log(name)
    log.create_topics(specs(TOPICS))
    async with worker(name, log, tmp_path) as (_, metrics):
        for _ in range(2):
            await send(log, [(TOPICS.erasures, Erasure("user-3", None, "request-1"))])
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0)
        assert metrics.total("events", "erasure", "duplicate_event") == 1
    assert "1 erasures of erasures-" in caplog.text
    assert "a new request needs a new event_id or an occurred_at" in caplog.text


async def test_a_stalled_partition_makes_the_worker_unhealthy(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log stops acknowledging state records. An idle worker that has folded everything stays healthy."""
    monkeypatch.setattr(watchdog, "INTERVAL_S", 0.4)
    log, health = open_log(name), Health()
    log.create_topics(specs(TOPICS))
    async with worker(name, log, tmp_path, supervision=Supervision(health=health, stalled_s=0.8)) as (app, metrics):
        assert Health.wrong(health.ready)
        await send(log, events(200))
        await until(lambda: log.lag("isthmus-profiles", SOURCES) == 0 and not Health.wrong(health.ready))
        await asyncio.sleep(1.6)  # twice the time after which a partition counts as stalled
        assert not Health.wrong(health.live)
        append = log.append_to
        held: list[tuple[asyncio.Future[int], tuple[Any, ...]]] = []

        def holding(topic: str, *more: Any) -> asyncio.Future[int]:
            if topic != changelog_name("isthmus-profiles"):
                return append(topic, *more)
            held.append((asyncio.get_running_loop().create_future(), (topic, *more)))
            return held[-1][0]

        log.append_to = holding  # type: ignore[method-assign, assignment]
        await log.append(TOPICS.clicks, "user-1", world.encode(Click("user-1", 1_750_000_000_000, ("late",))))
        await until(lambda: bool(Health.wrong(health.live)), 30)
        assert Health.wrong(health.live)[0].startswith("delivery: committed offsets of web-clicks-")
        assert metrics.gauge("stalled_partitions")._child_samples()[0].value == 1
        for future, arguments in held:
            future.set_result(await append(*arguments))
        log.append_to = append  # type: ignore[method-assign]
        await until(lambda: not Health.wrong(health.live), 30)
        assert app.consumer.assignment()
