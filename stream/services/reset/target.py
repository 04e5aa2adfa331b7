"""Where a reset has the inputs read again, as offsets, watermarks and committed offsets of every partition."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from kafka.errors import KafkaError

from stream.application import encoder_group, worker_group
from stream.core.events import STEP_INPUTS
from stream.core.reset import NO_RECORD_MS, Place
from stream.core.watermarks import VERSION, CommittedMark, Watermark, decode_mark, encode_mark
from stream.errors import IsthmusError
from stream.kafka.cluster.group_reset import Start, committed_offsets, ends_of, starts_of
from stream.kafka.cluster.topics import admin_client, topic_epochs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stream.core.records import Boundaries
    from stream.core.reset import Places
    from stream.kafka.cluster.partition import Partition
    from stream.settings import Settings

NO_CUTS: tuple[tuple[int, int], ...] = ()


class Target(NamedTuple):
    """Where the inputs are read again.

    Attributes:
        settings: Of the application.
        since_ms: The time from which on they are read again, ms; None: from their beginnings.
        epochs: Of the inputs and the transcripts.
        starts: Of their partitions. Erasures are always read from their beginning: read twice, they change nothing. Encoded calls
            are passed over to their end: the encoder makes them again.
        cuts: Where the partitions of the transcripts were cut, as the encoder noted it.
        begins: First offsets of the partitions.
        committed: Offsets of workers and encoders, of partitions of which they committed one.
    """

    settings: Settings
    since_ms: int | None
    epochs: Mapping[str, int]
    starts: Mapping[Partition, Start]
    cuts: Mapping[Partition, Boundaries]
    begins: Mapping[Partition, int] = {}
    committed: Mapping[Partition, int] = {}

    def places(self, number: int, stored: Mapping[str, Watermark]) -> Places:
        """The places of a partition number. `stored` are the watermarks of its states, by topic."""
        topics = self.settings.topics
        found = {}
        for row in STEP_INPUTS:
            read = topics.transcripts if row.is_derived else topics.name_of(row.role)
            start, epoch = self.starts[read, number], self.epochs[read]
            cuts = self.cuts.get((read, number), NO_CUTS) if row.is_derived else self._cuts(read, stored)
            found[row.source] = Place(epoch, start.offset, start.first_ms, cuts)
        return found

    def watermarks(self, number: int, stored: Mapping[str, Watermark]) -> dict[str, Watermark]:
        """The watermarks that states without any event have, by topic: they contain the inputs up to where they are read again."""
        topics = [self.settings.topics.name_of(row.role) for row in STEP_INPUTS]
        return {
            topic: Watermark(VERSION, self.epochs[topic], self.starts[topic, number].offset - 1, -1, self._cuts(topic, stored))
            for topic in topics
        }

    def offsets(self) -> dict[str, dict[Partition, tuple[int, str]]]:
        """The offset and metadata to commit for each partition, by group."""
        application, transcripts = self.settings.application, self.settings.topics.transcripts
        workers = {one: (start.offset, "") for one, start in self.starts.items() if one[0] != transcripts}
        encoders = {}
        for one, start in self.starts.items():
            if one[0] == transcripts:
                cuts = tuple(self.cuts.get(one, NO_CUTS))
                mark = CommittedMark(Watermark(VERSION, self.epochs[transcripts], start.offset - 1, -1, cuts))
                encoders[one] = (start.offset, encode_mark(mark))
        return {worker_group(application): workers, encoder_group(application): encoders}

    def _cuts(self, topic: str, stored: Mapping[str, Watermark]) -> tuple[tuple[int, int], ...]:
        """Kept, so that what is named after a record's coordinates keeps its name."""
        known = stored.get(topic)
        return known.boundaries if known is not None and known.epoch == self.epochs[topic] else NO_CUTS


def find_target(settings: Settings, since_ms: int | None) -> Target:
    """Looks up where the inputs begin, or have their first records from `since_ms` on by Kafka's time.

    Raises:
        IsthmusError: the broker cannot be reached, or a topic is missing.
    """
    bootstrap, topics, numbers = settings.kafka.bootstrap, settings.topics, range(settings.topics.partitions)
    derived = [topics.name_of(row.role) for row in STEP_INPUTS if row.is_derived]
    read = [topics.name_of(row.role) for row in STEP_INPUTS if not row.is_derived]
    transcripts = [(topics.transcripts, number) for number in numbers]
    inputs = [(topic, number) for topic in (*read, *derived) for number in numbers]
    try:
        with closing(admin_client(bootstrap)) as admin:
            first = starts_of(admin, [*inputs, *transcripts], None)
            later = [one for one in (*inputs, *transcripts) if one[0] not in {topics.erasures, *derived}]
            starts = first if since_ms is None else {**first, **starts_of(admin, later, since_ms)}
            ends = ends_of(admin, [one for one in inputs if one[0] in derived])
            encoded = committed_offsets(admin, encoder_group(settings.application), transcripts)
            committed = {**committed_offsets(admin, worker_group(settings.application), inputs), **encoded}
    except KafkaError as error:
        raise IsthmusError(f"offsets at {bootstrap} cannot be read ({type(error).__name__})") from error
    epochs = topic_epochs(bootstrap, [*read, *derived, topics.transcripts])
    marks = {one: mark.watermark for one, (_, note) in encoded.items() if (mark := decode_mark(note)) is not None}
    return Target(
        settings,
        since_ms,
        epochs,
        {**starts, **{one: Start(end, NO_RECORD_MS) for one, end in ends.items()}},
        {one: watermark.boundaries for one, watermark in marks.items() if watermark.epoch == epochs[one[0]]},
        {one: start.offset for one, start in first.items()},
        {one: offset for one, (offset, _) in committed.items()},
    )
