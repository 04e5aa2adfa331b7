"""`isthmus doctor` on real Kafka: a sound deployment has no failure and stays as it is, and what is broken is found together."""

import hashlib
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import KafkaProducer, TopicPartition
from kafka.admin import NewTopic
from kafka.structs import OffsetAndMetadata

from models.artifact import write_ranker
from models.popular import Popular
from stream.application import worker_group
from stream.connection_settings import KafkaSettings
from stream.core.announcements import ModelAnnouncement
from stream.errors import IsthmusError
from stream.kafka.cluster.compacted_topic import announce
from stream.kafka.cluster.owners import note_owned
from stream.kafka.cluster.rights import Process
from stream.kafka.cluster.survey import Survey
from stream.kafka.cluster.topics import admin_client, create_or_check, specs
from stream.process_settings import ApiSettings, EncoderSettings, RegistrySettings, WorkerSettings
from stream.services.doctor.examination import advertised, examine
from stream.services.doctor.findings import Finding, Status
from stream.settings import Settings, TopicSettings
from stream.text.keywords import Keywords
from stream.text.model import EncoderFacts, finish_folder
from tests.group_offsets import commit
from tests.purchases import ITEMS, purchases
from tests.system.registries import registry_in, uri_of
from training.training_run import publish_popular

TOPICS = TopicSettings(partitions=2)
PROCESSES = (Process.WORKER, Process.ENCODER, Process.TRAINER, Process.API)


@pytest.fixture
def settings(empty_kafka: str, registry_folder: Path, tmp_path: Path) -> Settings:
    """An empty broker, an empty registry, and a text model without a network."""
    folder = tmp_path / "text"
    folder.mkdir()
    for name in ("encoder.onnx", "tokenizer.json"):
        (folder / name).write_text(name)
    finish_folder(folder, Keywords(["dog"], 2), EncoderFacts("onnx", 384, 256, "int8"))
    return Settings(
        kafka=KafkaSettings(bootstrap=empty_kafka, dev=True),
        topics=TOPICS,
        worker=WorkerSettings(state_dir=tmp_path / "state"),
        encoder=EncoderSettings(text_model=folder),
        api=ApiSettings(state_dir=tmp_path / "api"),
        registry=RegistrySettings(uri=uri_of(registry_folder), folder=str(registry_folder / "models")),
    )


@pytest.fixture
def admin(empty_kafka: str) -> Iterator[Any]:
    with closing(admin_client(empty_kafka)) as client:
        yield client


def ours() -> list[NewTopic]:
    """All topics as `isthmus topics` makes them."""
    return [NewTopic(spec.name, spec.partitions, 1, topic_configs=dict(spec.settings)) for spec in specs(TOPICS)]


def create(admin: Any, topics: list[NewTopic]) -> None:
    """Creates topics, and waits until the broker shows them."""
    admin.create_topics(topics)
    admin.wait_for_topics([topic.name for topic in topics], 60_000)


def found(settings: Settings, status: Status) -> dict[str, list[Finding]]:
    """The findings of a status, by check."""
    kept: dict[str, list[Finding]] = {}
    for one in examine(settings, PROCESSES, {}, lambda _: None):
        if one.status is status:
            kept.setdefault(one.check, []).append(one)
    return kept


def files_in(folder: Path) -> dict[Path, str]:
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def send(bootstrap: str, topic: str, count: int, timestamp_ms: int | None = None, key: bytes = b"u", value: bytes = b"{}") -> None:
    producer: Any = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
    for _ in range(count):
        producer.send(topic, key=key, value=value, partition=0, timestamp_ms=timestamp_ms)
    producer.close()


def test_a_sound_deployment_has_no_failure_and_stays_as_it_is(
    settings: Settings, admin: Any, registry_folder: Path, tmp_path: Path
) -> None:
    """No topic, not even one of Kafka's own, no group and no file is created or changed."""
    create(admin, ours())
    announced = publish_popular(purchases(60), ITEMS, registry_in(registry_folder)).announcement
    assert announced is not None
    announce(settings.kafka.bootstrap, TOPICS.models, announced)
    send(settings.kafka.bootstrap, TOPICS.clicks, 3)
    before = sorted(admin.list_topics()), admin.list_groups(), files_in(tmp_path)
    findings = examine(settings, PROCESSES, {}, lambda _: None)
    assert [one for one in findings if one.status not in {Status.OK, Status.WARNING}] == []
    assert [one.found for one in findings if one.status is Status.WARNING] == ["erasure markers can be guessed"]
    shown = {one.check: one.found for one in findings}
    assert shown["model"] == f"popular version 1 in {announced.uri} is whole"
    assert shown["registry"] == "version 1 (popular) is champion"
    assert shown["clock"].endswith(" Kafka's")
    assert shown["topics"] == f"{len(specs(TOPICS)) - 1} topics are as they must be"  # a sink alone reads `replayed`
    assert (sorted(admin.list_topics()), admin.list_groups(), files_in(tmp_path)) == before


