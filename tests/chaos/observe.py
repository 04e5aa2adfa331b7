"""Reads the contents of the topics after a run, for the check."""

from collections.abc import Collection, Mapping, Sequence

import msgspec
from kafka import TopicPartition

from stream.application import DEFAULT, encoder_group, worker_group
from stream.core.events import Item, Source
from stream.core.ranking import Catalogue
from stream.core.records import Batch, Boundaries, PlainRecord
from stream.kafka.cluster.lag import committed_and_end_offsets
from stream.kafka.cluster.topics import admin_client, changelog_name, source_topics, topic_epochs
from stream.kafka.faust.changelog import term_of
from stream.settings import TopicSettings
from tests.chaos.check import Observed, uncommitted
from tests.chaos.sender import Place, Sent
from tests.system.exact import newest, read_all

WORKERS, ENCODERS = worker_group(DEFAULT), encoder_group(DEFAULT)


def batches_of(bootstrap: str, sources: Mapping[str, Source], numbers: Collection[int] | None = None) -> list[Batch]:
    """Returns all records of the topics, one batch per partition."""
    epochs = topic_epochs(bootstrap, sources)
    return [
        Batch(source, topic, epochs[topic], number, records)
        for topic, source in sources.items()
        for number, records in read_all(bootstrap, topic, numbers).items()
        if records
    ]


def restored(records: Mapping[int, Sequence[PlainRecord]]) -> tuple[dict[bytes, bytes], int]:
    """Returns the states that a recovery restores from a changelog, and how many records it skips: those whose term is lower than
    an earlier one's, written by a worker after it had lost the partition.
    """
    states: dict[bytes, bytes] = {}
    late = 0
    for partition in records.values():
        term = 0
        for record in partition:
            if record.key is None or (stamped := term_of(record.headers)) < term:
                late += 1
                continue
            term = stamped
            if record.value is None:
                states.pop(record.key, None)
            else:
                states[record.key] = record.value
    return states, late


def observe(
    bootstrap: str,
    topics: TopicSettings,
    acknowledged: Mapping[Place, Sent],
    former: Sequence[Batch] = (),
    numbers: Collection[int] | None = None,
    boundaries: Mapping[tuple[str, int], Boundaries] | None = None,
    application: str = DEFAULT,
) -> Observed:
    """Reads the topics. `former` holds records that the topics lost meanwhile, `boundaries` where partitions were cut; `numbers`
    limits the partitions (default: all). `topics` are those of `application`.
    """
    workers, encoders = worker_group(application), encoder_group(application)

    def continued(batches: Sequence[Batch]) -> list[Batch]:
        return [batch._replace(boundaries=(boundaries or {}).get((batch.topic, batch.partition), ())) for batch in batches]

    sources = source_topics(topics)
    inputs = {*sources, topics.transcripts}
    catalogue = newest(read_all(bootstrap, topics.items)).values()
    read = batches_of(bootstrap, sources, numbers), batches_of(bootstrap, {topics.transcripts: Source.CALL}, numbers)
    sent = read_all(bootstrap, topics.recommendations, numbers)
    states, late = restored(read_all(bootstrap, changelog_name(workers), numbers))
    return Observed(
        batches=[
            *(batch for batch in former if batch.topic in sources),
            *continued(read[0]),
        ],
        transcripts=[
            *(batch for batch in former if batch.topic == topics.transcripts),
            *continued(read[1]),
        ],
        acknowledged={place: event for place, event in acknowledged.items() if place[0] in inputs},
        catalogue=Catalogue(msgspec.json.decode(value, type=Item) for value in catalogue),
        changelog=states,
        late_records=late,
        recommendations=[(record.key, record.value) for records in sent.values() for record in records],
        examples=newest(read_all(bootstrap, topics.training_examples, numbers)),
        dead_letters=frozenset(newest(read_all(bootstrap, topics.dead_letters, numbers))),
        uncommitted=sum(_uncommitted(bootstrap, group, found) for group, found in zip((workers, encoders), read, strict=True)),
    )


def _uncommitted(bootstrap: str, group: str, batches: Sequence[Batch]) -> int:
    """As `uncommitted` counts it, for a group that reads the batches' partitions."""
    admin = admin_client(bootstrap)
    try:
        found = committed_and_end_offsets(admin, group, [TopicPartition(batch.topic, batch.partition) for batch in batches])
    finally:
        admin.close()
    committed, ends = ({(tp.topic, tp.partition): offset for tp, offset in offsets.items()} for offsets in found)
    return uncommitted(batches, committed, ends)
