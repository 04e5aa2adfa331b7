"""Reads dead letters and replays them into the topics they came from, each exactly once, even if a run is interrupted or repeated.

A compacted topic records what was replayed, by the origin's coordinates. A run first records the ends of the origin topics there.
If it is interrupted between sending originals and recording them, the next run finds what was sent by reading on from those ends:
each replayed record carries its dead letter's coordinates in a header.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from kafka.errors import KafkaError, MessageSizeTooLargeError

from stream.core import limits
from stream.core.event_times import DEFAULT_RULES
from stream.core.events import FIRST_ORIGIN_HEADER, FIRST_RECEIVED_HEADER, INPUTS, ORIGIN_HEADER, Reason, Source
from stream.core.outputs import DeadLetter, Replayed
from stream.core.parsing import UNUSABLE
from stream.core.records import Headers, is_older_epoch
from stream.core.unreadable import UnreadableValue
from stream.errors import IsthmusError
from stream.kafka.cluster.clients import producer_client
from stream.kafka.cluster.security import current_security
from stream.kafka.cluster.topic_reader import TopicReader
from stream.kafka.cluster.topics import require_one_count, topic_epochs
from stream.settings import TopicSettings

RUN_KEY: Final = b"run"
"""Key of the record that an unfinished run leaves in the topic of replayed dead letters."""
_CHUNK: Final = 500
_ACK_S: Final = 30
_NOT_REPLAYABLE: Final = {
    Reason.MISSING_KEY: "it has no key, so it belongs to no user: its producer must send it again",
    Reason.EMPTY: "it is empty: there is nothing to replay",
}
_decode: Final = msgspec.json.Decoder(DeadLetter).decode
_decode_replayed: Final = msgspec.json.Decoder(Replayed).decode
_encode: Final = msgspec.json.Encoder().encode
logger = logging.getLogger(__name__)


class DeadLetterFilter(NamedTuple):
    """Selects dead letters; None selects all.

    Attributes:
        reason: Why the event could not be used.
        topic: Its origin topic.
        since_ms: Earliest broker time of the event.
        until_ms: End of the broker times, excluded.
        coordinates: Coordinates of the origin, as `coordinates_text` returns them.
    """

    reason: str | None = None
    topic: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    coordinates: frozenset[str] | None = None

    def matches(self, letter: DeadLetter) -> bool:
        return (
            self.reason in (None, letter.reason)
            and self.topic in (None, letter.origin.topic)
            and (self.since_ms is None or letter.occurred_at >= self.since_ms)
            and (self.until_ms is None or letter.occurred_at < self.until_ms)
            and (self.coordinates is None or coordinates_text(letter) in self.coordinates)
        )


class Original(NamedTuple):
    """A record as its producer sent it."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def coordinates_text(letter: DeadLetter) -> str:
    """The origin's "topic/epoch/partition/offset", which is the dead letter's key."""
    origin = letter.origin
    return f"{origin.topic}/{origin.epoch}/{origin.partition}/{origin.offset}"


def read_dead_letters(reader: TopicReader, topic: str, selection: DeadLetterFilter) -> Iterator[DeadLetter]:
    """The selected dead letters, each once. How many records are no dead letters is logged at the end."""
    seen: set[str] = set()
    others = 0
    for record in reader.records(topic):
        try:
            letter = _decode(record.value or b"")
        except UNUSABLE:
            others += 1
            continue
        coordinates = coordinates_text(letter)
        if coordinates not in seen and selection.matches(letter):
            seen.add(coordinates)
            yield letter
    if others:
        logger.warning("%d records of %s are no dead letters and are left out", others, topic)


def read_replayed(reader: TopicReader, topic: str) -> dict[bytes, Replayed]:
    """What was replayed, by coordinates; under `RUN_KEY`, what an interrupted run left.

    A record that cannot be read is logged and counts by its key: that was replayed. An interrupted run then has no ends.
    """
    replayed: dict[bytes, Replayed] = {}
    for record in reader.records(topic):
        if record.value is None:
            replayed.pop(record.key, None)
            continue
        try:
            replayed[record.key] = _decode_replayed(record.value)
        except UNUSABLE as error:
            replayed[record.key] = Replayed(record.timestamp)
            logger.warning("%s, offset %d cannot be read (%s): its key counts", topic, record.offset, type(error).__name__)
    return replayed


