"""What a reset of an application loses, and which of its outputs the inputs give again.

An application forgets its states and reads its inputs again from a place in each. What came before that place is lost, unless the
place is the first one that the topic ever had. What cannot be told for certain counts as lost, or as not given again: an output
that is deleted too early comes again with the inputs, and one that stays too long would stay for ever.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from stream.core.events import Source
from stream.core.feedback import UserFeedback
from stream.core.interactions import Session
from stream.core.known_erasures import joined_ids, split_ids
from stream.core.outputs import TrainingExample
from stream.core.records import Boundaries, epoch_at
from stream.core.state import (
    NEVER_ERASED,
    SOURCE_NUMBERS,
    VERSION,
    ErasureMarker,
    Facts,
    Head,
)

NO_RECORD_MS: Final = 2**63 - 1
"""As `first_ms`: everything is older."""
_CAUSING: Final = (Source.CLICK, Source.CALL, Source.PURCHASE, Source.ELIGIBILITY)
"""Inputs of which every applied event causes a list."""


class Place(NamedTuple):
    """Where an input of a partition number is read again; of calls, their transcripts.

    Attributes:
        epoch: Of the topic.
        offset: The first offset that is read.
        first_ms: Kafka timestamp of the first record from there on, ms; `NO_RECORD_MS`: there is none.
        boundaries: Where the partition was cut.
    """

    epoch: int
    offset: int
    first_ms: int
    boundaries: Boundaries = ()

    def holds(self, applied: tuple[int, int] | None) -> bool:
        """Whether the last event that a state contains, by epoch and offset, is read again."""
        if applied is None:
            return False
        epoch, offset = applied
        return offset >= self.offset and epoch == epoch_at(offset, self.epoch, self.boundaries)

    def lacks(self, at_ms: int, applied: tuple[int, int] | None) -> bool:
        """Whether an event of that time, in a state with these applied offsets, is older than what is read again."""
        is_whole = self.offset == 0 and (applied is None or self.holds(applied))
        return not is_whole and at_ms < self.first_ms


Places = Mapping[Source, Place]


class Loss(NamedTuple):
    """What of a user is from before the places, and so is lost."""

    history: bool = False
    owned: bool = False
    eligibility: bool = False
    feedback: bool = False


def loss_of(head: Head, facts: Facts, feedback: UserFeedback, places: Places, max_ahead_ms: int) -> Loss:
    """What of a user a reset loses. An event is at most `max_ahead_ms` ahead of its Kafka timestamp."""

    def lacks(source: Source, at_ms: int) -> bool:
        applied = feedback.applied if source is Source.FEEDBACK else head.applied.get(SOURCE_NUMBERS[source])
        return places[source].lacks(at_ms - max_ahead_ms, applied)

    sources = ((Source.CLICK if isinstance(one, Session) else Source.CALL, one) for one in (*facts.interactions, *head.tail))
    lists = facts.eligibility
    return Loss(
        any(lacks(source, one.started_at) for source, one in sources),
        any(lacks(Source.PURCHASE, at_ms) for at_ms in newest_actions(facts).values()),
        bool(lists) and lacks(Source.ELIGIBILITY, lists[-1].occurred_at),
        any(lacks(Source.FEEDBACK, mark.at_ms) for mark in feedback.marks),
    )


def newest_actions(facts: Facts) -> dict[str, int]:
    """Item -> time of its newest action, ms. A cancellation is one: without it, a purchase that comes late would count again."""
    found = {item: at_ms for item, (at_ms, _) in facts.owned_before.items()}
    for purchase in facts.purchases:
        found.update((item, max(purchase.occurred_at, found.get(item, purchase.occurred_at))) for item in purchase.items)
    return found


def gives_list(head: Head, places: Places) -> bool:
    """Whether the inputs give a user's list again: an event that caused one is read again. Of an erased user, events may be left
    out, so that it is not certain.
    """
    applied = ((source, head.applied.get(SOURCE_NUMBERS[source])) for source in _CAUSING)
    return head.erased_at == NEVER_ERASED and any(places[source].holds(one) for source, one in applied)


def gives_example(example: TrainingExample, places: Places, max_ahead_ms: int) -> bool:
    """Whether the inputs certainly give an example again: its purchase is read again, and an interaction that it shows.

    An event is at most `max_ahead_ms` ahead of its Kafka timestamp.
    """

    def is_read(source: Source, at_ms: int) -> bool:
        return at_ms >= places[source].first_ms + max_ahead_ms

    shown = ((Source.CLICK if isinstance(one, Session) else Source.CALL, one.started_at) for one in example.interactions)
    return is_read(Source.PURCHASE, example.occurred_at) and any(is_read(source, at_ms) for source, at_ms in shown)


def marker_of(head: Head, stored: ErasureMarker | None, now_ms: int) -> ErasureMarker | None:
    """The erasure marker that a user who was erased and came back should have; None: it is there. 0.1.0 left some without."""
    if head.erased_at == NEVER_ERASED or (stored is not None and stored.erased_at >= head.erased_at):
        return None
    return ErasureMarker(VERSION, head.erased_at, now_ms, {}, b"" if stored is None else stored.erasure_ids)


def merged_marker(former: ErasureMarker, new: ErasureMarker | None) -> ErasureMarker | None:
    """The marker that lets a new application know of an erasure what the former one does; None: it knows it."""
    if new is None:
        return msgspec.structs.replace(former, applied={})
    ids = joined_ids(former.erasure_ids, new.erasure_ids)
    if former.erased_at <= new.erased_at and set(split_ids(ids)) <= set(split_ids(new.erasure_ids)):
        return None
    erased_at, written_at = max(former.erased_at, new.erased_at), max(former.written_at, new.written_at)
    return ErasureMarker(VERSION, erased_at, written_at, new.applied, ids)
