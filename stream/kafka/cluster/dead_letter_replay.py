"""Dead letters read back, and replayed into the topics that they came from: once each, whatever is cut off or repeated.

What was replayed is remembered by its coordinates in a compacted topic. A run first notes where its origin topics end: were it cut
off between sending and remembering, the next run finds what was sent behind these ends, by the header that it carries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError

from stream.core import limits
from stream.core.events import INPUTS, Reason
from stream.core.outputs import DeadLetter, Replayed
from stream.core.records import Headers
from stream.errors import IsthmusError
from stream.kafka.cluster.topic_reader import TopicReader
from stream.kafka.cluster.topics import topic_epochs
from stream.settings import TopicSettings

STAMP: Final = "isthmus_replayed_from"
RUN: Final = b"run"
_TOGETHER: Final = 500
_HOPELESS: Final = {
    Reason.MISSING_KEY: "it has no key, so nobody's events would meet: its producer must send it again",
    Reason.EMPTY: "it is empty: there is nothing to replay",
}
_decode: Final = msgspec.json.Decoder(DeadLetter).decode
_encode: Final = msgspec.json.Encoder().encode


class DeadLetterFilter(NamedTuple):
    """Which dead letters: by reason, origin topic, time of the event at the broker (ms, the end excluded), or name. None: all."""

    reason: str | None = None
    topic: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    names: frozenset[str] | None = None

    def matches(self, letter: DeadLetter) -> bool:
        return (
            self.reason in (None, letter.reason)
            and self.topic in (None, letter.origin.topic)
            and (self.since_ms is None or letter.occurred_at >= self.since_ms)
            and (self.until_ms is None or letter.occurred_at < self.until_ms)
            and (self.names is None or name_of(letter) in self.names)
        )


class Original(NamedTuple):
    """A record as its producer sent it."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def name_of(letter: DeadLetter) -> str:
    """The coordinates of the origin, "topic/epoch/partition/offset": the dead letter's key."""
    origin = letter.origin
    return f"{origin.topic}/{origin.epoch}/{origin.partition}/{origin.offset}"


def letters_of(reader: TopicReader, topic: str, wanted: DeadLetterFilter) -> Iterator[DeadLetter]:
    """The dead letters that match, each once; records that are none are passed over."""
    seen: set[str] = set()
    for record in reader.records(topic):
        try:
            letter = _decode(record.value or b"")
        except msgspec.MsgspecError:
            continue
        name = name_of(letter)
        if name not in seen and wanted.matches(letter):
            seen.add(name)
            yield letter


def replayed_in(reader: TopicReader, topic: str) -> dict[bytes, Replayed]:
    """What was replayed, by coordinates; under `RUN` what a run that was cut off left."""
    found: dict[bytes, Replayed] = {}
    for record in reader.records(topic):
        if record.value is None:
            found.pop(record.key, None)
        else:
            found[record.key] = msgspec.json.decode(record.value, type=Replayed)
    return found


def original_of(reader: TopicReader, letter: DeadLetter, epochs: Mapping[str, int]) -> Original | str:
    """The record behind a dead letter, from the letter or, where that holds it not whole, from its origin; or why there is none."""
    origin = letter.origin
    if letter.original is not None and len(letter.original) == letter.original_bytes:
        return Original(letter.key, letter.original, letter.headers)
    missing = (
        "holds no original"
        if letter.original is None
        else f"holds the first {len(letter.original)} of {letter.original_bytes} bytes"
    )
    if epochs.get(origin.topic) != origin.epoch:
        return f"the dead letter {missing}, and its origin topic was deleted or recreated since"
    record = reader.record_at(origin.topic, origin.partition, origin.offset)
    if record is None:
        return f"the dead letter {missing}, and its origin topic holds the record no more (retention)"
    return Original(record.key, record.value, tuple(record.headers))


