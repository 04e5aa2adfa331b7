"""What an application holds: its state records, lists and examples, read from their topics into a store on disk.

A million users need not fit into memory. What is damaged stops the reading, as it stops a worker's recovery: a state that is passed
over would survive the reset.
"""

from __future__ import annotations

import time
from heapq import merge
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import msgspec

from stream.application import worker_group
from stream.core.feedback import UserFeedback
from stream.core.outputs import decode_example
from stream.core.parsing import UNUSABLE
from stream.core.state import (
    FACTS_PREFIX,
    FEEDBACK_PREFIX,
    HEAD_PREFIX,
    WATERMARK_PREFIX,
    Facts,
    Head,
    StatesUnreadableError,
    decode_facts,
    decode_head,
    decode_user_feedback,
    facts_key,
    feedback_key,
    head_key,
)
from stream.core.succession import Known
from stream.core.unreadable import UnreadableValue
from stream.core.watermarks import Watermark, decode_watermark
from stream.kafka.cluster.topics import changelog_name
from stream.kafka.faust.changelog import term_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stream.core.outputs import TrainingExample
    from stream.kafka.cluster.topic_reader import TopicReader
    from stream.settings import Settings

STATES, LISTS, EXAMPLES = b"c", b"l", b"e"
GIVEN, NOT_GIVEN = b"1", b"0"
_NUMBER_BYTES: Final = 4
_SAY_S: Final = 3.0


class Holdings:
    """State records, keys of lists and keys of examples by partition number.

    Args:
        folder: Of the store.
        settings: Of the application.
        gives: Whether the inputs give an example of a partition number again; None: examples are not read.
    """

    def __init__(self, folder: str, settings: Settings, gives: Callable[[int, TrainingExample], bool] | None = None) -> None:
        from rocksdict import Options, Rdict

        self._db: Any = Rdict(folder, Options(raw_mode=True))
        self._gives = gives
        self._kinds = {
            changelog_name(worker_group(settings.application)): STATES,
            settings.topics.recommendations: LISTS,
        }
        if gives is not None:
            self._kinds[settings.topics.training_examples] = EXAMPLES
        self._next: dict[str, dict[int, int]] = {}
        self._terms: dict[int, int] = {}

    def close(self) -> None:
        self._db.close()

    def read_on(self, reader: TopicReader, say: Callable[[str], None]) -> None:
        """Reads the topics up to their present ends, from where they were read before."""
        for topic, kind in self._kinds.items():
            said_s = time.monotonic()
            following = self._next.setdefault(topic, dict(reader.starts(topic)))
            for count, record in enumerate(reader.records(topic, dict(following)), 1):
                following[record.partition] = record.offset + 1
                self._take(kind, record)
                if time.monotonic() - said_s >= _SAY_S:
                    said_s = time.monotonic()
                    say(f"reading {topic}: {count} records so far")

    def _take(self, kind: bytes, record: Any) -> None:
        if record.key is None:
            return
        place = _prefix(kind, record.partition) + record.key
        if kind == STATES:
            term = term_of(record.headers)
            if term < self._terms.get(record.partition, 0):
                return  # an earlier owner wrote it late
            self._terms[record.partition] = term
        if record.value is None:
            self._db.delete(place)
        else:
            self._db.put(place, self._kept(kind, record))

    def _kept(self, kind: bytes, record: Any) -> bytes:
        is_unreadable = isinstance(record.value, UnreadableValue)
        if kind == STATES:
            return b"" if is_unreadable else record.value
        if kind == LISTS or is_unreadable or self._gives is None:
            return NOT_GIVEN
        try:
            return GIVEN if self._gives(record.partition, decode_example(record.value)) else NOT_GIVEN
        except UNUSABLE:
            return NOT_GIVEN

    def items(self, kind: bytes, number: int, begin: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """The keys that begin so, and their values, of a kind in a partition number."""
        place = _prefix(kind, number)
        for key, value in self._db.items(from_key=place + begin):
            if not key.startswith(place + begin):
                return
            yield key[len(place) :], value

    def states(self, number: int, keys: list[bytes]) -> list[bytes | None]:
        """State records of a partition number."""
        prefix = _prefix(STATES, number)
        found: list[bytes | None] = self._db.get([prefix + key for key in keys])
        return found

    def known(self, number: int, user: bytes) -> Known:
        """What the application knows of a user.

        Raises:
            StatesUnreadableError: one is damaged, or a later version wrote it.
        """
        head, facts, feedback = self.states(number, [head_key(user), facts_key(user), feedback_key(user)])
        return Known(
            Head() if head is None else decode_head(head),
            Facts() if facts is None else decode_facts(facts),
            UserFeedback() if feedback is None else decode_user_feedback(feedback),
        )

    def heads(self, number: int) -> Iterator[tuple[bytes, bytes]]:
        """The users of a partition number with their heads."""
        return ((key[len(HEAD_PREFIX) :], value) for key, value in self.items(STATES, number, HEAD_PREFIX))

    def users(self, number: int) -> Iterator[bytes]:
        """The users of whom a partition number holds any state record, each once, in order."""
        kinds = (HEAD_PREFIX, FACTS_PREFIX, FEEDBACK_PREFIX)
        each = [(key[len(kind) :] for key, _ in self.items(STATES, number, kind)) for kind in kinds]
        return (user for user, _ in groupby(merge(*each)))

    def watermarks(self, number: int) -> dict[str, Watermark]:
        """The watermarks of a partition number by topic, as far as they can be read."""
        found = {}
        for key, value in self.items(STATES, number, WATERMARK_PREFIX):
            try:
                found[key[len(WATERMARK_PREFIX) :].decode()] = decode_watermark(value)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                continue
        return found

    def term(self, number: int) -> int:
        """The highest term in a partition number of the changelog."""
        return self._terms.get(number, 0)


def readable_head(stored: bytes | None) -> Head | None:
    """A head; None where there is none, it is damaged, or a later version wrote it."""
    try:
        return None if stored is None else decode_head(stored)
    except StatesUnreadableError:
        return None


def _prefix(kind: bytes, number: int) -> bytes:
    return kind + number.to_bytes(_NUMBER_BYTES)
