"""The switch to a new application: its lists must know all that those of the former one know, and its erasures too."""

from __future__ import annotations

from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from stream.core.state import StatesUnreadableError, erasure_marker_key
from stream.core.succession import Succession, compare, erased_in, has_twice
from stream.errors import IsthmusError
from stream.kafka.cluster.backfill_note import Phase, read_backfill, write_backfill
from stream.kafka.cluster.group_reset import members_of
from stream.kafka.cluster.owners import require_access
from stream.kafka.cluster.rights import Process
from stream.kafka.cluster.topic_reader import open_topic_reader
from stream.kafka.cluster.topics import admin_client
from stream.services.backfill.erasures import Both, carry_erasures, erasures_read
from stream.services.backfill.start import unread
from stream.services.backfill.successor import successor_of, with_past
from stream.services.reset.holdings import Holdings
from stream.services.reset.markers import stored_marker
from stream.services.reset.reset import groups_of
from stream.services.reset.target import find_target
from stream.services.reset.verdict import LOSSES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from stream.core.reset import Places
    from stream.services.reset.target import Target
    from stream.settings import Settings


class Switched(NamedTuple):
    """A switch that may be made: the new application's settings, and over how many users it was checked."""

    new: Settings
    users: int
    lost: int


class _User(NamedTuple):
    """A user of a partition number, and whether there are erasures that the former application has not read."""

    number: int
    key: bytes
    is_erased_since: bool


@dataclass
class _Compared:
    """The former application's users, how their states compare, how many lose what, and how many have events twice."""

    users: int = 0
    kinds: Counter[Succession] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)
    twice: int = 0


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
    target = find_target(settings, None)
    read = erasures_read(new, target.starts)
    with _holdings(settings, new, step) as both:
        _require_caught_up(target, name, both)
        step("comparing erasures")
        carry_erasures(settings, new, both, read)
        step("comparing what is known of all users")
        found = _compare(target, both)
    _require_no_loss(found, settings.application, name, lose_history=lose_history)
    write_backfill(settings, name, None)
    return Switched(new, found.users, found.kinds[Succession.LOST])


def _members(settings: Settings) -> list[str]:
    with closing(admin_client(settings.kafka.bootstrap)) as admin:
        return members_of(admin, groups_of(settings))


@contextmanager
def _holdings(settings: Settings, new: Settings, step: Callable[[str], None]) -> Iterator[Both]:
    with TemporaryDirectory(prefix="isthmus-backfill-") as folder:
        former, other = Holdings(f"{folder}/former", settings), Holdings(f"{folder}/new", new)
        with closing(former), closing(other), open_topic_reader(settings.kafka.bootstrap) as reader:
            former.read_on(reader, step)
            other.read_on(reader, step)
            yield Both(former, other)


def _require_caught_up(target: Target, name: str, both: Both) -> None:
    """Raises IsthmusError unless the new application has read all that the former one has, as far as the inputs hold it."""
    settings, starts, left = target.settings, target.starts, 0
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


def _compare(target: Target, both: Both) -> _Compared:
    """How what is known of all users of the former application compares."""
    found, topic = _Compared(), target.settings.topics.erasures
    with open_topic_reader(target.settings.kafka.bootstrap) as reader:
        for number in range(target.settings.topics.partitions):
            watermarks = both.former.watermarks(number)
            read_to = watermarks[topic].offset + 1 if topic in watermarks else 0
            erased_since = {record.key for record in reader.records(topic, {number: read_to})}
            places = target.places(number, watermarks)
            for user in both.former.users(number):
                _compare_one(found, target.settings, both, _User(number, user, user in erased_since), places)
    return found


def _compare_one(found: _Compared, settings: Settings, both: Both, user: _User, places: Places) -> None:
    key = erasure_marker_key(user.key, settings.step.erasure_key.get_secret_value().encode())
    former_marker, new_marker = (stored_marker(one, user.number, key) for one in both)
    found.users += 1
    try:
        former, new = (one.known(user.number, user.key) for one in both)
    except StatesUnreadableError:
        found.kinds[Succession.LOST] += 1  # what it lacks is not known
        return
    erased = erased_in(former, new_marker if user.is_erased_since else former_marker, new_marker)
    kind, loss = compare(former, new, erased, places, settings.step.max_ahead_s * 1_000)
    found.kinds[kind] += 1
    found.twice += has_twice(former, new)
    found.losses.update(name for name, is_lost in loss._asdict().items() if is_lost)


def _require_no_loss(found: _Compared, former: str, name: str, *, lose_history: bool) -> None:
    if behind := found.kinds[Succession.BEHIND]:
        raise IsthmusError(
            f"{behind} of {found.users} users would get lists with older applied offsets than they have: {name} lacks events "
            "that the inputs hold. Let its encoders catch up, or look at its dead letters and settings"
        )
    if found.twice and not lose_history:
        raise IsthmusError(
            f"{found.twice} of {found.users} users have clicks, calls or purchases twice that {former} knows once: the files give "
            "them other event_ids or times than the inputs. Start again with those of the inputs, or go on with --lose-history"
        )
    if (lost := found.kinds[Succession.LOST]) and not lose_history:
        what = (
            ", ".join(f"{found.losses[one]} {text}" for one, text in LOSSES.items() if found.losses[one]) or "their newest events"
        )
        raise IsthmusError(
            f"{lost} of {found.users} users would lose what {former} knows of them ({what}): it has left the inputs, and no file "
            f"held it. Start again with files that hold it, or go on with --lose-history"
        )
