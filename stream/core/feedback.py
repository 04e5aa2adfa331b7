"""What was shown to a user and how he answered: a state record of its own, which clicks and calls never read.

It holds *marks*: one per item of a feedback event, under an identity that repetitions share. What is kept follows from the set of
marks: the newest 32 items by event time, and of their marks the newest, at least each item's last of every kind that counts. The
record stays below 1 kB, so an impression, the most frequent event of all, costs one small read and write.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from typing import Final, NamedTuple, get_args

import msgspec

from stream.core import limits
from stream.core.events import Feedback, FeedbackAction
from stream.core.outputs import Shown

VERSION: Final = 1
ACTIONS: Final[tuple[FeedbackAction, ...]] = get_args(FeedbackAction)
SHOWN, SELECTED, ACCEPTED, REJECTED, DISMISSED = range(len(ACTIONS))
"""Numbers of the actions in a stored state: they never change."""
OTHER: Final = "other"
"""Label of placements and channels that no setting declares."""
CHANNELS: Final = ("web", "app", "email", "phone", "branch")
"""Declared unless a setting declares others."""
_PROTECTED: Final = frozenset({SHOWN, ACCEPTED, REJECTED})
"""Actions whose last mark is kept for as long as its item."""
_ITEM_BYTES: Final = 8
_ID_BYTES: Final = 4
_NONE: Final = -1
_PACKED: Final = struct.Struct(f"<6s{_ID_BYTES}sBBBB")
_ACTION_BITS: Final = 3  # the item's index has the other 5 bits of its byte
_VERSION_BITS: Final = 3  # the channel has the other 5
_MOST: Final = 255
_encode_id: Final = msgspec.msgpack.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackConfig:
    """What a deployment declares of feedback.

    Attributes:
        placements: Names; a state stores them by their position, so new ones go to the end.
        channels: Likewise.
        attribution_ms: A purchase counts for what was shown at most so long before it.
    """

    placements: tuple[str, ...] = ()
    channels: tuple[str, ...] = CHANNELS
    attribution_ms: int = 7 * limits.DAY_MS


class Mark(NamedTuple):
    """One item of a feedback event. Marks are compared field by field, so that their order is total; the id decides last.

    Attributes:
        at_ms: Event time.
        item: Hash of the item id.
        action: Position in `ACTIONS`.
        rank: Its place among the items shown, from 1; 0: none.
        placement: From 1 in the order of the settings; 0: another, or none.
        channel: Likewise.
        model_version: "": not given, too long to be kept, or no longer kept.
        hashed_id: Hash of the rest of its identity.
    """

    at_ms: int
    item: bytes
    action: int
    rank: int
    placement: int
    channel: int
    model_version: str
    hashed_id: bytes

    @property
    def identity(self) -> tuple[bytes, int, bytes]:
        return self.item, self.action, self.hashed_id


class StoredFeedback(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A user's feedback as stored.

    Attributes:
        version: Version of the stored form.
        applied: Epoch of the topic and last offset that it contains.
        evicted_at: Time of the newest mark that has left, ms; -1: none. What is as old may be a repetition.
        items: Hashes of the items, 8 bytes each.
        older: Of each item, how many impressions have left, a byte.
        marks: In order, 14 bytes each: time, hash of the id, index of the item and action, rank, placement, channel and version.
        versions: The model versions that the marks name by their position, from 1.
        unversioned_to: As in `UserFeedback`; states written before it existed lack it.
    """

    version: int
    applied: tuple[int, int]
    evicted_at: int = _NONE
    items: bytes = b""
    older: bytes = b""
    marks: bytes = b""
    versions: tuple[str, ...] = ()
    unversioned_to: int = _NONE


class Changes(NamedTuple):
    """What adding marks has changed.

    Attributes:
        new: Marks that were not known.
        beyond: Number of marks that are older than what has left, so that nothing can be said of them.
        since_ms: Time of the oldest mark that came or moved; None: nothing has changed.
    """

    new: list[Mark]
    beyond: int
    since_ms: int | None


