"""The erasures that the former application knows of and the new one does not: their events had left the topic before it read them.

The new application gets the markers, which keep events of before out, and for each user of whom it holds anything an erasure, by
which its workers forget that.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import msgspec
from kafka import TopicPartition
from kafka.errors import KafkaError

from stream.application import worker_group
from stream.core.events import NATIVE_FORMAT_HEADER, Erasure
from stream.core.reset import merged_marker
from stream.core.state import NEVER_ERASED, ErasureMarker, StatesUnreadableError, erasure_marker_key, head_key
from stream.core.unreadable import readable
from stream.errors import IsthmusError
from stream.kafka.cluster.group_reset import members_of
from stream.kafka.cluster.lag import committed_and_end_offsets
from stream.kafka.cluster.producer import InputRecord, produce
from stream.kafka.cluster.topic_reader import open_topic_reader
from stream.kafka.cluster.topics import admin_client
from stream.services.backfill.start import write_markers
from stream.services.reset.holdings import LISTS
from stream.services.reset.markers import markers_of, stored_marker
from stream.services.reset.reset import groups_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from stream.kafka.cluster.group_reset import Start
    from stream.kafka.cluster.partition import Partition
    from stream.services.reset.holdings import Holdings
    from stream.settings import Settings


class Both(NamedTuple):
    """What the former and the new application hold."""

    former: Holdings
    new: Holdings


class ErasuresRead(NamedTuple):
    """How far the new application has read the erasures.

    Attributes:
        committed: The offsets up to which it has, by partition number.
        unread: How many there are beyond, at most.
    """

    committed: Mapping[int, int]
    unread: int


class _Missing(NamedTuple):
    """What the new application lacks of a partition number.

    Attributes:
        markers: To write, by key.
        hidden: Keys of those of which it has no marker at all.
        users: Users of whom it holds what an erasure covers -> the time of that, ms; and by `keys` their markers.
        keys: Keys of their markers.
    """

    markers: dict[bytes, ErasureMarker]
    hidden: set[bytes]
    users: dict[bytes, int]
    keys: set[bytes]


def erasures_read(new: Settings, starts: Mapping[Partition, Start]) -> ErasuresRead:
    """How far the new application's workers have read the erasures; `starts` are those of the topic's partitions.

    Raises:
        IsthmusError: the broker does not say.
    """
    topic = new.topics.erasures
    tps = [TopicPartition(topic, number) for number in range(new.topics.partitions)]
    try:
        with closing(admin_client(new.kafka.bootstrap)) as admin:
            committed, ends = committed_and_end_offsets(admin, worker_group(new.application), tps)
    except KafkaError as error:
        raise IsthmusError(f"offsets at {new.kafka.bootstrap} cannot be read ({type(error).__name__})") from error
    read = {tp.partition: max(committed.get(tp, 0), starts[topic, tp.partition].offset) for tp in tps}
    return ErasuresRead(read, sum(max(0, ends[tp] - read[tp.partition]) for tp in tps))


def carry_erasures(settings: Settings, new: Settings, both: Both, read: ErasuresRead) -> None:
    """Lets the new application know the erasures that came since its backfill began and that it has not read.

    Raises:
        IsthmusError: there were some, or it has yet to read some; or its workers hide users under another key.
    """
    missing = {number: _missing(settings, both, number) for number in range(settings.topics.partitions)}
    count = sum(len(found.markers.keys() | found.keys) for found in missing.values())
    if not any(found.markers for found in missing.values()) and read.unread:
        raise IsthmusError(
            f"{new.application} has not read {read.unread} erasures yet: let its workers read them, then run this again"
        )
    if not count:
        return
    _require_same_key(settings, missing, read)
    with closing(admin_client(new.kafka.bootstrap)) as admin:
        living = members_of(admin, groups_of(new))
    if living:
        raise IsthmusError(
            f"{new.application} has not read {count} erasures, which have left their topic. Stop its workers and encoders "
            f"({', '.join(living)}), and run this again: it carries them over"
        )
    _write(settings, new, both, missing)
    raise IsthmusError(
        f"{count} erasures were carried over: start the workers and encoders of {new.application}, then run this again"
    )


def _write(settings: Settings, new: Settings, both: Both, missing: Mapping[int, _Missing]) -> None:
    """The markers come last: where this is cut off before them, the next run still misses them."""
    headers, topics = ((NATIVE_FORMAT_HEADER, b"1"),), settings.topics.model_dump()
    asyncio.run(produce(settings.kafka.bootstrap, _erasures_of(missing), topics, lambda _: None, headers))
    markers = {number: found.markers for number, found in missing.items()}
    asyncio.run(write_markers(new, markers, {number: both.new.term(number) + 1 for number in missing}))


def _erasures_of(missing: Mapping[int, _Missing]) -> Iterator[InputRecord]:
    for found in missing.values():
        for user, at_ms in found.users.items():
            erasure = Erasure(user.decode(), at_ms, str(uuid4()))
            yield InputRecord("erasures", erasure.user_id, msgspec.json.encode(erasure))


def _missing(settings: Settings, both: Both, number: int) -> _Missing:
    key, now_ms = settings.step.erasure_key.get_secret_value().encode(), time.time_ns() // 1_000_000
    found = _Missing({}, set(), {}, set())
    for marker_key, marker in markers_of(both.former, number, key, now_ms):
        known = stored_marker(both.new, number, marker_key)
        merged = merged_marker(marker, known)
        if merged is not None:
            found.markers[marker_key] = merged
        if known is None:
            found.hidden.add(marker_key)
    for user, is_state in _users(both.new, number):
        marker_key = erasure_marker_key(user, key)
        covering = found.markers.get(marker_key) or (stored_marker(both.new, number, marker_key) if is_state else None)
        if covering is None or _is_expired(settings, covering, now_ms):
            continue
        if not is_state or _holds_erased(both.new, number, user, covering.erased_at):
            found.users[user] = covering.erased_at
            found.keys.add(marker_key)
    return found


def _is_expired(settings: Settings, marker: ErasureMarker, now_ms: int) -> bool:
    bound_s = settings.step.marker_retention_s
    return bound_s is not None and marker.written_at + bound_s * 1_000 <= now_ms


def _users(holdings: Holdings, number: int) -> Iterator[tuple[bytes, bool]]:
    """The users of whom there are state records, and those of whom there is a list only: a worker that ended sent it."""
    yield from ((user, True) for user in holdings.users(number))
    for user, _ in holdings.items(LISTS, number):
        if holdings.states(number, [head_key(user)]) == [None]:
            yield user, False


def _holds_erased(new: Holdings, number: int, user: bytes, erased_at: int) -> bool:
    """Whether the new application's states hold anything of a user that an erasure covers."""
    try:
        head, _, feedback = new.known(number, user)
    except StatesUnreadableError:
        return False  # its workers refuse it too
    is_there = new.states(number, [head_key(user)]) != [None]
    has_marks = bool(feedback.marks) and feedback.marks[0].at_ms <= erased_at
    return has_marks or (is_there and (head.erased_at == NEVER_ERASED or head.erased_at < erased_at))


def _require_same_key(settings: Settings, missing: Mapping[int, _Missing], read: ErasuresRead) -> None:
    """Raises IsthmusError if the new application has read an erasure of which it has no marker under our key."""
    key, hidden = settings.step.erasure_key.get_secret_value().encode(), {one for found in missing.values() for one in found.hidden}
    with open_topic_reader(settings.kafka.bootstrap) as reader:
        records = readable(reader.records(settings.topics.erasures))
        users = {one.key for one in records if one.key and one.offset < read.committed.get(one.partition, 0)}
    if any(erasure_marker_key(user, key) in hidden for user in users):
        raise IsthmusError(
            "the new application has read erasures and keeps no markers of them under step.erasure_key: its workers have another. "
            "Start the backfill again under another name, with the same key"
        )
