"""A user's history, newest examples and last list depend on the set of events alone.

They do not depend on how topics interleave, on duplicates, on the broker's timestamps or on workers that die. An independent
computation from all events at once says what they must be.
"""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.events import Source, UserEvent
from tests import world
from tests.properties.crashes import Delivery
from tests.properties.naive_history import expected
from tests.properties.random_events import Events, random_events

seeds = st.integers(0, 2**32)
sizes = st.sampled_from([1.0, 0.7, 0.4])


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


def assert_as_expected(store: world.Store, events: Events) -> None:
    wanted = expected(events, world.OrderRanker())
    assert world.history_of(store) == wanted.history
    assert store.newest_examples() == wanted.examples
    assert store.last_list() == wanted.last_list


@settings(max_examples=1_000)
@given(seeds, sizes)
def test_every_interleaving_gives_what_the_set_of_events_must_give(seed: int, size: float) -> None:
    """With duplicates of every source, erasures among them, and a different broker timestamp for each record."""
    rng = np.random.default_rng(seed)
    events = random_events(rng, size)
    assert_as_expected(Delivery(events, rng).run(crashes=0), events)


@settings(max_examples=2_500)
@given(seeds, sizes, st.integers(1, 4), st.sampled_from([None, Source.ERASURE, Source.ERASURE, *Source]))
def test_workers_that_die_between_outputs_and_states_leave_nothing_wrong(
    seed: int, size: float, crashes: int, withheld: Source | None
) -> None:
    """Histories and lists are exact, and the last record of each example's key is right, whatever dead workers sent."""
    rng = np.random.default_rng(seed)
    events = random_events(rng, size)
    assert_as_expected(Delivery(events, rng, withheld).run(crashes), events)


@settings(max_examples=60)
@given(seeds, sizes, st.integers(1, 5))
def test_redelivery_and_other_cuts_of_batches_change_nothing(seed: int, size: float, records: int) -> None:
    """Redelivering the records in other batches leaves the state unchanged."""
    rng = np.random.default_rng(seed)
    events = random_events(rng, size, erasures=False)
    store = after(interleaved(events, rng))
    for source, sent in events.items():
        numbered = list(enumerate(sent))
        for start in range(0, len(numbered), records):
            outcome = world.run(store, world.batch_of(source, numbered[start : start + records]), world.OrderRanker())
            assert not outcome.writes
            assert not outcome.recommendations
    assert_as_expected(store, events)