@dataclass(slots=True)
class UserFeedback:
    """Working copy of a user's feedback inside one step.

    Attributes:
        applied: Epoch of the topic and last offset that it contains; None: none.
        marks: In order.
        older: Item -> how many of its impressions have left.
        evicted_at: As in `StoredFeedback`.
        unversioned_to: Marks up to this time, ms, name no model version: there is room for the newest versions only.
        is_stored: Whether there is a record.
        is_changed: Whether it must be written.
    """

    applied: tuple[int, int] | None = None
    marks: list[Mark] = field(default_factory=list)
    older: dict[bytes, int] = field(default_factory=dict)
    evicted_at: int = _NONE
    unversioned_to: int = _NONE
    is_stored: bool = False
    is_changed: bool = False

    def contains(self, marks: Iterable[Mark]) -> bool:
        """Whether all marks are repetitions that change nothing."""
        known = {mark.identity: mark for mark in self.marks}
        return all(mark.identity in known and known[mark.identity] >= self._as_kept(mark) for mark in marks)

    def add(self, marks: Iterable[Mark], earliest_ms: int | None = None) -> Changes:
        """Adds marks and bounds what is kept. Of several marks of one identity, the greatest counts.

        `earliest_ms` is the earliest time that another mark of the same identity may have; None: the mark's own.
        """
        known = {mark.identity: mark for mark in self.marks}
        new, moments, beyond = list[Mark](), list[int](), 0
        for mark in map(self._as_kept, marks):
            before = known.get(mark.identity)
            if before is None and self._may_have_left(mark if earliest_ms is None else mark._replace(at_ms=earliest_ms)):
                beyond += 1
            elif before is None or before < mark:
                moments.append(mark.at_ms if before is None else before.at_ms)
                known[mark.identity] = mark
                if before is None:
                    new.append(mark)
        self.marks = sorted(known.values())
        self._bound()
        return Changes(new, beyond, min(moments, default=None))

    def erase(self, erased_at: int) -> None:
        """Forgets what happened up to a time, and of what came later how many impressions have left: they may be older."""
        self.marks = [mark for mark in self.marks if mark.at_ms > erased_at]
        self.older = {}
        if self.evicted_at <= erased_at:
            self.evicted_at = _NONE
        if self.unversioned_to <= erased_at:
            self.unversioned_to = _NONE

    def lacks_before(self, moment_ms: int) -> bool:
        """Whether marks at or after `moment_ms` may have displaced some before it, or their model versions."""
        has_lost = self.evicted_at != _NONE or self.unversioned_to != _NONE
        return has_lost and max((self.evicted_at, *(mark.at_ms for mark in self.marks))) >= moment_ms

    def last_shown(self, item: bytes, before_ms: int) -> Mark | None:
        """The newest impression of an item before a time."""
        return next(
            (mark for mark in reversed(self.marks) if (mark.item, mark.action) == (item, SHOWN) and mark.at_ms < before_ms), None
        )

    def _as_kept(self, mark: Mark) -> Mark:
        return mark._replace(model_version="") if mark.at_ms <= self.unversioned_to else mark

    def _may_have_left(self, mark: Mark) -> bool:
        """Whether an unknown mark may be a repetition of one that has left.

        Not all that is older than `evicted_at` may: each item's last marks leave with the item, and items leave in the order of
        their newest marks. What would be such a mark was never here.
        """
        if mark.at_ms > self.evicted_at:
            return False
        if mark.action not in _PROTECTED or not self.marks:
            return True
        own = [kept for kept in self.marks if kept.item == mark.item]
        if not own:
            return mark < min({kept.item: kept for kept in self.marks}.values())
        return mark < own[0] or any(kept.action == mark.action and kept > mark for kept in own)

    def _bound(self) -> None:
        newest = {mark.item: mark for mark in self.marks}
        if len(newest) > limits.FEEDBACK_ITEMS:
            kept = {mark.item for mark in sorted(newest.values())[-limits.FEEDBACK_ITEMS :]}
            self._evict([mark for mark in self.marks if mark.item not in kept])
        surplus = len(self.marks) - limits.FEEDBACK_MARKS
        if surplus > 0:
            protected = set({(mark.item, mark.action): mark for mark in self.marks if mark.action in _PROTECTED}.values())
            self._evict([mark for mark in self.marks if mark not in protected][:surplus])
        while len(self.marks) > limits.FEEDBACK_MARKS:
            oldest = min({mark.item: mark for mark in self.marks}.values())
            self._evict([mark for mark in self.marks if mark.item == oldest.item])
        self._bound_versions()

    def _bound_versions(self) -> None:
        """Keeps the newest versions. Up to the last mark of a further one, all are forgotten, in any order of arrival."""
        newest = {mark.model_version: mark.at_ms for mark in self.marks if mark.model_version}
        if len(newest) > limits.FEEDBACK_VERSIONS:
            self.unversioned_to = sorted(newest.values(), reverse=True)[limits.FEEDBACK_VERSIONS]
            self.marks = sorted(map(self._as_kept, self.marks))

    def _evict(self, evicted: Sequence[Mark]) -> None:
        gone = set(evicted)
        self.marks = [mark for mark in self.marks if mark not in gone]
        self.evicted_at = max((self.evicted_at, *(mark.at_ms for mark in evicted)))
        items = {mark.item for mark in self.marks}
        for mark in evicted:
            if mark.action == SHOWN:
                self.older[mark.item] = min(self.older.get(mark.item, 0) + 1, _MOST)
        self.older = {item: count for item, count in self.older.items() if item in items}


def hash_item(item: str) -> bytes:
    """An item as a user's feedback keeps it."""
    return blake2b(item.encode(), digest_size=_ITEM_BYTES).digest()


def number_of(name: str | None, declared: Sequence[str]) -> int:
    """The stored number of a placement or channel."""
    return declared.index(name) + 1 if name in declared else 0


