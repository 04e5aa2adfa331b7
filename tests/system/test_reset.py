"""`isthmus reset` on real Kafka: it ends the same however often it is interrupted, refuses what it must, and says what it loses."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiokafka.errors import KafkaError
from kafka import KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata
from typer.testing import CliRunner

from stream.application import encoder_group, worker_group
from stream.cli.reset import app
from stream.core.events import Click, Eligibility, Erasure, Item, Purchase, Sentence, Source, Transcript, UserEvent
from stream.core.interactions import Conversation
from stream.core.outputs import example_key
from stream.core.partitioner import partition_of
from stream.core.state import ERASURE_MARKER_PREFIX, WATERMARK_PREFIX, decode_erasure_marker, decode_head, head_key
from stream.errors import IsthmusError
from stream.kafka.cluster.clients import ConsumerClient, async_producer
from stream.kafka.cluster.group_reset import members_of
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.owners import note_owned
from stream.kafka.cluster.rights import Process
from stream.kafka.cluster.topics import admin_client, changelog_name, create_or_check, source_topics, topic_epochs, transactional_id
from stream.kafka.faust.changelog import term_of
from stream.process_settings import DeliverySettings
from stream.services.child_processes import ChildProcess, wait_for
from stream.services.instance_name import take_name
from stream.services.process import check_topics
from stream.services.reset.reset import groups_of, open_reset
from stream.services.text_models import folder_of
from stream.settings import Settings, with_changes
from stream.text.keywords import Keywords
from stream.text.model import with_keywords
from tests import world
from tests.group_offsets import commit
from tests.schema_registry import FakeRegistry
from tests.system.exact import actual, newest, read_all, users_of
from tests.system.filled import NUMBERS, TERM, delete_before_end, fold, send, settings_of, write
from tests.world import Store, history_of

NOW: Final = 1_750_000_000_000
CHANGELOG: Final = changelog_name(worker_group("isthmus"))
USERS: Final = tuple(f"u{number}" for number in range(12))
EVENTS: Final[list[tuple[Source, UserEvent]]] = [
    *((Source.CLICK, Click(user, NOW, ("home",), f"c-{user}")) for user in USERS),
    *((Source.PURCHASE, Purchase(user, NOW + 1_000, ("item-1",), f"p-{user}")) for user in USERS[:6]),
    (Source.ELIGIBILITY, Eligibility("u7", NOW, ("item-2",))),
    (Source.ERASURE, Erasure("u3", NOW + 500, "e")),
]


@pytest.fixture
def settings(empty_kafka: str, tmp_path: Path) -> Settings:
    return settings_of(empty_kafka, tmp_path)


@pytest.fixture
def stores(settings: Settings) -> dict[int, Store]:
    """Of twelve users, of whom one was erased between click and purchase."""
    send(settings, EVENTS)
    found = fold(settings)
    write(settings, found)
    return found


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The command, as an operator calls it from a script."""
    monkeypatch.setenv("ISTHMUS_KAFKA__BOOTSTRAP", settings.kafka.bootstrap)
    monkeypatch.setenv("ISTHMUS_TOPICS__PARTITIONS", str(len(NUMBERS)))
    monkeypatch.setenv("ISTHMUS_WORKER__STATE_DIR", str(settings.worker.state_dir))
    return lambda *words: CliRunner().invoke(app, words)


@pytest.fixture
def admin(empty_kafka: str) -> Iterator[Any]:
    with closing(admin_client(empty_kafka)) as client:
        yield client


def held(settings: Settings) -> tuple[Any, ...]:
    """What an application holds: states, lists, examples, the offsets of its groups and whether a reset is under way."""
    bootstrap, topics = settings.kafka.bootstrap, settings.topics
    with closing(admin_client(bootstrap)) as admin:
        found = [admin.list_group_offsets({group: None}) for group in (worker_group("isthmus"), encoder_group("isthmus"))]
    offsets = [{tp: (one.offset, one.metadata) for tp, one in groups[group].items()} for groups in found for group in groups]
    named = (CHANGELOG, topics.recommendations, topics.training_examples, topics.applications)
    return (*(newest(read_all(bootstrap, topic)) for topic in named), offsets)