def original_of(reader: TopicReader, letter: DeadLetter, epochs: Mapping[str, int]) -> Original | str:
    """The original record, re-read from the source topic if the dead letter truncates it; otherwise the reason."""
    origin = letter.origin
    if letter.original is not None and len(letter.original) == letter.original_bytes:
        return Original(letter.key, letter.original, letter.headers)
    missing = (
        "contains no original"
        if letter.original is None
        else f"contains the first {len(letter.original)} of {letter.original_bytes} bytes"
    )
    epoch = epochs.get(origin.topic)
    if epoch is None or not (epoch == origin.epoch or is_older_epoch(epoch, origin.epoch)):
        return f"the dead letter {missing}, and its origin topic has been deleted or recreated"
    record = reader.record_at(origin.topic, origin.partition, origin.offset)
    if record is None or record.timestamp != letter.occurred_at:  # the log may have been cut and continued at this offset
        return f"the dead letter {missing}, and its origin topic no longer retains the record"
    if isinstance(record.value, UnreadableValue) and record.value.original is None:
        return f"the dead letter {missing}, and the record at its origin does not parse"
    value = record.value.original if isinstance(record.value, UnreadableValue) else record.value
    return Original(record.key, value, tuple(record.headers))


class DeadLetterReplay:
    """Sends originals to their origin topics again. Two replays at the same time would send records twice.

    `report` is called with each dead letter's coordinates and its outcome.
    """

    def __init__(self, bootstrap: str, reader: TopicReader, topics: TopicSettings, report: Callable[[str, str], None]) -> None:
        self._reader = reader
        self._topics = topics
        self._report = report
        self._replayed = read_replayed(reader, topics.replayed)
        self._origins = [topics.name_of(row.role) for row in INPUTS]
        require_one_count(bootstrap, topics)
        self._epochs = topic_epochs(bootstrap, self._origins)
        self._bootstrap = bootstrap

    def run(self, letters: Sequence[DeadLetter], now_ms: int, *, dry: bool) -> dict[str, int]:
        """Replays what has not been replayed; returns how many were replayed, already replayed, and refused.

        Raises:
            IsthmusError: the broker does not accept them; another run continues where this one stopped.
        """
        try:
            producer = producer_client(
                self._bootstrap,
                max_request_size=limits.RECORD_BYTES,
                compression_type=current_security().compression or "gzip",  # its producer may have compressed it to fit
                linger_ms=5,
            )
            try:
                self._resolve(producer, now_ms, dry=dry)
                return self._replay(producer, letters, now_ms, dry=dry)
            finally:
                producer.close()
        except KafkaError as error:
            raise IsthmusError(
                f"the broker at {self._bootstrap} did not accept the records ({type(error).__name__}): run the same command again"
            ) from error

    def _resolve(self, producer: Any, now_ms: int, *, dry: bool) -> None:
        """Records what an interrupted run had sent."""
        interrupted = self._replayed.pop(RUN_KEY, None)
        if interrupted is None:
            return
        searched = interrupted.ends or {origin: {} for origin in self._origins}  # whole topics where the ends cannot be read
        for topic, starts in searched.items():
            for record in self._reader.records(topic, {int(number): end for number, end in starts.items()}):
                for coordinates in (value for header, value in record.headers if header == ORIGIN_HEADER):
                    self._replayed[coordinates] = Replayed(now_ms)
                    if not dry:
                        self._record(producer, coordinates, self._replayed[coordinates]).get(_ACK_S)

    def _replay(self, producer: Any, letters: Sequence[DeadLetter], now_ms: int, *, dry: bool) -> dict[str, int]:
        counts = {"replayed": 0, "already replayed": 0, "refused": 0}
        letters = self._request_lists(producer, letters, now_ms, counts, dry=dry)
        originals: list[tuple[DeadLetter, Original]] = []
        for letter in letters:
            if coordinates_text(letter).encode() in self._replayed:
                counts["already replayed"] += 1
                continue
            original = self._replayable(letter)
            if isinstance(original, str):
                self._refuse(letter, original, counts)
            elif dry:
                counts["replayed"] += 1
                self._report(coordinates_text(letter), "would be replayed")
            else:
                originals.append((letter, original))
        if originals:
            self._send_all(producer, originals, now_ms, counts)
        return counts

    def _request_lists(
        self, producer: Any, letters: Sequence[DeadLetter], now_ms: int, counts: dict[str, int], *, dry: bool
    ) -> list[DeadLetter]:
        """Asks the sinks to send again what they gave up, as the topic says it now; returns the other dead letters."""
        others = []
        for letter in letters:
            name = coordinates_text(letter)
            if letter.reason != Reason.UNDELIVERED or name.encode() in self._replayed:
                others.append(letter)
                continue
            if not dry:
                self._record(producer, name.encode(), Replayed(now_ms)).get(_ACK_S)
            counts["replayed"] += 1
            self._report(name, "would be requested" if dry else "requested: the sink sends what the topic says now")
        return others

    def _refuse(self, letter: DeadLetter, why: str, counts: dict[str, int]) -> None:
        counts["refused"] += 1
        self._report(coordinates_text(letter), f"refused: {why}")

    def _replayable(self, letter: DeadLetter) -> Original | str:
        """The original to send, or why it is refused."""
        if letter.reason in _NOT_REPLAYABLE:
            return _NOT_REPLAYABLE[Reason(letter.reason)]
        if letter.origin.topic == self._topics.items:
            return "it might replace a newer record of the item: publish the item again"
        if letter.origin.topic not in self._epochs:
            return f"{letter.origin.topic} is not an input topic of the settings"
        if letter.origin.topic == self._topics.encoded_calls:
            return "an encoded call would arrive after later ones of its user: have its transcript produced again"
        return original_of(self._reader, letter, self._epochs)

    def _send_all(self, producer: Any, originals: list[tuple[DeadLetter, Original]], now_ms: int, counts: dict[str, int]) -> None:
        ends = {topic: {str(number): end for number, end in self._reader.ends(topic).items()} for topic in self._origins}
        self._record(producer, RUN_KEY, Replayed(now_ms, ends)).get(_ACK_S)
        for start in range(0, len(originals), _CHUNK):
            accepted = self._send_chunk(producer, originals[start : start + _CHUNK], counts)
            recorded = [self._record(producer, coordinates_text(letter).encode(), Replayed(now_ms)) for letter in accepted]
            for future in recorded:
                future.get(_ACK_S)
            for letter in accepted:
                counts["replayed"] += 1
                self._report(coordinates_text(letter), "replayed")
        self._record(producer, RUN_KEY, None).get(_ACK_S)

    def _send_chunk(
        self, producer: Any, originals: Sequence[tuple[DeadLetter, Original]], counts: dict[str, int]
    ) -> list[DeadLetter]:
        """Sends originals; returns the dead letters of those that the broker accepted."""
        sent = [(letter, _send(producer, letter, original)) for letter, original in originals]
        accepted = []
        for letter, future in sent:
            if _is_accepted(future):
                accepted.append(letter)
            else:
                self._refuse(letter, f"{letter.origin.topic} accepts no record of this size: see its max.message.bytes", counts)
        return accepted

    def _record(self, producer: Any, key: bytes, replayed: Replayed | None) -> Any:
        """Sends a record, or a tombstone, to the topic of replayed dead letters; returns its future."""
        value = None if replayed is None else _encode(replayed)
        return producer.send(self._topics.replayed, key=key, value=value, partition=0)


