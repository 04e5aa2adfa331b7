"""Whether a user's state in a new application may replace the one in the former."""

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from stream.core.events import Click, Eligibility, EncodedCall, Erasure, Feedback, Purchase, Source, UserEvent
from stream.core.feedback import UserFeedback, decode_feedback
from stream.core.reset import NO_RECORD_MS, Loss, Place
from stream.core.state import (
    SOURCE_NUMBERS,
    ErasureMarker,
    Facts,
    Head,
    decode_facts,
    decode_head,
    facts_key,
    feedback_key,
    head_key,
)
from stream.core.succession import Erased, Known, Succession, compare, erased_in, has_twice
from tests import world
from tests.properties.random_events import Events, outgrowing_events, random_events
from tests.world import MINUTE, NOW, Store

CLICK = SOURCE_NUMBERS[Source.CLICK]
PLACES = {source: Place(1, 5, NO_RECORD_MS) for source in Source}
"""The inputs hold the offsets from 5 on."""
GONE = {source: Place(7, 5, NO_RECORD_MS) for source in Source}
"""They hold nothing of what was applied."""


def known(head: Head) -> Known:
    return Known(head, Facts(), UserFeedback())


def user(epoch: int, offset: int, newest_at: int = 100) -> Known:
    return known(Head(applied={CLICK: (epoch, offset)}, newest_at=newest_at))


NOBODY = known(Head())


@pytest.mark.parametrize(
    ("former", "new", "found"),
    [
        (user(1, 7), user(1, 7), Succession.NEWER),
        (user(1, 7), user(1, 9), Succession.NEWER),
        (user(1, 7), user(1, 6), Succession.BEHIND),
        (user(1, 7), user(3, 9), Succession.BEHIND),
        (user(1, 7), NOBODY, Succession.BEHIND),
        (user(1, 4), user(3, 0), Succession.NEWER),
        (user(1, 4), user(3, 0, newest_at=99), Succession.LOST),
        (user(1, 4), NOBODY, Succession.LOST),
        (user(2, 7), user(3, 0), Succession.NEWER),
        (user(1, 7), user(1, 7, newest_at=99), Succession.LOST),
        (NOBODY, NOBODY, Succession.NEWER),
    ],
)
def test_a_user_must_not_know_less_in_the_new_application(former: Known, new: Known, found: Succession) -> None:
    """By offsets where the inputs hold the former's last event, and else by the newest event time: files gave it, or nothing."""
    assert compare(former, new, None, PLACES, 0).kind is found


def test_who_was_erased_meanwhile_may_know_less() -> None:
    """The erasure covers all that the former application knows."""
    for erased_at, found in ((100, Succession.NEWER), (99, Succession.LOST)):
        assert compare(user(1, 7), NOBODY, Erased(erased_at, erased_at), PLACES, 0).kind is found


def test_after_a_cut_of_the_log_the_new_application_has_the_epoch_of_the_topic() -> None:
    """It never saw the cut; the former one's epoch is the later one."""
    cut = {source: Place(1, 5, NO_RECORD_MS, ((6, 2),)) for source in Source}
    assert compare(user(2, 7), user(1, 7), None, cut, 0).kind is Succession.NEWER
    assert compare(user(2, 7), user(1, 6), None, cut, 0).kind is Succession.BEHIND


def test_both_applications_have_erased_what_their_markers_and_heads_say() -> None:
    """What the new one alone erased is a loss: a repetition of an erasure without a time may have reached further there."""
    marker, later, back = (ErasureMarker(1, at, 0, {}) for at in (50, 60, 70))
    head = known(Head(erased_at=back.erased_at))
    assert erased_in(NOBODY, marker, None) is None
    assert erased_in(NOBODY, None, marker) == Erased(50, None)
    assert erased_in(NOBODY, marker, later) == Erased(60, 50)
    assert erased_in(NOBODY, later, marker) == Erased(50, 50)
    assert erased_in(head, None, later) == Erased(60, 60)


EVENTS: list[tuple[Source, UserEvent]] = [
    (Source.CLICK, Click("u", NOW - 90 * MINUTE, ("a",), "c1")),
    (Source.CLICK, Click("u", NOW - 20 * MINUTE, ("b",), "c2")),
    (Source.CALL, world.call("call", NOW - 80 * MINUTE, NOW - 70 * MINUTE)),
    (Source.PURCHASE, Purchase("u", NOW - 60 * MINUTE, ("item-1", "item-2"), "p1")),
    (Source.PURCHASE, Purchase("u", NOW - 50 * MINUTE, ("item-1",), "p2")),
    (Source.ELIGIBILITY, Eligibility("u", NOW - 40 * MINUTE, ("item-3",))),
    (Source.FEEDBACK, Feedback("u", NOW - 30 * MINUTE, "web", "shown", ("item-4",), "f")),
]
LOSSES = (
    Loss(history=True),
    Loss(history=True),
    Loss(history=True),
    Loss(history=True, owned=True),
    Loss(history=True, owned=True),
    Loss(eligibility=True),
    Loss(feedback=True),
)


def folded(events: Sequence[tuple[Source, UserEvent]]) -> Known:
    store, offsets = Store(), dict.fromkeys(Source, -1)
    for source, event in events:
        offsets[source] += 1
        own = msgspec.structs.replace(event, origin_offset=offsets[source]) if isinstance(event, EncodedCall) else event
        world.run(store, world.batch_of(source, [(offsets[source], own)]))
    head, facts, feedback = store.get_many([head_key(b"u"), facts_key(b"u"), feedback_key(b"u")])
    return Known(
        Head() if head is None else decode_head(head),
        Facts() if facts is None else decode_facts(facts),
        UserFeedback() if feedback is None else decode_feedback(feedback),
    )