@pytest.mark.usefixtures("stores")
def test_a_dry_run_says_what_would_be_done_and_changes_nothing(settings: Settings, run: Callable[..., Any], admin: Any) -> None:
    """With what users would lose, by kind. Without the word for that nothing happens either, nor where nobody can be asked."""
    before = held(settings)
    shown = run("--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "states     of 12 users are deleted; 1 erasure markers stay" in shown.output
    assert "lists      1 of 12 are deleted" in shown.output
    assert "examples   5 of 5 are deleted" in shown.output
    assert "lost       0 users have something from before that" in shown.output
    delete_before_end(admin, settings, "purchases")
    delete_before_end(admin, settings, "eligibility")
    shown = run("--dry-run")
    assert "lost       7 users have something from before that: 0 history, 6 owned items, 1 eligibility, 0 feedback" in shown.output
    refused = run("--yes")
    assert isinstance(refused.exception, IsthmusError)
    assert "--lose-history goes on" in str(refused.exception)
    unasked = run("--lose-history")
    assert "--yes goes on without asking" in str(unasked.exception)
    late = run("--to-time", "2999-01-01T00:00:00Z")
    assert "must not lie in the future" in str(late.exception)
    assert held(settings) == before


class Interrupted(BaseException):
    """Ends the command as a kill would: nothing is tidied up."""


def reset(settings: Settings, at: int | None = None) -> list[str]:
    """Resets the application, or ends at the step of that number; returns the steps before."""
    steps: list[str] = []

    def step(text: str) -> None:
        if len(steps) == at:
            raise Interrupted
        steps.append(text)

    with open_reset(settings, None, lambda _: None) as found:
        found.run(step)
    return steps


def test_a_reset_that_was_interrupted_anywhere_ends_the_same_when_it_is_run_again(
    settings: Settings, stores: dict[int, Store]
) -> None:
    """Only erasure markers, without applied offsets, and the watermarks of a new beginning are left of the states. In between, no
    worker and no encoder starts.
    """
    bootstrap, topics = settings.kafka.bootstrap, settings.topics
    (settings.worker.state_dir / "one").mkdir(parents=True)
    (settings.worker.state_dir / "one.lock").touch()
    count = len(reset(settings))
    wanted = held(settings)
    changelog, lists, examples, _, offsets = wanted
    kept = {key: value for key, value in changelog.items() if not key.startswith(WATERMARK_PREFIX)}
    (marker,) = map(decode_erasure_marker, kept.values())
    assert (marker.erased_at, marker.applied, {key[:1] for key in kept}) == (NOW + 500, {}, {ERASURE_MARKER_PREFIX})
    assert lists.keys() == {user.encode() for user in USERS if user != "u3"}
    assert examples == {}
    assert {offset for group in offsets for offset, _ in group.values()} == {0}
    assert not (settings.worker.state_dir / "one").exists()
    for at in range(1, count):
        write(settings, stores, term=100 * at)
        with pytest.raises(Interrupted):
            reset(settings, at)
        if at > 1:
            with pytest.raises(IsthmusError, match="a reset of the application isthmus is under way, or was interrupted"):
                check_topics(Process.WORKER, settings)
        reset(settings)
        assert held(settings) == wanted, f"interrupted at step {at}"
        check_topics(Process.WORKER, settings)
    last = [records[-1] for records in read_all(bootstrap, CHANGELOG).values() if records]
    assert {term_of(record.headers) for record in last} == {100 * (count - 1) + 2}
    assert group_lag(bootstrap, worker_group("isthmus"), [topics.clicks]).lag == len(USERS)


@pytest.mark.usefixtures("stores")
def test_a_reset_deletes_the_flat_rows_of_the_lists_that_it_deletes(settings: Settings) -> None:
    """Of every rank that may have been sent."""
    with FakeRegistry() as registry:
        changes = {"topics": settings.topics.model_copy(update={"flat": True}), "schema_registry": registry.settings()}
        flat = settings.model_copy(update={**changes, "cache_dir": settings.worker.state_dir / "cache"})
        create_or_check(flat.kafka.bootstrap, flat.topics, dev=True)
        note_owned(flat)
        reset(flat)
    records = [one for found in read_all(flat.kafka.bootstrap, flat.topics.flat_recommendations).values() for one in found]
    lists = [one for found in read_all(flat.kafka.bootstrap, flat.topics.recommendations).values() for one in found]
    (user,) = {one.key for one in lists if one.value is None}
    assert [one.value for one in records] == [None] * flat.step.list_length
    assert {(one.key or b"")[6:-1] for one in records} == {user}


@pytest.mark.usefixtures("stores")
def test_a_reset_refuses_while_anybody_lives_and_names_them(
    settings: Settings, run: Callable[..., Any], admin: Any, empty_kafka: str
) -> None:
    """A member of a group, on whatever machine; a process of this machine that has not joined yet. Nothing is changed."""
    before, group = held(settings), encoder_group("isthmus")
    with closing(ConsumerClient(bootstrap_servers=empty_kafka, group_id=group, client_id="host-1")) as member:
        member.subscribe([settings.topics.transcripts])
        wait_for(lambda: bool(member.poll(timeout_ms=100) or members_of(admin, [group])), [], 60, "the membership")
        assert "not now: host-1 on 127.0.0.1, in the group isthmus-encoder lives" in run("--dry-run").output
        refused = str(run("--yes").exception)
    assert refused.startswith("host-1 on 127.0.0.1, in the group isthmus-encoder lives\nstop all workers and encoders first")
    wait_for(lambda: not members_of(admin, [group]), [], 60, "the end of the membership")
    holder = take_name(settings.worker.state_dir, "here", None)
    assert str(run("--yes").exception).startswith(f"here, process {os.getpid()} on {holder.host}, lives")
    holder.lock.close()
    assert held(settings) == before


@pytest.mark.usefixtures("stores")
def test_a_reset_refuses_what_is_another_applications(settings: Settings, tmp_path: Path) -> None:
    """By name; and it leaves another application alone that shares the inputs."""
    shop = settings_of(settings.kafka.bootstrap, tmp_path, "shop")
    before = held(settings)
    reset(shop)
    assert held(settings)[0] == before[0]
    other = settings.topics.model_copy(update={"recommendations": "bank-lists"})
    with pytest.raises(
        IsthmusError, match=r"isthmus-profiles-users-changelog.* belong to the application isthmus, whose lists are in"
    ):
        reset(settings.model_copy(update={"topics": other}))


@pytest.mark.usefixtures("stores")
def test_what_a_former_worker_left_in_a_transaction_is_never_committed(settings: Settings, empty_kafka: str) -> None:
    """With exactly once. It was paused, and wakes up after the reset."""
    exactly_once = settings.model_copy(update={"delivery": DeliverySettings(guarantee="exactly_once")})

    async def sleep_through_a_reset() -> None:
        producer = async_producer(empty_kafka, transactional_id=transactional_id(worker_group("isthmus"), 0))
        await producer.start()
        await producer.begin_transaction()
        await producer.send_and_wait(CHANGELOG, key=b"hlate", value=b"state", partition=0)
        await asyncio.to_thread(reset, exactly_once)
        with pytest.raises(KafkaError):
            await producer.commit_transaction()
        await producer.stop()

    asyncio.run(sleep_through_a_reset())
    assert b"hlate" not in held(settings)[0]


@pytest.mark.usefixtures("stores")
def test_from_a_time_on_the_rest_is_lost_and_the_lists_of_those_who_have_nothing_since_are_deleted(
    settings: Settings, run: Callable[..., Any]
) -> None:
    """By Kafka's time. Workers read on at the first record since then."""
    since_ms = time.time_ns() // 1_000_000
    send(settings, [(Source.CLICK, Click("u1", since_ms, ("home",), "later"))])
    write(settings, fold(settings), term=TERM + 1)
    at = datetime.fromtimestamp(since_ms / 1_000, UTC).isoformat()
    done = run("--to-time", at, "--lose-history", "--yes")
    assert done.exit_code == 0, done.output
    assert "lost       12 users have something from before that" in done.output
    _, lists, _, _, offsets = held(settings)
    assert lists.keys() == {b"u1"}
    number = partition_of(b"u1", len(NUMBERS))
    clicks = read_all(settings.kafka.bootstrap, settings.topics.clicks)
    assert offsets[0][TopicPartition(settings.topics.clicks, number)][0] == clicks[number][-1].offset


def test_what_nobody_has_read_is_not_passed_over_in_silence(settings: Settings, run: Callable[..., Any], empty_kafka: str) -> None:
    """Erasures are read again from their beginning, whatever the time. Of the rest the command says how much it is, and asks for
    the word: also of a call that was encoded from a transcript of before. One whose transcript is read again comes again.
    """
    send(settings, EVENTS)
    write(settings, fold(settings))
    topics, number = settings.topics, partition_of(b"u1", len(NUMBERS))
    epoch = topic_epochs(empty_kafka, [topics.transcripts])[topics.transcripts]
    transcript = Transcript("u1", "call-0", NOW, (Sentence("I want to insure my dog.", "user"),))

    def send_call(offset: int) -> None:
        call = world.call("call-0", NOW, NOW + 1_000, user="u1", offset=offset)
        own = msgspec.structs.replace(call, origin_topic=topics.transcripts, origin_epoch=epoch, origin_partition=number)
        with closing(KafkaProducer(bootstrap_servers=empty_kafka)) as producer:
            for topic, value in ((topics.transcripts, msgspec.json.encode(transcript)), (topics.encoded_calls, world.encode(own))):
                producer.send(topic, key=b"u1", value=value, partition=number).get(10)
        committed = {TopicPartition(topics.transcripts, number): OffsetAndMetadata(offset + 1, "", None)}
        with closing(admin_client(empty_kafka)) as admin:
            commit(admin, encoder_group("isthmus"), committed)

    send(settings, [(Source.ERASURE, Erasure("u2", NOW, "unread")), (Source.CLICK, Click("u2", NOW - 1, ("old",), "unread"))])
    send_call(0)
    until_later = time.time_ns() // 1_000_000
    wait_for(lambda: time.time_ns() // 1_000_000 > until_later, [], 10, "the next millisecond")
    since_ms = time.time_ns() // 1_000_000
    send_call(1)
    at = datetime.fromtimestamp(since_ms / 1_000, UTC).isoformat()
    shown = run("--to-time", at, "--dry-run")
    assert "and erasures from their beginning" in shown.output
    assert "unread     2 records from before that, which no worker or encoder has read, or whose states" in shown.output
    assert "unread " not in run("--dry-run").output
    done = run("--to-time", at, "--yes", "--lose-history")
    assert done.exit_code == 0, done.output
    (_, _, _, _, offsets) = held(settings)
    assert {offsets[0][TopicPartition(topics.erasures, one)][0] for one in NUMBERS} == {0}


def test_what_is_committed_but_in_no_state_counts_as_unread(settings: Settings, stores: dict[int, Store]) -> None:
    """Somebody moved the group's offset, or the changelog was lost. What the states contain does not count."""

    def unread() -> int:
        with open_reset(settings, since_ms, lambda _: None) as found:
            return found.counts.unread

    since_ms = time.time_ns() // 1_000_000 + 1
    wait_for(lambda: time.time_ns() // 1_000_000 > since_ms, [], 10, "the next millisecond")
    assert unread() == 0
    send(settings, [(Source.CLICK, Click(user, NOW, ("new",), f"new-{user}")) for user in ("u1", "u2")])
    since_ms = time.time_ns() // 1_000_000 + 1
    wait_for(lambda: time.time_ns() // 1_000_000 > since_ms, [], 10, "the next millisecond")
    write(settings, stores, term=100)
    assert unread() == 2
    write(settings, {number: Store() for number in NUMBERS}, term=200)
    assert unread() == sum(source is not Source.ERASURE for source, _ in EVENTS) + 2


def start(settings: Settings, folder: Path, command: str) -> ChildProcess:
    variables = {
        "ISTHMUS_ENCODER__TEXT_MODEL": str(folder_of(settings)),
        "ISTHMUS_APPLICATION": settings.application,
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        "ISTHMUS_TOPICS__PARTITIONS": str(len(NUMBERS)),
        "ISTHMUS_DELIVERY__SESSION_TIMEOUT_S": "6",
    }
    arguments = [command, "--bootstrap", settings.kafka.bootstrap, "--metrics-port", "0"]
    return ChildProcess(arguments, variables, folder / f"{settings.application}-{command}.log")


def has_folded(settings: Settings) -> bool:
    bootstrap, topics = settings.kafka.bootstrap, settings.topics
    unread = group_lag(bootstrap, encoder_group(settings.application), [topics.transcripts]).lag
    return not unread and group_lag(bootstrap, worker_group(settings.application), source_topics(topics)).lag == 0


def let_fold(several: list[Settings], folder: Path) -> None:
    """Runs a worker and an encoder of each application until all that the inputs hold is folded."""
    children = [start(one, folder, command) for one in several for command in ("worker", "encoder")]
    try:
        wait_for(lambda: all(map(has_folded, several)), children, 180, "the folding of all events")
    finally:
        for child in children:
            child.stop()


def text_models_of(store: Store, user: str) -> list[str]:
    """Those that encoded the user's newest calls."""
    head = decode_head(store.records[head_key(user.encode())])
    return [part.text_model for call in head.tail if isinstance(call, Conversation) for part in call.parts]


@pytest.mark.timeout(600)
def test_after_a_reset_everybody_is_as_in_a_fresh_application_but_for_the_erased(
    settings: Settings, tmp_path: Path, admin: Any, empty_kafka: str
) -> None:
    """Workers and encoders of both read the inputs, which no longer hold all, and not the erasure: in the fresh application the
    erased user is back. A store of another machine, which the reset did not see, follows by itself. The encoders have another text
    model since: it encodes the old call again.
    """
    transcript = Transcript("u8", "call-0", NOW, (Sentence("I want to insure my dog.", "user"),))
    with closing(KafkaProducer(bootstrap_servers=empty_kafka)) as producer:
        producer.send(settings.topics.transcripts, key=b"u8", value=msgspec.json.encode(transcript)).get(10)
        for item in ("item-1", "item-2", "item-3"):
            producer.send(settings.topics.items, key=item.encode(), value=msgspec.json.encode(Item(item, item))).get(10)
    send(settings, EVENTS)
    let_fold([settings], tmp_path)
    assert len(newest(read_all(empty_kafka, settings.topics.recommendations))) == 12
    for topic in ("erasures", "eligibility"):
        delete_before_end(admin, settings, topic)
    elsewhere = settings.model_copy(update={"worker": settings.worker.model_copy(update={"state_dir": tmp_path / "here"})})
    wait_for(lambda: not members_of(admin, groups_of(settings)), [], 60, "the end of the memberships")
    (former,) = text_models_of(actual(empty_kafka, settings.topics), "u8")
    text_model = with_keywords(folder_of(settings), tmp_path / "text-model", Keywords(["dog"]))
    reset(elsewhere)
    fresh = settings_of(empty_kafka, tmp_path, "fresh")
    let_fold([with_changes(one, "encoder", text_model=tmp_path / "text-model") for one in (settings, fresh)], tmp_path)
    ours, theirs = (actual(empty_kafka, one.topics, one.application) for one in (settings, fresh))
    users = users_of(theirs)
    assert users == {*USERS}
    assert users_of(ours) == users
    for user in users - {"u3"}:
        assert history_of(ours, user) == history_of(theirs, user)
        assert ours.last_list(user) == theirs.last_list(user) != ()
    assert text_models_of(ours, "u8") == [text_model] != [former]
    assert (len(history_of(ours, "u3")), len(history_of(theirs, "u3"))) == (4, 5)
    assert ours.newest_examples().keys() == theirs.newest_examples().keys() - {example_key("u3", "p-u3")}
    assert len(ours.newest_examples()) == 5