def headers_of_replay(letter: DeadLetter, original: Original) -> list[tuple[str, bytes]]:
    """The original's headers, the dead letter's coordinates, and where the original is and when the broker received it: before its
    first replay, if this is another one. A time that no event may have is left out: it made the dead letter.
    """
    headers = [(name, value) for name, value in original.headers if name != ORIGIN_HEADER]
    former = [value for name, value in original.headers if name == ORIGIN_HEADER]
    origin = coordinates_text(letter).encode()
    names = {name for name, _ in headers}
    ours = []  # first, because a dead letter keeps the first headers only
    if letter.occurred_at >= DEFAULT_RULES[Source.ERASURE].certain_from_ms and FIRST_RECEIVED_HEADER not in names:
        ours.append((FIRST_RECEIVED_HEADER, str(letter.occurred_at).encode()))
    if FIRST_ORIGIN_HEADER not in names:
        ours.append((FIRST_ORIGIN_HEADER, former[0] if former else origin))
    return [*ours, *headers, (ORIGIN_HEADER, origin)]


def _send(producer: Any, letter: DeadLetter, original: Original) -> Any:
    """Sends an original with its dead letter's coordinates; returns its future, or None if the client finds it too large."""
    headers = headers_of_replay(letter, original)
    try:
        return producer.send(letter.origin.topic, key=original.key, value=original.value, headers=headers)
    except MessageSizeTooLargeError:
        return None


def _is_accepted(future: Any) -> bool:
    """Waits for the broker's answer; False if the record is too large for its topic."""
    try:
        return future is not None and future.get(_ACK_S) is not None
    except MessageSizeTooLargeError:
        return False
