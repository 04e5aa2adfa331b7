"""Several applications on one cluster and one machine: neither sees the other, and what is another's is refused in words."""

import asyncio
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from stream.application import encoder_group, worker_group
from stream.core.events import Click
from stream.errors import IsthmusError
from stream.kafka.cluster.lag import group_lag
from stream.kafka.cluster.owners import note_owned, read_owners, require_access, require_ours
from stream.kafka.cluster.producer import produce
from stream.kafka.cluster.rights import Kind, Process
from stream.kafka.cluster.topics import admin_client, changelog_name, create_or_check, source_topics
from stream.process_settings import WebhookSettings
from stream.services.child_processes import ChildProcess, wait_for
from stream.services.process import check_topics
from stream.settings import Settings, TopicSettings
from tests.group_offsets import commit
from tests.log_sizes import stored_bytes
from tests.system.exact import actual as written
from tests.system.exact import assert_exact, newest, read_all, users_of
from training.datasets.synthetic.live import LiveEvent, Rates, stream_events
from training.datasets.synthetic.world import make_world

ENCODING: Final = "shop"
PLAIN: Final = {"ISTHMUS_KAFKA__COMPRESSION": "none"}
"""Instead of the default."""
START_MS: Final = 1_750_000_000_000
TRANSCRIPT: Final = {
    "user_id": "caller",
    "conversation_id": "call-0",
    "started_at": START_MS,
    "sentences": [{"text": "I want to insure my dog.", "speaker": "user"}],
}


def settings_of(bootstrap: str, application: str = "isthmus", **sections: Any) -> Settings:
    sections = {"topics": TopicSettings(partitions=2), **sections}
    settings = Settings(application=application, **sections)
    return settings.model_copy(update={"kafka": settings.kafka.model_copy(update={"bootstrap": bootstrap, "dev": True})})


def created(settings: Settings, *, adopt: bool = False) -> Settings:
    """As `isthmus topics` does it."""
    if not adopt:
        require_ours(settings)
    create_or_check(settings.kafka.bootstrap, settings.topics, settings.application, dev=True)
    note_owned(settings, adopt=adopt)
    assert all(owner.epoch for (kind, _), owner in read_owners(settings).items() if kind is Kind.TOPIC)
    return settings


def start(settings: Settings, folder: Path, command: str, more: Mapping[str, str] | None = None) -> ChildProcess:
    """With the folders and the machine of the other application."""
    variables = {
        "ISTHMUS_APPLICATION": settings.application,
        "ISTHMUS_WORKER__STATE_DIR": str(folder / "state"),
        "ISTHMUS_TOPICS__PARTITIONS": "2",
        "ISTHMUS_HOST": "machine",
        "ISTHMUS_DELIVERY__SESSION_TIMEOUT_S": "6",
        **(more or {}),
    }
    arguments = [command, "--bootstrap", settings.kafka.bootstrap, "--metrics-port", "0"]
    return ChildProcess(arguments, variables, folder / f"{settings.application}-{command}.log")


def events() -> list[LiveEvent]:
    world = make_world(np.random.default_rng(1))
    live = stream_events(world, np.random.default_rng(2), START_MS, rates=Rates())
    return [event for event, _ in zip(live, range(1_500), strict=False) if event.role != "transcripts"]


def send(settings: Settings, some: list[LiveEvent]) -> None:
    asyncio.run(produce(settings.kafka.bootstrap, some, settings.topics.model_dump(), lambda _: None))


def has_folded(settings: Settings) -> bool:
    bootstrap, topics = settings.kafka.bootstrap, settings.topics
    encodes = settings.application == ENCODING
    unread = encodes and group_lag(bootstrap, encoder_group(ENCODING), [topics.transcripts]).lag
    return not unread and group_lag(bootstrap, worker_group(settings.application), source_topics(topics)).lag == 0


@pytest.mark.timeout(400)
def test_two_applications_read_the_same_inputs_through_a_kill_and_neither_sees_the_other(empty_kafka: str, tmp_path: Path) -> None:
    """The same users, one broker, one machine, one state directory, and names that both processes take themselves. The worker of
    one is killed amid the events and starts again; each has every user's history, example and list as if it were alone. The call
    that one encodes is not in the other's topic. One of them does not compress what it sends.
    """
    both = [created(settings_of(empty_kafka, name)) for name in ("isthmus", ENCODING)]
    stream, half = events(), 700
    with closing(KafkaProducer(bootstrap_servers=empty_kafka)) as producer:
        producer.send(both[0].topics.transcripts, key=b"caller", value=msgspec.json.encode(TRANSCRIPT)).get(10)
    send(both[0], stream[:half])
    children = [start(one, tmp_path, "worker", more) for one, more in zip(both, (PLAIN, {}), strict=True)]
    children.append(start(both[1], tmp_path, "encoder"))
    try:
        wait_for(lambda: written(empty_kafka, both[1].topics, ENCODING).records != {}, children, 120, "the first states of shop")
        children[1].kill()
        send(both[0], stream[half:])
        children[1] = start(both[1], tmp_path, "worker")
        wait_for(lambda: all(map(has_folded, both)), children, 180, "the folding of all events by both")
    finally:
        for child in children:
            child.stop()
    for one in both:
        assert assert_exact(empty_kafka, one.topics, None, one.application) > 100
    first, second = (users_of(written(empty_kafka, one.topics, one.application)) for one in both)
    assert second - first == {"caller"}
    assert first < second
    plain, compressed = (stored_bytes(empty_kafka, changelog_name(worker_group(one.application))) for one in both)
    assert compressed < 0.8 * plain
    assert newest(read_all(empty_kafka, both[0].topics.encoded_calls)) == {}
    assert {folder.name for folder in (tmp_path / "state").iterdir()} == {"machine-1", "machine-1.lock", "shop"}


