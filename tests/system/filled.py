"""An application whose topics hold what workers would have written, made by the pure step: no process takes its seconds."""

from collections.abc import Iterable
from contextlib import closing
from typing import Any, Final

from kafka import KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from stream.application import worker_group
from stream.connection_settings import KafkaSettings
from stream.core.events import Source, UserEvent
from stream.core.partitioner import partition_of
from stream.core.ranking import Catalogue
from stream.core.records import Batch
from stream.core.step import StepConfig, step
from stream.core.watermarks import VERSION, Watermark, encode_watermark, watermark_key
from stream.kafka.cluster.owners import note_owned
from stream.kafka.cluster.topics import admin_client, changelog_name, create_or_check, source_topics, topic_epochs
from stream.kafka.faust.changelog import term_headers
from stream.process_settings import WorkerSettings
from stream.settings import Settings, TopicSettings
from tests import world
from tests.group_offsets import commit
from tests.system.exact import newest, read_all
from tests.world import Store

NUMBERS: Final = (0, 1)
TERM: Final = 7


def settings_of(bootstrap: str, folder: Any, application: str = "isthmus", **sections: Any) -> Settings:
    """Of an application with two partitions, whose topics exist and are noted as its own."""
    settings = Settings(
        **{
            "application": application,
            "kafka": KafkaSettings(bootstrap=bootstrap, dev=True),
            "topics": TopicSettings(partitions=len(NUMBERS)),
            "worker": WorkerSettings(state_dir=folder / "state"),
            **sections,
        }
    )
    create_or_check(bootstrap, settings.topics, application, dev=True)
    note_owned(settings)
    return settings


def send(settings: Settings, events: Iterable[tuple[Source, UserEvent]]) -> None:
    """Sends events to their inputs."""
    topics = {source: topic for topic, source in source_topics(settings.topics).items()}
    with closing(KafkaProducer(bootstrap_servers=settings.kafka.bootstrap)) as producer:
        for source, event in events:
            key = event.user_id.encode()
            where = partition_of(key, len(NUMBERS))
            producer.send(topics[source], key=key, value=world.encode(event), partition=where).get(10)


def fold(settings: Settings, before: dict[int, Store] | None = None) -> dict[int, Store]:
    """What workers would keep and send after all that the inputs hold, by partition number, on top of what they held before."""
    stores = {number: Store() for number in NUMBERS} if before is None else before
    sources = source_topics(settings.topics)
    epochs = topic_epochs(settings.kafka.bootstrap, sources)
    for topic, source in sources.items():
        for number, records in read_all(settings.kafka.bootstrap, topic).items():
            last = records[-1] if records else None
            watermark = Watermark(VERSION, epochs[topic], last.offset if last else -1, last.timestamp if last else -1)
            stores[number].records[watermark_key(topic)] = encode_watermark(watermark)
            if not records:
                continue
            batch = Batch(source, topic, epochs[topic], number, records)
            stores[number].apply(step(batch, stores[number], None, Catalogue(), StepConfig(partitions=len(NUMBERS))))
    return stores


def write(settings: Settings, stores: dict[int, Store], term: int = TERM) -> None:
    """Writes states, lists and examples as workers do, and commits the ends of the inputs."""
    topics, bootstrap, changelog = settings.topics, settings.kafka.bootstrap, changelog_name(worker_group(settings.application))
    before = {number: newest({number: records}) for number, records in read_all(bootstrap, changelog).items()}
    headers = list(term_headers(term))
    with closing(KafkaProducer(bootstrap_servers=bootstrap)) as producer:
        for number, store in stores.items():
            for topic, records in (
                (changelog, {**dict.fromkeys(before[number]), **store.records}),
                (topics.recommendations, store.recommendations),
                (topics.training_examples, store.examples),
            ):
                for key, value in records.items():
                    producer.send(topic, key=key, value=value, partition=number, headers=headers)
        producer.flush()
    with closing(admin_client(bootstrap)) as admin:
        ends = {
            TopicPartition(topic, number): OffsetAndMetadata(records[-1].offset + 1 if records else 0, "", None)
            for topic in source_topics(topics)
            for number, records in read_all(bootstrap, topic).items()
        }
        commit(admin, worker_group(settings.application), ends)


def delete_before_end(admin: Any, settings: Settings, topic: str) -> None:
    """Deletes what a topic holds, as its retention would."""
    ends = {
        TopicPartition(topic, number): found[-1].offset + 1
        for number, found in read_all(settings.kafka.bootstrap, topic).items()
        if found
    }
    admin.delete_records(ends)