def test_what_is_broken_is_found_together(settings: Settings, admin: Any, registry_folder: Path, tmp_path: Path) -> None:
    """A topic that is missing, one with another count and another policy, one that nothing can be written to, offsets before and
    behind what the log holds, a model that was changed, another champion than the one announced, a file in place of a folder.
    """
    bootstrap = settings.kafka.bootstrap
    sound = [topic for topic in ours() if topic.name not in {TOPICS.feedback, TOPICS.purchases}]
    compacted = {"cleanup.policy": "compact", "min.insync.replicas": "2"}
    create(admin, [*sound, NewTopic(TOPICS.purchases, num_partitions=3, replication_factor=1, topic_configs=compacted)])
    send(bootstrap, TOPICS.clicks, 6)
    clicks, purchased = TopicPartition(TOPICS.clicks, 0), TopicPartition(TOPICS.purchases, 0)
    admin.delete_records({clicks: 4})
    commit(admin, worker_group("isthmus"), {clicks: OffsetAndMetadata(1, "", None), purchased: OffsetAndMetadata(50, "", None)})
    registry = registry_in(registry_folder)
    announced = publish_popular(purchases(60), ITEMS, registry).announcement
    assert announced is not None
    announce(bootstrap, TOPICS.models, announced)
    publish_popular(purchases(90), ITEMS, registry)
    (Path(announced.uri) / "items.json").write_text("{}")
    (tmp_path / "state").write_text("a file")

    failures = found(settings, Status.FAILED)
    assert [(one.found, one.to_do) for one in failures.pop("topics")] == [
        ("purchases: has 3 partitions, not 2", "a count cannot be changed; set topics.partitions = 3"),
        (
            "purchases: cleanup.policy is compact, not delete",
            "kafka-configs --alter --topic purchases --add-config cleanup.policy=delete",
        ),
        (
            "purchases: message.timestamp.type is CreateTime, not LogAppendTime",
            "kafka-configs --alter --topic purchases --add-config message.timestamp.type=LogAppendTime",
        ),
        ("feedback: missing", "run `isthmus topics` without --check"),
    ]
    assert [one.found for one in failures.pop("partitions")] == [
        "3 have fewer replicas in sync than min.insync.replicas, so that nothing is written: purchases-0, purchases-1, purchases-2"
    ]
    assert [one.found for one in failures.pop("offsets")] == [
        "isthmus-profiles has committed offset 1 of web-clicks-0, which begins at 4: 3 records left it unread",
        "isthmus-profiles has committed offset 50 of purchases-0, which ends at 0",
    ]
    assert [one.found for one in failures.pop("model")] == [
        f"popular version 1 in {announced.uri} is refused: {announced.uri!r}: items.json does not have the manifest's SHA-256"
    ]
    assert [one.found for one in failures.pop("registry")] == [
        "version 2 (popular) is champion, and version 1 is announced to the workers"
    ]
    assert [one.found for one in failures.pop("disk")] == [
        f"{tmp_path}/state (worker.state_dir) cannot be written: {tmp_path}/state is no folder"
    ]
    assert failures == {}
    (waiting,) = found(settings, Status.WARNING)["offsets"]
    assert (waiting.found, waiting.to_do) == (
        "isthmus-profiles: 0 in the group, 2 records behind (web-clicks-0 2)",
        "nobody reads them: start `isthmus worker`",
    )


def test_what_belongs_to_another_application_is_named(settings: Settings, admin: Any) -> None:
    """It went without a name of its own, too, and has other lists."""
    create(admin, ours())
    other = TOPICS.model_copy(update={"recommendations": TOPICS.items})
    note_owned(settings.model_copy(update={"topics": other}))
    (finding,) = found(settings, Status.FAILED)["topics"]
    (theirs, _) = finding.found.splitlines()
    assert "isthmus-profiles-users-changelog" in theirs
    assert theirs.endswith("belong to the application isthmus, whose lists are in the topic items")
    assert "name it otherwise (setting application" in finding.to_do