def name_of(number: int, declared: Sequence[str]) -> str:
    return declared[number - 1] if 0 < number <= len(declared) else OTHER


def marks_of(event: Feedback, at_ms: int, config: FeedbackConfig) -> list[Mark]:
    """The marks of an event, one per item. Only what was shown has a rank: the other actions may name any item of the list."""
    action = ACTIONS.index(event.action)
    version = event.model_version or ""
    labels = (
        number_of(event.placement, config.placements),
        number_of(event.channel, config.channels),
        version if len(version.encode()) <= limits.FEEDBACK_VERSION_BYTES else "",
    )
    hashed_id = _hashed_id(event, at_ms)
    items = list(dict.fromkeys(event.items))
    ranks = range(1, len(items) + 1) if action == SHOWN else [0] * len(items)
    return [Mark(at_ms, hash_item(item), action, rank, *labels, hashed_id) for item, rank in zip(items, ranks, strict=True)]


def earliest_repetition(event: Feedback, at_ms: int) -> int:
    """The earliest time that a repetition of an event may have, ms: without an id, the start of its minute."""
    return at_ms if event.event_id is not None else at_ms - at_ms % limits.MINUTE_MS


def _hashed_id(event: Feedback, at_ms: int) -> bytes:
    """Of the event's id and time. Without an id: of list, placement and minute, so that an impression counts once a minute."""
    if event.event_id is not None:
        name: tuple[object, ...] = (event.event_id, at_ms)
    else:
        name = (event.recommendation_id, event.placement, at_ms // limits.MINUTE_MS, None)
    return blake2b(_encode_id(name), digest_size=_ID_BYTES).digest()


def shown_before(feedback: UserFeedback, moment_ms: int, config: FeedbackConfig) -> tuple[Shown, ...]:
    """What a user was shown before a time, in order of the last impression of each item."""
    shown = [mark for mark in feedback.marks if mark.action == SHOWN and mark.at_ms < moment_ms]
    last = sorted({mark.item: mark for mark in shown}.values())
    return tuple(
        Shown(
            item=mark.item,
            occurred_at=mark.at_ms,
            times=sum(other.item == mark.item for other in shown) + feedback.older.get(mark.item, 0),
            rank=mark.rank,
            placement=name_of(mark.placement, config.placements),
            channel=name_of(mark.channel, config.channels),
            model_version=mark.model_version,
        )
        for mark in last
    )


def encode_feedback(feedback: UserFeedback) -> bytes:
    """Raises ValueError without `applied`."""
    if feedback.applied is None:
        raise ValueError("feedback without an applied offset")
    items = sorted({mark.item for mark in feedback.marks})
    index = {item: number for number, item in enumerate(items)}
    versions = tuple(sorted({mark.model_version for mark in feedback.marks} - {""}))
    return _encode(
        StoredFeedback(
            VERSION,
            feedback.applied,
            feedback.evicted_at,
            b"".join(items),
            bytes(feedback.older.get(item, 0) for item in items) if feedback.older else b"",
            b"".join([_pack(mark, index[mark.item], versions) for mark in feedback.marks]),
            versions,
            feedback.unversioned_to,
        )
    )


def _pack(mark: Mark, item: int, versions: Sequence[str]) -> bytes:
    return _PACKED.pack(
        mark.at_ms.to_bytes(6, "little"),
        mark.hashed_id,
        item << _ACTION_BITS | mark.action,
        min(mark.rank, _MOST),
        mark.placement,
        mark.channel << _VERSION_BITS | number_of(mark.model_version, versions),
    )


_encode: Final = msgspec.msgpack.Encoder().encode
UNREADABLE: Final = (msgspec.MsgspecError, struct.error, IndexError)
_decode: Final = msgspec.msgpack.Decoder(StoredFeedback).decode


def decode_feedback(stored: bytes) -> UserFeedback:
    """Raises one of `UNREADABLE` for what cannot be read."""
    kept = _decode(stored)
    items = [kept.items[start : start + _ITEM_BYTES] for start in range(0, len(kept.items), _ITEM_BYTES)]
    marks = list(_unpack(kept, items))
    if any(later <= earlier for earlier, later in pairwise(marks)):
        marks.sort()
    older = {item: count for item, count in zip(items, kept.older, strict=False) if count}
    return UserFeedback(kept.applied, marks, older, kept.evicted_at, kept.unversioned_to, is_stored=True)


def _unpack(kept: StoredFeedback, items: Sequence[bytes]) -> Iterator[Mark]:
    for at, hashed_id, item_and_action, rank, placement, channel_and_version in _PACKED.iter_unpack(kept.marks):
        version = channel_and_version % (1 << _VERSION_BITS)
        yield Mark(
            int.from_bytes(at, "little"),
            items[item_and_action >> _ACTION_BITS],
            item_and_action % (1 << _ACTION_BITS),
            rank,
            placement,
            channel_and_version >> _VERSION_BITS,
            kept.versions[version - 1] if version else "",
            hashed_id,
        )
