"""What a reset loses, what the inputs give again, and that who was erased stays erased while all else is applied once more."""

from typing import Any, Final

import msgspec
import pytest

from stream.core import limits
from stream.core.events import Click, Eligibility, Erasure, Feedback, Purchase, Source, UserEvent
from stream.core.feedback import UserFeedback, decode_feedback
from stream.core.outputs import decode_example
from stream.core.reset import NO_RECORD_MS, Loss, Place, gives_example, gives_list, loss_of, marker_of, merged_marker
from stream.core.state import (
    ErasureMarker,
    Facts,
    Head,
    decode_erasure_marker,
    decode_facts,
    decode_head,
    encode_state,
    erasure_marker_key,
    facts_key,
    feedback_key,
    head_key,
)
from tests import world
from tests.world import NOW, Store

MINUTE: Final = limits.MINUTE_MS
WHOLE: Final = Place(1, 0, NO_RECORD_MS)
EVENTS: Final[list[tuple[Source, UserEvent]]] = [
    (Source.CLICK, Click("u", NOW - 50 * MINUTE, ("home",), "c")),
    (Source.PURCHASE, Purchase("u", NOW - 40 * MINUTE, ("item-1",), "p")),
    (Source.ELIGIBILITY, Eligibility("u", NOW - 30 * MINUTE, ("item-2",))),
    (Source.FEEDBACK, Feedback("u", NOW - 20 * MINUTE, "web", "shown", ("item-3",), event_id="f")),
]
"""Each at offset 0 of its topic."""


def states_of(store: Store) -> tuple[Head, Facts, UserFeedback]:
    head, facts, feedback = (store.records[key(b"u")] for key in (head_key, facts_key, feedback_key))
    return decode_head(head), decode_facts(facts), decode_feedback(feedback)


def filled() -> Store:
    store = Store()
    world.deliver(store, EVENTS)
    return store


def places(**changed: Place) -> dict[Source, Place]:
    """Where the inputs are read again: whole, but for those that are named."""
    return {source: changed.get(source.value, WHOLE) for source in Source}


def test_inputs_that_hold_everything_lose_nothing() -> None:
    """Although their records may have come long after the events: they were sent from an archive."""
    assert loss_of(*states_of(filled()), places(), 0) == Loss()


@pytest.mark.parametrize(
    ("source", "at_ms", "lost"),
    [
        ("click", NOW - 50 * MINUTE, Loss(history=True)),
        ("purchase", NOW - 40 * MINUTE, Loss(owned=True)),
        ("eligibility", NOW - 30 * MINUTE, Loss(eligibility=True)),
        ("feedback", NOW - 20 * MINUTE, Loss(feedback=True)),
    ],
)
def test_what_is_older_than_the_first_record_that_is_read_again_is_lost(source: str, at_ms: int, lost: Loss) -> None:
    """By the event's own time; of another life of the topic also where the topic begins at offset 0."""
    for place in (Place(1, 1, at_ms + 1), Place(1, 1, NO_RECORD_MS), Place(7, 0, at_ms + 1)):
        assert loss_of(*states_of(filled()), places(**{source: place}), 0) == lost
    assert loss_of(*states_of(filled()), places(**{source: Place(1, 0, at_ms)}), 0) == Loss()


def test_an_item_that_was_bought_again_or_is_owned_no_more_is_not_lost() -> None:
    """What is read again gives it, or it is not there to be lost."""
    store, place = filled(), places(purchase=Place(1, 1, NOW - 39 * MINUTE))
    world.run(store, world.batch_of(Source.PURCHASE, [(1, Purchase("u", NOW - 10 * MINUTE, ("item-1",), "again"))]))
    assert not loss_of(*states_of(store), place, 0).owned
    store = filled()
    cancelled = Purchase("u", NOW - 10 * MINUTE, ("item-1",), "no", action="cancelled")
    world.run(store, world.batch_of(Source.PURCHASE, [(1, cancelled)]))
    assert not loss_of(*states_of(store), place, 0).owned


def test_an_event_ahead_of_its_kafka_timestamp_may_have_left_the_inputs() -> None:
    """Its producer's clock is ahead of the broker's, at most as far as an event may be."""
    read_again = places(click=Place(1, 1, NOW - 53 * MINUTE))
    assert loss_of(*states_of(filled()), read_again, 5 * MINUTE) == Loss(history=True)
    assert loss_of(*states_of(filled()), read_again, 3 * MINUTE) == Loss()


@pytest.mark.parametrize(
    ("taken_back", "late", "lost"),
    [
        (
            Purchase("u", NOW - 20 * MINUTE, ("item-1",), "o", "cancelled"),
            Purchase("u", NOW - 40 * MINUTE, ("item-1",), "o"),
            "owned",
        ),
        (Eligibility("u", NOW - 20 * MINUTE, ()), Eligibility("u", NOW - 30 * MINUTE, ("item-1",)), "eligibility"),
    ],
    ids=["cancellation", "empty list"],
)
def test_what_takes_an_older_event_back_is_lost_too(taken_back: Any, late: Any, lost: str) -> None:
    """The older one, as from a nightly file, came after it and is read again, so that it would hold."""
    store, source = Store(), Source.PURCHASE if lost == "owned" else Source.ELIGIBILITY
    world.deliver(store, [(source, taken_back), (source, late)])
    head, facts = (store.records[key(b"u")] for key in (head_key, facts_key))
    known = decode_head(head), decode_facts(facts), UserFeedback()
    assert not known[0].owned
    assert not known[0].excluded
    assert loss_of(*known, places(**{source.value: Place(1, 1, NOW - 10 * MINUTE)}), 0) == Loss(**{lost: True})


