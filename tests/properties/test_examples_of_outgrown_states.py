"""Sessions, calls and eligibility lists that outgrow the state: an example in the topic is right, or as it was.

An independent computation from the whole set of events says after each one what is right.
"""

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.events import EncodedCall, Erasure, Purchase, Source, UserEvent
from stream.core.interactions import Session
from stream.core.outputs import TrainingExample
from tests import world
from tests.properties.naive_history import expected_examples
from tests.properties.random_events import Events, outgrowing_events
from tests.properties.test_history_is_a_function_of_the_set import interleaved
from tests.world import MINUTE


@settings(max_examples=150)
@given(st.integers(0, 2**32))
def test_each_event_makes_examples_right_or_leaves_them_as_they_are(seed: int) -> None:
    """Whatever has left the state. Only a record of the purchase itself may emit an example that shows a part of what is right."""
    rng = np.random.default_rng(seed)
    events = outgrowing_events(rng)
    store = world.Store()
    so_far: Events = {source: [] for source in events}
    for source, event in interleaved(events, rng):
        before = store.newest_examples()
        world.run(store, world.batch_of(source, [(len(so_far[source]), event)]))
        so_far[source].append(event)
        now = store.newest_examples()
        wanted = {} if now == before else expected_examples(so_far)
        for key in before.keys() | now.keys():
            if now.get(key) not in (before.get(key), wanted.get(key)):
                assert source is Source.PURCHASE
                assert_shows_a_part(now[key], wanted[key])


@settings(max_examples=100)
@given(st.integers(0, 2**32))
def test_an_erasure_in_a_long_call_makes_examples_right_or_erases_them(seed: int) -> None:
    """Parts of a call overlap. An erasure goes by when they began, what the state keeps by when they ended."""
    rng = np.random.default_rng(seed)
    calls = overlapping_parts(rng)
    bought_at = world.NOW - MINUTE * int(rng.integers(0, 15))
    purchase = Purchase("u", bought_at, (world.ITEMS[0],), "p")
    erased_at = calls[int(rng.integers(len(calls)))].started_at
    store = world.Store()
    events: list[tuple[Source, UserEvent]] = [(Source.CALL, call) for call in calls]
    events.insert(sum(call.ended_at < bought_at for call in calls), (Source.PURCHASE, purchase))
    for offset, (source, event) in enumerate([*events, (Source.ERASURE, Erasure("u", erased_at))]):
        world.run(store, world.batch_of(source, [(offset, event)]))
    left = [call for call in calls if call.started_at > erased_at]
    wanted = expected_examples({**{source: [] for source in Source}, Source.CALL: left, Source.PURCHASE: [purchase]})
    assert store.newest_examples() in ({}, wanted)


def overlapping_parts(rng: np.random.Generator) -> list[EncodedCall]:
    """More parts of one call than a state keeps, by their ends."""
    begin, parts = world.NOW - 120 * MINUTE, []
    for number in range(int(rng.integers(9, 12))):
        started_at = begin + MINUTE * int(rng.integers(0, 90))
        ended_at = started_at + MINUTE * int(rng.choice([1, 20, 60]))
        call = world.call("call", started_at, ended_at, number)
        parts.append(msgspec.structs.replace(call, event_id=f"k-{number}", has_event_id=True))
    parts.sort(key=lambda call: call.ended_at)
    return [msgspec.structs.replace(call, origin_offset=offset) for offset, call in enumerate(parts)]


def assert_shows_a_part(example: TrainingExample, whole: TrainingExample) -> None:
    """All that was bought, and something of each interaction."""
    assert (example.occurred_at, example.items, example.type) == (whole.occurred_at, whole.items, whole.type)
    assert len(example.interactions) == len(whole.interactions)
    clicks, all_clicks = (
        {click for session in one.interactions if isinstance(session, Session) for click in session.clicks()}
        for one in (example, whole)
    )
    assert clicks <= all_clicks