class DeadLetterReplay:
    """Sends originals into their origin topics again. One at a time: two beside each other would send twice.

    `say` is told each letter's name and what became of it.
    """

    def __init__(self, bootstrap: str, reader: TopicReader, topics: TopicSettings, say: Callable[[str, str], None]) -> None:
        self._reader = reader
        self._topics = topics
        self._say = say
        self._memory = replayed_in(reader, topics.replayed)
        self._origins = [topics.name_of(row.role) for row in INPUTS]
        self._epochs = topic_epochs(bootstrap, self._origins)
        self._bootstrap = bootstrap

    def run(self, letters: Sequence[DeadLetter], now_ms: int, *, dry: bool) -> dict[str, int]:
        """Replays what was not yet; gives how many were replayed, already replayed, and refused.

        Raises:
            IsthmusError: the broker does not take them; running it again goes on where it stopped.
        """
        try:
            producer: Any = KafkaProducer(
                bootstrap_servers=self._bootstrap,
                acks="all",
                enable_idempotence=True,
                max_request_size=limits.RECORD_BYTES,
                compression_type="gzip",  # as large as its producer may have sent it
                linger_ms=5,
            )
            try:
                self._resolve(producer, now_ms, dry=dry)
                return self._replay(producer, letters, now_ms, dry=dry)
            finally:
                producer.close()
        except KafkaError as error:
            raise IsthmusError(
                f"the broker at {self._bootstrap} did not take it ({type(error).__name__}): run the same again"
            ) from error

    def _resolve(self, producer: Any, now_ms: int, *, dry: bool) -> None:
        """After a run that was cut off: remembers what it had sent."""
        cut_off = self._memory.pop(RUN, None)
        if cut_off is None:
            return
        for topic, starts in cut_off.ends.items():
            for record in self._reader.records(topic, {int(number): end for number, end in starts.items()}):
                for name in (value for header, value in record.headers if header == STAMP):
                    self._memory[name] = Replayed(now_ms)
                    if not dry:
                        producer.send(self._topics.replayed, key=name, value=_encode(self._memory[name]), partition=0).get(30)

    def _replay(self, producer: Any, letters: Sequence[DeadLetter], now_ms: int, *, dry: bool) -> dict[str, int]:
        counts = {"replayed": 0, "already replayed": 0, "refused": 0}
        together: list[tuple[DeadLetter, Original]] = []
        for letter in letters:
            if name_of(letter).encode() in self._memory:
                counts["already replayed"] += 1
                continue
            original = self._usable(letter)
            if isinstance(original, str):
                self._refuse(letter, original, counts)
            elif dry:
                counts["replayed"] += 1
                self._say(name_of(letter), "would be replayed")
            else:
                together.append((letter, original))
        if together:
            self._send_all(producer, together, now_ms, counts)
        return counts

    def _refuse(self, letter: DeadLetter, why: str, counts: dict[str, int]) -> None:
        counts["refused"] += 1
        self._say(name_of(letter), f"refused: {why}")

    def _usable(self, letter: DeadLetter) -> Original | str:
        if letter.reason in _HOPELESS:
            return _HOPELESS[Reason(letter.reason)]
        if letter.origin.topic not in self._epochs:
            return f"{letter.origin.topic} is none of the settings' input topics"
        if letter.origin.topic == self._topics.encoded_calls:
            return "an encoded call belongs before those of its user that were applied since: have its transcript produced again"
        return original_of(self._reader, letter, self._epochs)

    def _send_all(self, producer: Any, together: list[tuple[DeadLetter, Original]], now_ms: int, counts: dict[str, int]) -> None:
        ends = {topic: {str(number): end for number, end in self._reader.ends(topic).items()} for topic in self._origins}
        remember = self._topics.replayed
        producer.send(remember, key=RUN, value=_encode(Replayed(now_ms, ends)), partition=0).get(30)
        for start in range(0, len(together), _TOGETHER):
            chunk = together[start : start + _TOGETHER]
            sent = [_sent(producer, letter, original) for letter, original in chunk]
            taken = []
            for (letter, _), future in zip(chunk, sent, strict=True):
                if _is_taken(future):
                    taken.append(letter)
                else:
                    self._refuse(letter, f"{letter.origin.topic} takes no record of its size: see its max.message.bytes", counts)
            names = [name_of(letter).encode() for letter in taken]
            for future in [producer.send(remember, key=name, value=_encode(Replayed(now_ms)), partition=0) for name in names]:
                future.get(30)
            for letter in taken:
                counts["replayed"] += 1
                self._say(name_of(letter), "replayed")
        producer.send(remember, key=RUN, value=None, partition=0).get(30)


def _sent(producer: Any, letter: DeadLetter, original: Original) -> Any:
    """The future of an original on its way, with its stamp; None where the client already finds it too large."""
    stamp = (STAMP, name_of(letter).encode())
    headers = [*((name, value) for name, value in original.headers if name != STAMP), stamp]
    try:
        return producer.send(letter.origin.topic, key=original.key, value=original.value, headers=headers)
    except MessageSizeTooLargeError:
        return None


def _is_taken(future: Any) -> bool:
    """Whether the broker has the record; False where it is too large for its topic."""
    try:
        return future is not None and future.get(30) is not None
    except MessageSizeTooLargeError:
        return False