def lost(former: Known, new: Known, places: Any = GONE, erased: Erased | None = None) -> Loss:
    return compare(former, new, erased, places, 5 * MINUTE).loss


@pytest.mark.parametrize(("number", "loss"), list(enumerate(LOSSES)))
def test_each_event_that_has_left_the_inputs_must_be_known(number: int, loss: Loss) -> None:
    """Whatever newer ones the new application has; unless the inputs hold it, or an erasure covers it."""
    (source, event), others = EVENTS[number], [one for index, one in enumerate(EVENTS) if index != number]
    at = event.started_at if isinstance(event, EncodedCall) else event.occurred_at
    assert isinstance(at, int)
    former, new = folded(EVENTS), folded(others)
    assert lost(former, former) == Loss()
    assert lost(former, new) == loss
    assert lost(former, new, erased=Erased(at, at)) == Loss()
    assert lost(former, new, erased=Erased(at, at - 1)) == lost(former, new, erased=Erased(at, None)) == loss
    end = event.ended_at if isinstance(event, EncodedCall) else at
    for first_ms, found in ((end - 5 * MINUTE, Loss()), (end - 5 * MINUTE + 1, loss)):
        assert lost(former, new, {**GONE, source: Place(1, 5, first_ms)}) == found
    assert lost(former, new, {**GONE, source: Place(1, 0, NO_RECORD_MS)}) == Loss()


def test_an_empty_eligibility_list_must_be_known_too() -> None:
    """Without it, the older list holds."""
    older, empty = (Eligibility("u", NOW - minutes * MINUTE, items) for minutes, items in ((40, ("item-3",)), (30, ())))
    former, new = (folded([(Source.ELIGIBILITY, one) for one in lists]) for lists in ((older, empty), (older,)))
    assert not former.head.excluded
    assert set(new.head.excluded) == {"item-3"}
    assert lost(former, new) == Loss(eligibility=True)


def _known_by_topic(events: Events, rng: np.random.Generator) -> list[tuple[Source, UserEvent]]:
    """Without erasures, in any order between topics."""
    topics = {source: list(found) for source, found in events.items() if found and source is not Source.ERASURE}
    taken: list[tuple[Source, UserEvent]] = []
    while topics:
        source = list(topics)[int(rng.integers(len(topics)))]
        taken.append((source, topics[source].pop(0)))
        topics = {other: left for other, left in topics.items() if left}
    return taken


@pytest.mark.parametrize("seed", range(60))
def test_nothing_is_missed_of_what_the_new_application_was_given(seed: int) -> None:
    """Whatever more it was given, in any order: what it has no room for is not lost."""
    rng = np.random.default_rng(seed)
    events = outgrowing_events(rng) if seed % 2 else random_events(rng, 1.0)
    part = {source: [one for one in found if rng.random() < 0.7] for source, found in events.items()}
    assert lost(folded(_known_by_topic(part, rng)), folded(_known_by_topic(events, rng))) == Loss()


def test_of_an_erased_user_each_later_event_must_be_known_wherever_the_inputs_begin() -> None:
    """The offsets say nothing: the new application notes none of an event that it leaves out. It is behind only if it lacks an
    event that the inputs hold, and has not read as far.
    """
    erased_at = NOW - 55 * MINUTE
    erasure, erased = (Source.ERASURE, Erasure("u", erased_at, "e")), Erased(erased_at, erased_at)
    whole = {source: Place(1, 0, 0) for source in Source}
    former = folded([*EVENTS, erasure])
    again = [one for one in EVENTS if one[0] is not Source.CALL]
    assert compare(former, folded([*again, erasure]), erased, whole, 0) == (Succession.NEWER, Loss())
    behind = folded([*EVENTS[:1], *EVENTS[2:], erasure])
    assert compare(former, behind, erased, whole, 0) == (Succession.BEHIND, Loss(history=True))
    assert compare(former, behind, erased, {**whole, Source.CLICK: Place(7, 5, NO_RECORD_MS)}, 0).kind is Succession.LOST
    assert compare(former, behind, Erased(NOW, erased_at), whole, 0).kind is Succession.LOST


@pytest.mark.parametrize(
    "again",
    [
        (Source.CLICK, Click("u", NOW - 20 * MINUTE, ("b",), "another")),
        (
            Source.CALL,
            msgspec.structs.replace(world.call("call", NOW - 80 * MINUTE, NOW - 70 * MINUTE), event_id="x", has_event_id=True),
        ),
        (Source.PURCHASE, Purchase("u", NOW - 60 * MINUTE, ("item-2",), "another")),
    ],
    ids=["click", "part of a call", "purchase"],
)
def test_an_event_that_came_under_two_ids_is_noticed(again: tuple[Source, UserEvent]) -> None:
    """From a file and an input. Under one id it is known once, and one that is new is none."""
    once, new = folded(EVENTS), [(Source.CLICK, Click("u", NOW - 21 * MINUTE, ("b",), "new")), *EVENTS]
    assert not has_twice(once, folded(new))
    assert has_twice(once, folded([*new, again]))
    assert not has_twice(folded([*EVENTS, again]), folded([*new, again]))
