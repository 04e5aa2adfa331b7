"""Whether a user's state in a new application may replace the one in the former: it must not know less.

What the inputs hold, the new application reads as its settings say, so there the applied offsets count. What has left the inputs is
compared event by event, as far as the states keep events.
"""

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from enum import StrEnum
from typing import Final, NamedTuple, TypeVar

from stream.core import limits
from stream.core.events import Source
from stream.core.feedback import UserFeedback
from stream.core.interactions import Part, unpack_time
from stream.core.kept_interactions import KeptConversation, KeptInteraction, KeptSession
from stream.core.reset import Loss, Place, Places, newest_actions
from stream.core.state import NEVER_ERASED, SOURCE_NUMBERS, ErasureMarker, Facts, Head, KeptPurchase

_CAUSING: Final = (Source.CLICK, Source.CALL, Source.PURCHASE, Source.ELIGIBILITY)
_NONE: Final = -1  # as `Evicted.newest_ended_at`
_NEVER: Final = -(2**63)
AnyKept = TypeVar("AnyKept", bound=KeptInteraction)


class Succession(StrEnum):
    """How a user's new state compares with the former."""

    NEWER = "newer"
    BEHIND = "behind"
    LOST = "lost"


class Known(NamedTuple):
    """What an application knows of a user; a record that is not there is blank."""

    head: Head
    facts: Facts
    feedback: UserFeedback


class Compared(NamedTuple):
    """How a user's new state compares with the former, and what it lacks."""

    kind: Succession
    loss: Loss


class _Needed:
    """Which events that the former application knows the new one must know.

    Args:
        former: The user in the former application.
        places: What the inputs hold.
        covered_ms: What was up to then, an erasure covers; None: nothing.
        max_ahead_ms: An event is at most so far ahead of its Kafka timestamp.
        gone: Whether those count that may have left the inputs.
        held: Whether the others do.
    """

    def __init__(
        self, former: Known, places: Places, covered_ms: int | None, max_ahead_ms: int, *, gone: bool = True, held: bool = True
    ) -> None:
        self._applied = {source: former.head.applied.get(SOURCE_NUMBERS[source]) for source in Source}
        self._applied[Source.FEEDBACK] = former.feedback.applied
        self._places = places
        self._covered_ms = covered_ms
        self._max_ahead_ms = max_ahead_ms
        self._gone = gone
        self._held = held

    def has(self, source: Source, at_ms: int, began_ms: int | None = None) -> bool:
        """Whether an event is one of them; it began at `began_ms`, unless that is its time."""
        if self._covered_ms is not None and (at_ms if began_ms is None else began_ms) <= self._covered_ms:
            return False
        return self._gone if self._places[source].lacks(at_ms - self._max_ahead_ms, self._applied[source]) else self._held


class Erased(NamedTuple):
    """Up to when a user is erased, ms.

    Attributes:
        new_ms: In the new application, which notes no offset of an event that it leaves out.
        both_ms: In the former one too; None: it knows of none. What the new one alone erased is a loss.
    """

    new_ms: int
    both_ms: int | None


def compare(former: Known, new: Known, erased: Erased | None, places: Places, max_ahead_ms: int) -> Compared:
    """Compares what two applications know of a user: by applied offsets, where the inputs hold the former's last events, and for
    the rest, or all after an erasure, event by event.

    Args:
        former: The user in the former application.
        new: The user in the new one.
        erased: None: never, in the new one.
        places: What the inputs hold.
        max_ahead_ms: An event is at most so far ahead of its Kafka timestamp.
    """
    covered_ms = None if erased is None else erased.both_ms
    loss = _loss_between(former, new, _Needed(former, places, covered_ms, max_ahead_ms, held=erased is not None))
    is_behind = any(_is_behind(former.head, new.head, source, places[source]) for source in _CAUSING)
    if is_behind and erased is not None:
        is_behind = any(_loss_between(former, new, _Needed(former, places, erased.new_ms, max_ahead_ms, gone=False)))
    if is_behind:
        return Compared(Succession.BEHIND, loss)
    newest_at = former.head.newest_at
    is_older = new.head.newest_at < newest_at and (covered_ms is None or newest_at > covered_ms)
    return Compared(Succession.LOST if is_older or any(loss) else Succession.NEWER, loss)


def _is_behind(former: Head, new: Head, source: Source, place: Place) -> bool:
    applied = former.applied.get(SOURCE_NUMBERS[source])
    if applied is None or not place.holds(applied):
        return False
    epoch, offset = new.applied.get(SOURCE_NUMBERS[source], (-1, -1))
    return epoch not in {place.epoch, applied[0]} or offset < applied[1]


def erased_in(former: Known, former_marker: ErasureMarker | None, new_marker: ErasureMarker | None) -> Erased | None:
    """Up to when a user is erased, by the markers of both applications."""
    if new_marker is None:
        return None
    known = [former.head.erased_at] if former.head.erased_at != NEVER_ERASED else []
    known += [former_marker.erased_at] if former_marker is not None else []
    return Erased(new_marker.erased_at, min(new_marker.erased_at, max(known)) if known else None)


def _loss_between(former: Known, new: Known, needed: _Needed) -> Loss:
    """What the former application knows of a user and the new one does not, although it is not known to have less room for it."""
    return Loss(
        _lacks_clicks(former, new, needed)
        or _lacks_parts(former, new, needed)
        or _lacks_purchases(former.facts, new.facts, needed),
        _lacks_actions(former.facts, new.facts, needed),
        _lacks_eligibility(former.facts, new.facts, needed),
        _lacks_marks(former.feedback, new.feedback, needed),
    )