def test_a_list_is_given_again_if_the_last_event_of_any_input_that_causes_lists_is_read_again() -> None:
    """Feedback causes none. A log that was cut holds another record at the offset; of an erased user it is not certain."""
    head, _, _ = states_of(filled())
    gone = Place(1, 1, NO_RECORD_MS)
    assert gives_list(head, places())
    assert gives_list(head, places(click=gone, purchase=gone))
    all_gone = {"click": gone, "purchase": gone, "eligibility": gone, "call": gone}
    assert not gives_list(head, places(**all_gone))
    assert gives_list(head, places(**{**all_gone, "click": WHOLE}))
    assert not gives_list(head, places(**{**all_gone, "click": Place(1, 0, 0, ((0, 2),))}))
    assert not gives_list(head, places(**{**all_gone, "click": Place(9, 0, 0)}))
    head.erased_at = NOW - 60 * MINUTE
    assert not gives_list(head, places())


def test_an_example_is_given_again_if_its_purchase_and_an_interaction_are_certainly_read_again() -> None:
    """A record may have come to Kafka `max_ahead_ms` before its event's time."""
    (value,) = [value for value in filled().examples.values() if value is not None]
    example, clicked, bought = decode_example(value), NOW - 50 * MINUTE, NOW - 40 * MINUTE
    before = places(click=Place(1, 5, clicked - MINUTE), purchase=Place(1, 5, bought - MINUTE))
    assert gives_example(example, before, MINUTE)
    assert not gives_example(example, before, MINUTE + 1)
    assert not gives_example(example, {**before, Source.PURCHASE: Place(1, 5, bought + 1)}, 0)
    assert not gives_example(example, {**before, Source.CLICK: Place(1, 5, clicked + 1)}, 0)


ERASED: Final[list[tuple[Source, UserEvent]]] = [
    (Source.CLICK, Click("u", NOW - 50 * MINUTE, ("old",), "c1")),
    (Source.CLICK, Click("u", NOW - 40 * MINUTE, ("new",), "c2")),
    (Source.PURCHASE, Purchase("u", NOW - 35 * MINUTE, ("item-1",), "p")),
    (Source.ERASURE, Erasure("u", NOW - 45 * MINUTE, "e")),
]
"""The erasure comes last, so that its marker holds the offsets of all."""


@pytest.mark.parametrize("is_erasure_gone", [False, True])
def test_after_a_reset_an_erased_user_has_what_came_later_and_nothing_else(is_erasure_gone: bool) -> None:
    """All events are applied once more, also where the erasure has left its topic. The marker alone survived."""
    store = Store()
    world.deliver(store, ERASED)
    key = erasure_marker_key(b"u", world.settings().erasure_key)
    left = Store()
    left.records[key] = encode_state(msgspec.structs.replace(decode_erasure_marker(store.records[key]), applied={}))
    world.deliver(left, [event for event in ERASED if not (is_erasure_gone and event[0] is Source.ERASURE)])
    assert world.history_of(left) == world.history_of(store)
    assert tags(left) == {"new"}


def test_a_marker_that_an_earlier_version_lost_is_made_of_the_head() -> None:
    """It keeps the same events out; and one of an earlier erasure is not enough."""
    store = Store()
    world.deliver(store, ERASED)
    head = decode_head(store.records[head_key(b"u")])
    for before, ids in ((None, b""), (ErasureMarker(1, NOW - 60 * MINUTE, 0, {}, b"known1"), b"known1")):
        assert marker_of(head, before, NOW) == ErasureMarker(1, NOW - 45 * MINUTE, NOW, {}, ids)
    assert marker_of(head, ErasureMarker(1, NOW - 45 * MINUTE, 0, {}), NOW) is None
    assert marker_of(Head(), None, NOW) is None


def test_a_new_application_needs_a_marker_where_it_knows_of_less() -> None:
    """Of a later erasure, or of one without a time by its id, so that it erases nothing when it is sent again. What the new
    application knows besides stays.
    """
    marker = ErasureMarker(1, 50, 7, {0: (1, 9)}, b"known1")
    assert merged_marker(marker, None) == ErasureMarker(1, 50, 7, {}, b"known1")
    assert merged_marker(marker, marker) is None
    assert merged_marker(marker, ErasureMarker(1, 60, 8, {}, b"known0known1")) is None
    assert merged_marker(marker, ErasureMarker(1, 49, 8, {1: (1, 2)}, b"known1")) == ErasureMarker(1, 50, 8, {1: (1, 2)}, b"known1")
    assert merged_marker(marker, ErasureMarker(1, 60, 8, {}, b"known2")) == ErasureMarker(1, 60, 8, {}, b"known1known2")
    many = b"".join(b"known%d" % number for number in range(2, 10))
    assert merged_marker(marker, ErasureMarker(1, 50, 8, {}, many)) is None, "there is room for the new application's only"


def tags(store: Store) -> set[str]:
    sessions: list[Any] = world.history_of(store)[:-4]
    return {tag for _, _, found, _ in sessions for tag in found}
