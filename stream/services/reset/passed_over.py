"""Records that a reset passes over although nobody has read them: they are in no state, so that no user is known to lose them."""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

from stream.core.events import STEP_INPUTS, EncodedCall, Source
from stream.core.parsing import parse

if TYPE_CHECKING:
    from stream.core.reset import Place
    from stream.core.watermarks import Watermark
    from stream.kafka.cluster.partition import Partition
    from stream.kafka.cluster.topic_reader import TopicReader
    from stream.services.reset.holdings import Holdings
    from stream.services.reset.target import Target


def passed_over(reader: TopicReader, target: Target, holdings: Holdings) -> int:
    """How many records from before the places where the inputs are read again nobody has read, or are in no state all the same.

    Beyond what is committed, offsets without a record count, too. Of encoded calls only those count that the encoder does not make
    again.
    """
    topics, found = target.settings.topics, 0
    for number in range(topics.partitions):
        stored = holdings.watermarks(number)
        for row in STEP_INPUTS:
            partition = topics.name_of(row.role), number
            known = stored.get(partition[0])
            if row.is_derived:
                place = target.places(number, stored)[row.source]
                found += _lost_calls(reader, partition, _read_to(target, partition, known), place)
                partition, known = (topics.transcripts, number), None
            else:
                found += _in_no_state(reader, target, partition, holdings)
            found += max(0, target.starts[partition].offset - _read_to(target, partition, known))
    return found


def _in_no_state(reader: TopicReader, target: Target, partition: Partition, holdings: Holdings) -> int:
    """How many committed records the states do not contain: somebody moved the group's offset, or the changelog lost states.

    Without any watermark, states are of a version before these, and only the committed offset is known.
    """
    topic, number = partition
    stored = holdings.watermarks(number)
    known, first = stored.get(topic), target.begins[partition]
    end = min(target.committed.get(partition, first), target.starts[partition].offset)
    if known is not None and known.epoch == target.epochs[topic]:
        first = max(first, known.offset + 1)
    elif not stored and any(holdings.users(number)):
        return 0
    if first >= end:
        return 0
    return sum(1 for _ in takewhile(lambda record: record.offset < end, reader.records(topic, {number: first})))


def _read_to(target: Target, partition: Partition, watermark: Watermark | None) -> int:
    """The first offset that nobody has read, as far as it is known, or that the partition holds."""
    known = [target.committed[partition]] if partition in target.committed else []
    if watermark is not None and watermark.epoch == target.epochs[partition[0]]:
        known.append(watermark.offset + 1)
    return max(known, default=target.begins[partition])


def _lost_calls(reader: TopicReader, partition: Partition, first: int, place: Place) -> int:
    """Encoded calls, from an offset on, whose transcripts the encoder does not read again."""
    topic, number = partition
    calls = [parse(Source.CALL, record.value) for record in reader.records(topic, {number: first})]
    return sum(not (isinstance(call, EncodedCall) and place.holds((call.origin_epoch, call.origin_offset))) for call in calls)