def has_twice(former: Known, new: Known) -> bool:
    """Whether the new application counts an event more often than the former one, under another id. Those that the former does not
    keep are not judged.
    """
    once = Counter(_contents(former))
    return any(count > once[one] > 0 for one, count in Counter(_contents(new)).items())


def _contents(known: Known) -> Iterator[Hashable]:
    """Clicks, parts of calls and bought or cancelled items, without their ids."""
    yield from (click for session in _kept(known, KeptSession) for click in session.clicks())
    calls = _kept(known, KeptConversation)
    yield from ((call.conversation_id, part.started_at, part.ended_at) for call in calls for part in call.parts)
    yield from _bought(known.facts.purchases)


def _lacks_clicks(former: Known, new: Known, needed: _Needed) -> bool:
    """By their times: id and tags are what the settings make of a record."""
    sessions = _kept(new, KeptSession)
    missing = Counter(at_ms for at_ms in _click_times(_kept(former, KeptSession)) if needed.has(Source.CLICK, at_ms))
    missing.subtract(_click_times(sessions))
    return any(
        not _may_be_evicted(at_ms, new) and not any(_may_have_displaced(session, at_ms) for session in sessions)
        for at_ms, count in missing.items()
        if count > 0
    )


def _click_times(sessions: Iterable[KeptSession]) -> list[int]:
    return [at_ms for session in sessions for at_ms, _ in session.clicks()]


def _may_have_displaced(session: KeptSession, at_ms: int) -> bool:
    """Whether a full session may have held a click that later ones displaced."""
    return session.click_count == limits.CLICKS and session.started_at <= at_ms <= unpack_time(session.times)


def _lacks_parts(former: Known, new: Known, needed: _Needed) -> bool:
    """By their times, or by identity where a newer one replaced it."""
    calls = {call.conversation_id: call for call in _kept(new, KeptConversation)}
    return any(
        needed.has(Source.CALL, part.ended_at, part.started_at)
        and not _may_be_evicted(part.ended_at, new)
        and not (call.conversation_id in calls and _holds_part(calls[call.conversation_id], part, hashed_id))
        for call in _kept(former, KeptConversation)
        for part, hashed_id in call.identified_parts()
    )


def _holds_part(call: KeptConversation, part: Part, hashed_id: bytes) -> bool:
    """Whether a call holds a part, or may have displaced it."""
    times = part.started_at, part.ended_at
    same = call.part_of(hashed_id)
    is_there = any((one.started_at, one.ended_at) == times for one in call.parts)
    if is_there or (same is not None and (same.started_at, same.ended_at) >= times):
        return True
    return call.displaced_at is not None and call.displaced_at <= part.ended_at <= call.parts[0].ended_at


def _kept(known: Known, kind: type[AnyKept]) -> list[AnyKept]:
    return [one for one in (*known.facts.interactions, *known.head.tail) if isinstance(one, kind)]


def _may_be_evicted(at_ms: int, new: Known) -> bool:
    return at_ms <= new.facts.evicted.newest_ended_at != _NONE


def _lacks_purchases(former: Facts, new: Facts, needed: _Needed) -> bool:
    """By time, kind and items: the id of one without any differs where it came another way."""
    wanted = Counter(_bought(one for one in former.purchases if needed.has(Source.PURCHASE, one.occurred_at)))
    missing = wanted - Counter(_bought(new.purchases))
    is_full = len(new.purchases) == limits.PURCHASES
    return any(not (is_full and at_ms <= new.purchases[0].occurred_at) for at_ms, _, _ in missing)


def _bought(purchases: Iterable[KeptPurchase]) -> list[tuple[int, bool, str]]:
    return [(one.occurred_at, one.bought, item) for one in purchases for item in one.items]


def _lacks_actions(former: Facts, new: Facts, needed: _Needed) -> bool:
    """Of an item that was bought or cancelled, the newest action counts."""
    known, is_full = newest_actions(new), len(new.owned_before) >= limits.OWNED
    oldest = min((at_ms for at_ms, _ in new.owned_before.values()), default=0)
    return any(
        needed.has(Source.PURCHASE, at_ms) and known.get(item, _NEVER) < at_ms and not (is_full and at_ms <= oldest)
        for item, at_ms in newest_actions(former).items()
    )


def _lacks_eligibility(former: Facts, new: Facts, needed: _Needed) -> bool:
    """Also an empty list: without it, an older one holds."""
    known = {one.occurred_at: set(one.excluded) for one in new.eligibility}
    is_full = len(known) >= limits.ELIGIBILITY_LISTS
    return any(
        needed.has(Source.ELIGIBILITY, one.occurred_at)
        and not (one.occurred_at in known and set(one.excluded) <= known[one.occurred_at])
        and not (is_full and one.occurred_at < min(known))
        for one in former.eligibility
    )


def _lacks_marks(former: UserFeedback, new: UserFeedback, needed: _Needed) -> bool:
    known = {mark.identity: mark.at_ms for mark in new.marks}
    return any(
        needed.has(Source.FEEDBACK, mark.at_ms) and known.get(mark.identity, _NEVER) < mark.at_ms and mark.at_ms > new.evicted_at
        for mark in former.marks
    )