def test_a_champion_that_fits_neither_text_model_nor_catalogue_is_named(
    settings: Settings, admin: Any, registry_folder: Path
) -> None:
    """The folder of the champion is whole."""
    create(admin, ours())
    folder = str(registry_folder / "models" / "other")
    ranker = Popular("9", "f", ("a",), np.ones(1, dtype=np.float32), text_model="another")
    sha256 = write_ranker(folder, ranker, version="9")
    champion = ModelAnnouncement(role="champion", name="popular", version="9", uri=folder, sha256=sha256, published_at=0)
    announce(settings.kafka.bootstrap, TOPICS.models, champion)
    failures = found(settings, Status.FAILED)
    (finding,) = failures["text model"]
    assert "and the champion was trained for another: it reads nothing of new calls" in finding.found
    assert "model" not in failures
    send(settings.kafka.bootstrap, TOPICS.items, 1, key=b"b", value=b'{"item_id": "b", "name": "B", "repeatable": true}')
    (refused,) = found(settings, Status.FAILED)["model"]
    assert refused.found.endswith("1 of its 1 items are not in the catalogue")


def test_a_topic_that_somebody_made_with_defaults_is_judged_by_them(empty_kafka: str, unique: str, admin: Any) -> None:
    """The broker lists only what was set, unless it is asked for all."""
    create(admin, [NewTopic(unique, num_partitions=1, replication_factor=1)])
    fits = TopicSettings(partitions=1, encoded_calls=unique)
    assert create_or_check(empty_kafka, fits, create=False, only=[unique]) == [f"{unique}: as it must be"]
    with pytest.raises(IsthmusError, match=r"message.timestamp.type is CreateTime, .*; max.message.bytes is 1048588, not 4194304"):
        create_or_check(empty_kafka, TopicSettings(partitions=1, transcripts=unique), create=False, only=[unique])


def test_a_compacted_topic_keeps_tombstones_for_as_long_as_its_readers_may_be_away(
    empty_kafka: str, unique: str, admin: Any
) -> None:
    """With the broker's default of a day, a reader that was away for two would keep the users who were erased meanwhile."""
    settings = {"cleanup.policy": "compact"}
    create(admin, [NewTopic(unique, num_partitions=1, replication_factor=1, topic_configs=settings)])
    topics = TopicSettings(partitions=1, recommendations=unique)
    with pytest.raises(IsthmusError, match=r"delete\.retention\.ms is 86400000, not 604800000: .*=604800000"):
        create_or_check(empty_kafka, topics, create=False, only=[unique])
    for relied_ms, fits in ((86_400_000, True), (86_400_001, False)):
        with nullcontext() if fits else pytest.raises(IsthmusError, match=r"delete\.retention\.ms"):
            create_or_check(empty_kafka, topics, create=False, only=[unique], tombstones_ms=relied_ms)


def test_the_advice_on_a_wrong_count_knows_whether_it_is_a_setting(empty_kafka: str, unique: str, admin: Any) -> None:
    """The catalogue is one partition, whatever `topics.partitions` says."""
    create(admin, [NewTopic(unique, num_partitions=2, replication_factor=1)])
    with pytest.raises(IsthmusError, match=r"has 2 partitions, not 4: a count cannot be changed; set topics\.partitions = 2"):
        create_or_check(empty_kafka, TopicSettings(partitions=4, clicks=unique), create=False, only=[unique])
    with pytest.raises(IsthmusError, match="has 2 partitions, not 1: delete it, run `isthmus topics`"):
        create_or_check(empty_kafka, TopicSettings(partitions=2, items=unique), create=False, only=[unique])


def test_the_newest_record_says_how_far_this_clock_is_behind_at_least(empty_kafka: str, unique: str, admin: Any) -> None:
    """Where Kafka's own clock cannot be asked."""
    create(admin, [NewTopic(unique, num_partitions=1, replication_factor=1)])
    with closing(Survey(empty_kafka)) as survey:
        assert survey.newest_ahead_ms([unique]) is None
        send(empty_kafka, unique, 1, timestamp_ms=time.time_ns() // 1_000_000 + 400_000)
        ahead_ms = survey.newest_ahead_ms([unique])
    assert ahead_ms is not None
    assert 100_000 < ahead_ms <= 400_000


def test_an_address_that_a_broker_says_of_itself_is_asked_too(kafka: str) -> None:
    """Clients use it after the first connection."""
    named = kafka.replace("127.0.0.1", "localhost")
    assert advertised(named, {named: None}) == {kafka: None}
