"""A user's history, newest examples and last list depend on the set of events, not on how their topics interleave."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.events import Click, Eligibility, Erasure, Purchase, Source, UserEvent
from tests import world

Events = dict[Source, list[UserEvent]]

moments = st.integers(0, 150).map(lambda minute: world.NOW - 200 * world.MINUTE + minute * world.MINUTE)
tags = st.lists(st.sampled_from(["home", "car", "price", "claim", "dog"]), min_size=1, max_size=3).map(tuple)
items = st.lists(st.sampled_from(world.ITEMS), min_size=1, max_size=2, unique=True).map(tuple)
session_ids = st.sampled_from([None, None, None, "s1", "s2"])


@st.composite
def user_events(draw: st.DrawFn, *, erasures: bool = False) -> Events:
    """One user's events by topic, in any order of time, within the bounds of the state."""
    clicks = draw(st.lists(st.builds(Click, st.just("u"), moments, tags, session_id=session_ids), max_size=12))
    spans = draw(st.lists(st.tuples(st.sampled_from(["c1", "c2"]), moments, st.integers(0, 20), st.integers(0, 9)), max_size=5))
    calls = [
        world.call(name, start, start + length * world.MINUTE, seed, offset=offset)
        for offset, (name, start, length, seed) in enumerate(spans)
    ]
    action = st.sampled_from(["bought", "bought", "cancelled"])
    purchases = draw(st.lists(st.builds(Purchase, st.just("u"), moments, items, action=action), max_size=4))
    lists = draw(st.lists(st.builds(Eligibility, st.just("u"), moments, items), max_size=3))
    forgotten = draw(st.lists(st.builds(Erasure, st.just("u"), moments), max_size=2)) if erasures else []
    return {
        Source.CLICK: list(clicks),
        Source.CALL: list(calls),
        Source.PURCHASE: list(purchases),
        Source.ELIGIBILITY: list(lists),
        Source.ERASURE: list(forgotten),
    }


def interleaved(events: Events, rng: np.random.Generator) -> list[tuple[Source, UserEvent]]:
    """A random interleaving of the topics that keeps each topic's order."""
    order = [source for source, sent in events.items() for _ in sent]
    rng.shuffle(order)
    queues = {source: list(sent) for source, sent in events.items()}
    return [(source, queues[source].pop(0)) for source in order]


def after(deliveries: Sequence[tuple[Source, UserEvent]]) -> world.Store:
    store = world.Store()
    world.deliver(store, deliveries, world.OrderRanker())
    return store


def assert_same(one: world.Store, other: world.Store) -> None:
    assert world.history_of(one) == world.history_of(other)
    assert one.newest_examples() == other.newest_examples()
    assert one.last_list() == other.last_list()


@settings(max_examples=150, deadline=None)
@given(user_events(), st.integers(0, 2**32))
def test_every_interleaving_gives_the_same_history_examples_and_list(events: Events, seed: int) -> None:
    """Clicks overtake calls and purchases arrive at night, but the final result is the same."""
    rng = np.random.default_rng(seed)
    assert_same(after(interleaved(events, rng)), after(interleaved(events, rng)))


@settings(max_examples=100, deadline=None)
@given(user_events(erasures=True), st.integers(0, 2**32))
def test_an_erasure_forgets_the_same_whenever_it_arrives(events: Events, seed: int) -> None:
    """Events before the erasure are forgotten and later ones stay, in whatever order they arrived."""
    rng = np.random.default_rng(seed)
    assert_same(after(interleaved(events, rng)), after(interleaved(events, rng)))


@settings(max_examples=60, deadline=None)
@given(user_events(), st.integers(0, 2**32), st.integers(1, 5))
def test_redelivery_and_other_cuts_of_batches_change_nothing(events: Events, seed: int, size: int) -> None:
    """Redelivering the records in other batches leaves the state unchanged."""
    deliveries = interleaved(events, np.random.default_rng(seed))
    once, again = after(deliveries), after(deliveries)
    for source, sent in events.items():
        numbered = list(enumerate(sent))
        for start in range(0, len(numbered), size):
            outcome = world.run(again, world.batch_of(source, numbered[start : start + size]), world.OrderRanker())
            assert not outcome.writes
            assert not outcome.recommendations
    assert_same(once, again)