def test_an_application_without_a_name_of_its_own_is_refused_beside_another(empty_kafka: str) -> None:
    """Its topics are its own, but group and changelog would be the other's: it would restore the other's users. Command and worker
    say so, in one line for all that is the other's; with a name of its own it is let in.
    """
    created(settings_of(empty_kafka))
    own = TopicSettings(partitions=2, clicks="b-clicks", recommendations="b-lists")
    nameless = settings_of(empty_kafka, topics=own)
    said = (
        r"^topics? [^\n]*isthmus-profiles-users-changelog[^\n]* and groups isthmus-profiles, [^\n]* belong to the application "
        r"isthmus, whose lists are in the topic recommendations\n"
        r"This is the application isthmus, whose lists are in the topic b-lists: name it otherwise \(setting application[^\n]*$"
    )
    with pytest.raises(IsthmusError, match=said):
        created(nameless)
    create_or_check(empty_kafka, own, dev=True)
    with pytest.raises(IsthmusError, match=said):
        check_topics(Process.WORKER, nameless)
    created(settings_of(empty_kafka, "b", topics=own))


def test_a_group_that_reads_other_inputs_is_refused_though_an_earlier_version_notes_nothing(empty_kafka: str) -> None:
    """The workers of an installation that has not been upgraded may be running; once it has, it owns the group."""
    own = TopicSettings(partitions=2, clicks="a-clicks", recommendations="a-lists")
    create_or_check(empty_kafka, own, dev=True)
    with closing(admin_client(empty_kafka)) as admin:
        commit(admin, "isthmus-profiles", {TopicPartition("a-clicks", 0): OffsetAndMetadata(3, "", None)})
    newcomer = settings_of(empty_kafka)
    with pytest.raises(IsthmusError, match=r"group isthmus-profiles reads a-clicks, and none of .*setting application"):
        created(newcomer)
    created(settings_of(empty_kafka, "b"))
    created(settings_of(empty_kafka, topics=own))
    with pytest.raises(IsthmusError, match=r"groups isthmus-profiles, .* belong to the application isthmus"):
        created(newcomer)


@pytest.mark.parametrize(
    ("sections", "owned", "process"),
    [
        ({"topics": TopicSettings(partitions=2, recommendations="recommendations")}, "topic recommendations", Process.WORKER),
        ({"topics": TopicSettings(partitions=2, models="models")}, "topic models", Process.TRAINER),
        ({"webhook": WebhookSettings(group="isthmus-sink-webhook")}, "group isthmus-sink-webhook", Process.WEBHOOK),
    ],
)
def test_a_topic_or_group_of_another_application_is_refused(
    empty_kafka: str, sections: dict[str, Any], owned: str, process: Process
) -> None:
    """Where the settings name it, by `isthmus topics` and by the process that would write to it. Other processes of the
    application are let in.
    """
    created(settings_of(empty_kafka))
    shop = settings_of(empty_kafka, "shop", **sections)
    said = rf"{owned} belongs to the application isthmus, .*\nThis is the application shop.*: let the settings \[topics\]"
    with pytest.raises(IsthmusError, match=said):
        created(shop)
    with pytest.raises(IsthmusError, match=said):
        require_access(process, shop)
    require_access(Process.KEYS, shop)


def test_what_is_not_noted_is_taken_as_ours_and_what_is_gone_can_be_taken_over(empty_kafka: str) -> None:
    """Topics that an earlier version, or an operator, made; those of an application that is gone; a topic that was made again."""
    bare = settings_of(empty_kafka)
    require_access(Process.WORKER, bare)  # not even the topic of owners is there
    create_or_check(empty_kafka, bare.topics, dev=True)
    require_access(Process.WORKER, bare)
    created(bare)
    assert note_owned(bare) == 0
    heir = settings_of(empty_kafka, "heir", topics=TopicSettings(partitions=2, recommendations="recommendations"))
    created(heir, adopt=True)
    with pytest.raises(IsthmusError, match="topic recommendations belongs to the application heir"):
        require_access(Process.WORKER, bare)
    with closing(admin_client(empty_kafka)) as admin:
        admin.delete_topics(["recommendations"])
        wait_for(lambda: "recommendations" not in admin.list_topics(), [], 30, "the deletion")
    require_access(Process.WORKER, bare)
    created(bare)
    assert read_owners(bare)[Kind.TOPIC, "recommendations"].application == "isthmus"


def test_a_record_in_the_topic_of_owners_that_cannot_be_read_says_nothing(empty_kafka: str) -> None:
    """Of another kind, or of a later version. A tombstone says that nobody owns it."""
    settings = created(settings_of(empty_kafka))
    before = read_owners(settings)
    click = msgspec.json.encode(Click("u", START_MS, ("home",)))
    with closing(KafkaProducer(bootstrap_servers=empty_kafka)) as producer:
        for key, value in ((b"topic/a", b"{"), (b"table/a", click), (b"\xff", click), (b"topic/models", None)):
            producer.send(settings.topics.applications, key=key, value=value).get(10)
    assert read_owners(settings) == {one: owner for one, owner in before.items() if one != (Kind.TOPIC, "models")}
