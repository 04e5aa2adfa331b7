"""The switch to a new application: its lists must know all that those of the former one know, and its erasures too."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import closing, contextmanager
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import msgspec

from stream.core.events import NATIVE_FORMAT_HEADER, Erasure
from stream.core.state import (
    ERASURE_MARKER_PREFIX,
    ErasureMarker,
    Head,
    decode_erasure_marker,
    decode_head,
    erasure_marker_key,
    head_key,
)
from stream.core.succession import Succession, is_marker_newer, succession
from stream.core.unreadable import readable
from stream.errors import IsthmusError
from stream.kafka.cluster.backfill_note import Phase, read_backfill, write_backfill
from stream.kafka.cluster.group_reset import members_of
from stream.kafka.cluster.owners import require_access
from stream.kafka.cluster.producer import InputRecord, produce
from stream.kafka.cluster.rights import Process
from stream.kafka.cluster.topic_reader import open_topic_reader
from stream.kafka.cluster.topics import admin_client
from stream.services.backfill.start import unread, write_markers
from stream.services.backfill.successor import successor_of, with_past
from stream.services.reset.holdings import LISTS, STATES, Holdings
from stream.services.reset.reset import groups_of
from stream.services.reset.target import find_target
from stream.services.reset.verdict import readable_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stream.settings import Settings


class Switched(NamedTuple):
    """A switch that may be made: the new application's settings, and over how many users it was checked."""

    new: Settings
    users: int
    lost: int


class _Both(NamedTuple):
    """What the former and the new application hold."""

    former: Holdings
    new: Holdings


def switch(settings: Settings, name: str, step: Callable[[str], None], *, lose_history: bool) -> Switched:
    """Checks that the application `name` may replace the running one, over all users, and ends its backfill.

    Raises:
        IsthmusError: it may not yet, with what to do; nothing has changed, or only erasures were carried over.
    """
    new = successor_of(settings, name)
    step("checking topics and rights")
    require_access(Process.BACKFILL, settings, name)
    note = read_backfill(settings, name)
    if note is None or note.phase is not Phase.READY:
        raise IsthmusError(
            f"the backfill of {name} is not ready: run `isthmus backfill start {name}`, with its files, until it ends"
        )
    if living := _members(settings):
        lines = [f"{one} lives" for one in living]
        raise IsthmusError("\n".join([*lines, f"stop the workers and encoders of {settings.application}, so that its lists stay"]))
    if left := unread(with_past(new)) if note.files else 0:
        raise IsthmusError(f"{name} has not read {left} records of the past: run `isthmus backfill start {name}` again")
    with _holdings(settings, new, step) as both:
        _require_caught_up(settings, name, both)
        step("comparing erasures")
        _carry_erasures(settings, new, both)
        step("comparing the lists of all users")
        found = _compare(settings, both)
    _require_no_loss(found, name, lose_history=lose_history)
    write_backfill(settings, name, None)
    return Switched(new, found.total(), found[Succession.LOST])


def _members(settings: Settings) -> list[str]:
    with closing(admin_client(settings.kafka.bootstrap)) as admin:
        return members_of(admin, groups_of(settings))


@contextmanager
def _holdings(settings: Settings, new: Settings, step: Callable[[str], None]) -> Iterator[_Both]:
    with TemporaryDirectory(prefix="isthmus-backfill-") as folder:
        former, other = Holdings(f"{folder}/former", settings), Holdings(f"{folder}/new", new)
        with closing(former), closing(other), open_topic_reader(settings.kafka.bootstrap) as reader:
            former.read_on(reader, step)
            other.read_on(reader, step)
            yield _Both(former, other)


def _require_caught_up(settings: Settings, name: str, both: _Both) -> None:
    """Raises IsthmusError unless the new application has read all that the former one has, as far as the inputs hold it."""
    starts, left = find_target(settings, None).starts, 0
    for number in range(settings.topics.partitions):
        theirs = both.new.watermarks(number)
        for topic, ours in both.former.watermarks(number).items():
            if (topic, number) in starts and topic != settings.topics.encoded_calls:
                other = theirs.get(topic)
                read = other.offset if other is not None and other.epoch == ours.epoch else -1
                left += max(0, ours.offset - max(read, starts[topic, number].offset - 1))
    if left:
        raise IsthmusError(
            f"{name} is {left} records behind {settings.application}: let its workers read them, then run this again"
        )


def _carry_erasures(settings: Settings, new: Settings, both: _Both) -> None:
    """Lets the new application know the erasures that came since its backfill began and that it has not read.

    Raises:
        IsthmusError: there were some; or its workers hide users under another key.
    """
    missing = {number: _missing_markers(both, number) for number in range(settings.topics.partitions)}
    count = sum(map(len, missing.values()))
    if not count:
        return
    _require_same_key(settings, missing)
    if living := _members(new):
        raise IsthmusError(
            f"{new.application} has not read {count} erasures, which have left their topic. Stop its workers and encoders "
            f"({', '.join(living)}), and run this again: it carries them over"
        )
    erasures = list(_erasures_of(settings, both, missing))
    headers, topics = ((NATIVE_FORMAT_HEADER, b"1"),), settings.topics.model_dump()
    # The markers come last: where this is cut off before them, the next run still misses them.
    asyncio.run(produce(settings.kafka.bootstrap, erasures, topics, lambda _: None, headers))
    asyncio.run(write_markers(new, missing, {number: both.new.term(number) + 1 for number in missing}))
    raise IsthmusError(
        f"{count} erasures were carried over: start the workers and encoders of {new.application}, then run this again"
    )


def _missing_markers(both: _Both, number: int) -> dict[bytes, bytes]:
    found = {}
    for key, value in both.former.items(STATES, number, ERASURE_MARKER_PREFIX):
        (other,) = both.new.states(number, [key])
        if is_marker_newer(decode_erasure_marker(value), None if other is None else decode_erasure_marker(other)):
            found[key] = value
    return found


def _require_same_key(settings: Settings, missing: dict[int, dict[bytes, bytes]]) -> None:
    """Raises IsthmusError if the new application has read an erasure whose marker it does not have under our key."""
    key, hidden = settings.step.erasure_key.get_secret_value().encode(), {one for found in missing.values() for one in found}
    with open_topic_reader(settings.kafka.bootstrap) as reader:
        users = {record.key for record in readable(reader.records(settings.topics.erasures)) if record.key}
    if any(erasure_marker_key(user, key) in hidden for user in users):
        raise IsthmusError(
            "the new application has read erasures and keeps no markers of them under step.erasure_key: its workers have another. "
            "Start the backfill again under another name, with the same key"
        )


def _erasures_of(settings: Settings, both: _Both, missing: dict[int, dict[bytes, bytes]]) -> Iterator[InputRecord]:
    """An erasure for each user whom the new application still has."""
    key = settings.step.erasure_key.get_secret_value().encode()
    for number, markers in missing.items():
        for user, stored in both.new.heads(number):
            marker = markers.get(erasure_marker_key(user, key))
            if marker is not None and decode_head(stored).erased_at < (at := decode_erasure_marker(marker).erased_at):
                erasure = Erasure(user.decode(), at, str(uuid4()))
                yield InputRecord("erasures", erasure.user_id, msgspec.json.encode(erasure))


def _compare(settings: Settings, both: _Both) -> Counter[Succession]:
    """How the lists of all users of the former application compare."""
    target, key = find_target(settings, None), settings.step.erasure_key.get_secret_value().encode()
    found = Counter[Succession]()
    for number in range(settings.topics.partitions):
        places = target.places(number, both.former.watermarks(number))
        for user, _ in both.former.items(LISTS, number):
            former = _head_of(both.former, number, user)
            if former is None:
                continue
            (stored,) = both.new.states(number, [erasure_marker_key(user, key)])
            marker: ErasureMarker | None = None if stored is None else decode_erasure_marker(stored)
            found[succession(former, _head_of(both.new, number, user), marker, places)] += 1
    return found


def _head_of(holdings: Holdings, number: int, user: bytes) -> Head | None:
    (stored,) = holdings.states(number, [head_key(user)])
    return None if stored is None else readable_head(stored)


def _require_no_loss(found: Counter[Succession], name: str, *, lose_history: bool) -> None:
    if behind := found[Succession.BEHIND]:
        raise IsthmusError(
            f"{behind} of {found.total()} users would get lists with older applied offsets than they have: {name} lacks events "
            "that the inputs hold. Let its encoders catch up, or look at its dead letters and settings"
        )
    if found[Succession.LOST] and not lose_history:
        raise IsthmusError(
            f"{found[Succession.LOST]} of {found.total()} users would get lists that know less: their newest events have left the "
            "inputs, and no file held them. Start again with files that hold them, or go on with --lose-history"
        )
